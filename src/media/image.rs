//! Encoded still images to RGB, as Pillow's `exif_transpose` then `convert("RGB")` gives them: alpha is dropped, not
//! composited; the first frame of an animation; nothing is colour-managed. Lossless formats are equal to Pillow, lossy
//! ones within rounding. One file per format that needs more than the `image` crate's decoder.

mod bmp;
mod gif;
mod header;
mod jpeg;
mod metadata;
mod tiff;

use std::fmt::Display;

use ::image::codecs::{png::PngDecoder, webp::WebPDecoder};
use ::image::{DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use self::metadata::Metadata;
use super::cancel::CancelReader;
use super::sniff::{Kind, sniff};
use super::{Cancel, ImageLimits, MediaError};

const EXPECTED: &str = "a PNG, JPEG, WebP, GIF, BMP or TIFF image";

/// Decodes the first frame of `bytes`, upright.
///
/// Both limits are checked before pixels are decoded: the pixels from the header. Bytes that end early or contradict
/// themselves are [`Corrupt`](MediaError::Corrupt), never a part of a picture.
///
/// Gives up soon after `cancel` is set: at once while it reads `bytes` piece by piece, else at the end of a step (a
/// WebP's pixels come from bytes that were read before, as do the last colour conversions of a JPEG).
pub fn decode_image(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<RgbImage, MediaError> {
    cancel.check()?;
    decode(bytes, limits, cancel).map_err(|error| match cancel.is_cancelled() {
        // A decoder whose reader fails blames the bytes.
        true => MediaError::Cancelled,
        false => error,
    })
}

fn decode(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<RgbImage, MediaError> {
    limits.check_bytes(bytes.len())?;
    let kind = sniff(bytes).ok_or(MediaError::UnknownFormat { expected: EXPECTED })?;
    if let Some((width, height)) = header::declared_size(kind, bytes) {
        limits.check_size(width, height)?;
    }
    let (picture, metadata) = match kind {
        Kind::Png => decode_png(bytes, limits, cancel)?,
        Kind::WebP => decode_webp(bytes, limits, cancel)?,
        Kind::Bmp => (bmp::decode(bytes, limits, cancel)?, Metadata::default()),
        Kind::Jpeg => jpeg::decode(bytes, limits, cancel)?,
        Kind::Gif => (gif::decode(bytes, limits, cancel)?, Metadata::default()),
        Kind::Tiff => tiff::decode(bytes, limits, cancel)?,
        other => return Err(MediaError::WrongKind { found: other.name().to_owned(), expected: EXPECTED }),
    };
    cancel.check()?;
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(metadata.orientation());
    Ok(picture.into_rgb8())
}

fn decode_png(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<(RgbImage, Metadata), MediaError> {
    let reader = CancelReader::new(bytes, cancel);
    let decoder = PngDecoder::with_limits(reader, codec_limits(limits)).map_err(image_error(limits))?;
    let (mut picture, mut metadata) = read(decoder, limits)?;
    cancel.check()?;
    metadata.exif = metadata::png_exif(bytes)?;
    // One transparent shade turns grey into grey with alpha in the decoder. In Pillow it stays grey.
    let is_grey = bytes.get(25) == Some(&0);
    if is_grey && let DynamicImage::ImageLumaA16(_) = picture {
        picture = DynamicImage::ImageLuma16(picture.into_luma16());
    }
    Ok((to_rgb(picture)?, metadata))
}

fn decode_webp(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<(RgbImage, Metadata), MediaError> {
    // The decoder is content with a picture whose file ends early.
    let declared = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |&size| u64::from(u32::from_le_bytes(size)));
    if (bytes.len() as u64) < declared + 8 {
        return Err(corrupt("the file ends early"));
    }
    let is_extended = bytes.get(12..16) == Some(b"VP8X");
    if is_extended {
        header::vp8_sizes(bytes).try_for_each(|(width, height)| limits.check_size(width, height))?;
        if header::frame_with_alpha(bytes).is_some_and(|[declared, coded]| declared != coded) {
            return Err(corrupt("the first frame has another size than it declares"));
        }
    }
    let decoder = WebPDecoder::new(CancelReader::new(bytes, cancel)).map_err(image_error(limits))?;
    let (picture, metadata) = read(decoder, limits)?;
    cancel.check()?;
    Ok((picture.into_rgb8(), metadata))
}

/// Runs one of the `image` crate's decoders within `limits`.
fn read(mut decoder: impl ImageDecoder, limits: &ImageLimits) -> Result<(DynamicImage, Metadata), MediaError> {
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    decoder.set_limits(codec_limits(limits)).map_err(image_error(limits))?;
    let metadata = Metadata {
        // Damage in what surrounds the picture is no reason to refuse the picture.
        exif: decoder.exif_metadata().ok().flatten(),
        xmp: decoder.xmp_metadata().ok().flatten(),
        orientation: None,
    };
    let picture = DynamicImage::from_decoder(decoder).map_err(image_error(limits))?;
    Ok((picture, metadata))
}

fn codec_limits(limits: &ImageLimits) -> Limits {
    let mut codec_limits = Limits::no_limits();
    codec_limits.max_alloc = Some(limits.max_memory());
    codec_limits
}

/// Drops alpha and narrows to 8 bits as Pillow does: the high byte of 16-bit colour, but 16-bit grey is clipped.
fn to_rgb(picture: DynamicImage) -> Result<RgbImage, MediaError> {
    fn narrow<const N: usize>(
        width: u32,
        height: u32,
        samples: &[u16],
        rgb: [usize; 3],
    ) -> Result<RgbImage, MediaError> {
        let bytes = samples.as_chunks::<N>().0.iter().flat_map(|pixel| rgb.map(|channel| high_byte(pixel[channel])));
        from_raw(width, height, bytes.collect())
    }
    let (width, height) = (picture.width(), picture.height());
    match picture {
        DynamicImage::ImageLuma16(grey) => {
            from_raw(width, height, grey.as_raw().iter().flat_map(|&sample| [clip(sample); 3]).collect())
        }
        DynamicImage::ImageLumaA16(grey) => narrow::<2>(width, height, grey.as_raw(), [0, 0, 0]),
        DynamicImage::ImageRgb16(colour) => narrow::<3>(width, height, colour.as_raw(), [0, 1, 2]),
        DynamicImage::ImageRgba16(colour) => narrow::<4>(width, height, colour.as_raw(), [0, 1, 2]),
        other => Ok(other.into_rgb8()),
    }
}

fn high_byte(sample: u16) -> u8 {
    (sample >> 8) as u8
}

/// Pillow holds 16-bit grey as the integers that they are and clips them on the way to RGB.
fn clip(sample: u16) -> u8 {
    sample.min(255) as u8
}

/// CMYK (0 is no ink) to RGB as Pillow does it, without colour management.
fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// An image of `width * height * 3` bytes; fewer are [`Corrupt`](MediaError::Corrupt).
fn from_raw(width: u32, height: u32, rgb: Vec<u8>) -> Result<RgbImage, MediaError> {
    let found = rgb.len();
    RgbImage::from_raw(width, height, rgb)
        .ok_or_else(|| corrupt(format!("{found} bytes of colour for {width}x{height} pixels")))
}

fn corrupt(reason: impl Display) -> MediaError {
    MediaError::Corrupt { reason: reason.to_string() }
}

fn image_error(limits: &ImageLimits) -> impl Fn(ImageError) -> MediaError {
    let limit = limits.max_memory();
    move |error| match error {
        ImageError::Limits(_) => MediaError::TooMuchMemory { limit },
        other => corrupt(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_colours_are_no_picture() {
        assert!(from_raw(2, 2, vec![9; 12]).is_ok());
        assert!(matches!(from_raw(2, 2, vec![9; 11]), Err(MediaError::Corrupt { .. })));
    }
}
