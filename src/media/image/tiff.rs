//! The first page of a TIFF. The `image` crate refuses palettes and 2- and 4-bit grey and converts CMYK otherwise than
//! Pillow, so the samples come from the `tiff` crate and are converted here.

use std::borrow::Cow;

use ::image::RgbImage;
use ::image::metadata::Orientation;
use ::tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use super::metadata::Metadata;
use super::{clip, cmyk_to_rgb, corrupt, from_raw, high_byte};
use crate::media::cancel::CancelReader;
use crate::media::{Cancel, ImageLimits, MediaError};

const XMP: Tag = Tag::Unknown(700);
const ASSOCIATED_ALPHA: u16 = 1;
const RGB_PALETTE: u16 = 3;
const JPEG: u16 = 7;

type Reader<'a> = Decoder<CancelReader<'a>>;

/// Decodes the first page.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<(RgbImage, Metadata), MediaError> {
    let failure = tiff_error(limits);
    let mut decoder = open(bytes, limits, cancel)?;
    let interpretation = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(&failure)?;
    let grey;
    let mut palette = None;
    if interpretation == Some(RGB_PALETTE) {
        palette = Some(decoder.get_tag_u16_vec(Tag::ColorMap).map_err(&failure)?);
        grey = palette_as_grey(bytes)?;
        decoder = open(&grey, limits, cancel)?;
    }
    let (width, height) = decoder.dimensions().map_err(&failure)?;
    let metadata = Metadata {
        exif: None,
        xmp: decoder.get_tag_u8_vec(XMP).ok(),
        orientation: decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten().and_then(Orientation::from_exif),
    };
    let colour = decoder.colortype().map_err(&failure)?;
    let extra_samples = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(&failure)?.unwrap_or_default();

    if decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(&failure)? == Some(JPEG) {
        check_jpegs(&mut decoder, bytes, limits)?;
    }
    let mut buffer = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut buffer).map_err(&failure)?;
    let samples = Samples::new(&buffer, &layout, width, colour)?;
    if samples.bytes_held() < layout.complete_len {
        return Err(MediaError::TooMuchMemory { limit: limits.max_memory() });
    }
    let premultiplied = extra_samples.first() == Some(&ASSOCIATED_ALPHA);
    let to_rgb = converter(colour, palette.as_deref(), premultiplied)?;
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height as usize {
        cancel.check()?;
        for x in 0..width as usize {
            let pixel = samples.pixel(x, y).ok_or_else(|| corrupt("too few samples"))?;
            rgb.extend(to_rgb(pixel));
        }
    }
    Ok((from_raw(width, height, rgb)?, metadata))
}

/// Reads the first directory and checks the size that it declares.
fn open<'a>(bytes: &'a [u8], limits: &ImageLimits, cancel: &'a Cancel) -> Result<Reader<'a>, MediaError> {
    let mut codec_limits = Limits::default();
    let max_memory = usize::try_from(limits.max_memory()).unwrap_or(usize::MAX);
    // They are held at the same time.
    codec_limits.decoding_buffer_size = max_memory / 2;
    codec_limits.intermediate_buffer_size = max_memory / 2;
    let failure = tiff_error(limits);
    let mut decoder = Decoder::new(CancelReader::new(bytes, cancel)).map_err(&failure)?.with_limits(codec_limits);
    let (width, height) = decoder.dimensions().map_err(&failure)?;
    limits.check_size(width, height)?;
    Ok(decoder)
}

/// Checks the sizes that the strips or tiles of a JPEG-compressed TIFF declare. The `tiff` crate decodes each as large
/// as it says it is, with the parser used here, and takes from it what belongs in the picture. Damage is left to it.
fn check_jpegs(decoder: &mut Reader, bytes: &[u8], limits: &ImageLimits) -> Result<(), MediaError> {
    // Tables that all share. They open with a JPEG's first marker, in place of the strip's own, and end with its last.
    let tables = decoder.get_tag_u8_vec(Tag::JPEGTables).unwrap_or_default();
    let tables = tables.get(..tables.len().saturating_sub(2)).filter(|tables| !tables.is_empty());
    for (offsets, lengths) in [(Tag::StripOffsets, Tag::StripByteCounts), (Tag::TileOffsets, Tag::TileByteCounts)] {
        let offsets = decoder.get_tag_u64_vec(offsets).unwrap_or_default();
        let lengths = decoder.get_tag_u64_vec(lengths).unwrap_or_default();
        for (offset, length) in offsets.into_iter().zip(lengths) {
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
            // A length beyond the file's end means what there is.
            let jpeg = rest.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(rest);
            let jpeg = match tables {
                Some(tables) => Cow::Owned([tables, jpeg.get(2..).unwrap_or_default()].concat()),
                None => Cow::Borrowed(jpeg),
            };
            let mut header = JpegDecoder::new(ZCursor::new(&*jpeg));
            if header.decode_headers().is_ok()
                && let Some((width, height)) = header.dimensions()
            {
                let side = |side| u32::try_from(side).unwrap_or(u32::MAX);
                limits.check_size(side(width), side(height))?;
            }
        }
    }
    Ok(())
}

fn tiff_error(limits: &ImageLimits) -> impl Fn(TiffError) -> MediaError {
    let limit = limits.max_memory();
    move |error| match error {
        TiffError::LimitsExceeded => MediaError::TooMuchMemory { limit },
        TiffError::FormatError(::tiff::TiffFormatError::InvalidDimensions(width, height)) => {
            MediaError::ZeroSized { width, height }
        }
        other => corrupt(other),
    }
}

/// The file with its interpretation changed from palette to grey: the `tiff` crate then hands out the palette's
/// indices, which it refuses to do for a palette.
fn palette_as_grey(bytes: &[u8]) -> Result<Vec<u8>, MediaError> {
    let at = interpretation_offset(bytes).ok_or_else(|| corrupt("palettes are not supported in BigTIFF"))?;
    let mut grey = bytes.to_vec();
    // BlackIsZero is 1, as a 16-bit number in the file's byte order.
    let value = if bytes.starts_with(b"II") { [1, 0] } else { [0, 1] };
    if let Some(place) = grey.get_mut(at..at + 2) {
        place.copy_from_slice(&value);
    }
    Ok(grey)
}

/// Where the first directory of a classic TIFF keeps the value of PhotometricInterpretation.
fn interpretation_offset(bytes: &[u8]) -> Option<usize> {
    const INTERPRETATION: u16 = 262;
    let little = bytes.starts_with(b"II");
    let short = |at: usize| {
        let pair = bytes.get(at..)?.first_chunk().copied()?;
        Some(if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    if short(2)? != 42 {
        return None;
    }
    let quad = bytes.get(4..)?.first_chunk().copied()?;
    let directory = usize::try_from(if little { u32::from_le_bytes(quad) } else { u32::from_be_bytes(quad) }).ok()?;
    let entries = (0..usize::from(short(directory)?)).map(|entry| directory + 2 + entry * 12);
    entries.into_iter().find(|&entry| short(entry) == Some(INTERPRETATION)).map(|entry| entry + 8)
}

/// One pixel's first four samples, as wide as the file holds them.
type Pixel = [u16; 4];

/// What turns one pixel into RGB as Pillow does.
fn converter(
    colour: ColorType,
    palette: Option<&[u16]>,
    premultiplied: bool,
) -> Result<Box<dyn Fn(Pixel) -> [u8; 3] + '_>, MediaError> {
    if let Some(palette) = palette {
        let bits = colour.bit_depth();
        if bits != 8 && !matches!(colour, ColorType::Gray(1 | 2 | 4)) {
            return Err(corrupt(format!("palettes of {bits} bits are not supported")));
        }
        // The colour map holds all reds, then all greens, then all blues, 16 bits each.
        let colours = palette.len() / 3;
        let entry = move |index: usize| palette.get(index).map_or(0, |&level| high_byte(level));
        return Ok(Box::new(move |[index, ..]| [0, 1, 2].map(|channel| entry(channel * colours + usize::from(index)))));
    }
    let narrow = match colour.bit_depth() {
        16 => high_byte,
        _ => clip,
    };
    Ok(match colour {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) => {
            let step = 255 / ((1 << bits) - 1);
            Box::new(move |[grey, ..]| [clip(grey * step); 3])
        }
        ColorType::Gray(16) => Box::new(|[grey, ..]| [clip(grey); 3]),
        ColorType::Multiband { bit_depth: 8, num_samples: 2 } => Box::new(|[grey, ..]| [clip(grey); 3]),
        ColorType::RGBA(8 | 16) if premultiplied => Box::new(move |pixel| unmultiply(pixel.map(narrow))),
        ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16) => Box::new(move |[r, g, b, _]| [r, g, b].map(narrow)),
        ColorType::CMYK(8 | 16) => Box::new(move |pixel| cmyk_to_rgb(pixel.map(narrow))),
        other => return Err(corrupt(format!("the colour type {other:?} is not supported"))),
    })
}

fn unmultiply([r, g, b, alpha]: [u8; 4]) -> [u8; 3] {
    match u16::from(alpha) {
        0 => [0; 3],
        alpha => [r, g, b].map(|level| (u16::from(level) * 255 / alpha).min(255) as u8),
    }
}

/// Decoded samples with their layout.
struct Samples<'a> {
    values: Values<'a>,
    /// Bits of one sample.
    bits: usize,
    /// Bytes of one row of one plane.
    row_stride: usize,
    /// Bytes of one plane; samples are interleaved within a plane.
    plane_stride: usize,
    planes: usize,
    /// Samples per pixel within one plane.
    interleaved: usize,
}

enum Values<'a> {
    Bytes(&'a [u8]),
    Shorts(&'a [u16]),
}

impl<'a> Samples<'a> {
    fn new(
        buffer: &'a DecodingResult,
        layout: &BufferLayoutPreference,
        width: u32,
        colour: ColorType,
    ) -> Result<Self, MediaError> {
        let values = match buffer {
            DecodingResult::U8(bytes) => Values::Bytes(bytes),
            DecodingResult::U16(shorts) => Values::Shorts(shorts),
            _ => return Err(corrupt("only unsigned samples of up to 16 bits are supported")),
        };
        let bits = usize::from(colour.bit_depth());
        let row_stride = layout.row_stride.map_or(0, |stride| stride.get());
        let plane_stride = layout.plane_stride.map_or(0, |stride| stride.get());
        let interleaved = (row_stride * 8 / (bits.max(1) * width as usize)).max(1);
        let interleaved = if bits < 8 { 1 } else { interleaved };
        Ok(Self { values, bits, row_stride, plane_stride, planes: layout.planes, interleaved })
    }

    fn bytes_held(&self) -> usize {
        match self.values {
            Values::Bytes(bytes) => bytes.len(),
            Values::Shorts(shorts) => shorts.len() * 2,
        }
    }

    /// The first four samples of a pixel; those that it does not have are 0.
    fn pixel(&self, x: usize, y: usize) -> Option<Pixel> {
        let mut pixel = Pixel::default();
        if self.bits < 8 {
            let Values::Bytes(bytes) = self.values else { return None };
            let bit = x * self.bits;
            let byte = u16::from(*bytes.get(y * self.row_stride + bit / 8)?);
            pixel[0] = (byte >> (8 - self.bits - bit % 8)) & ((1 << self.bits) - 1);
            return Some(pixel);
        }
        let per_pixel = self.interleaved.max(self.planes);
        for (sample, value) in pixel.iter_mut().enumerate().take(per_pixel) {
            let (plane, within) = if self.planes > 1 { (sample, 0) } else { (0, sample) };
            let start = plane * self.plane_stride + y * self.row_stride;
            let offset = x * self.interleaved + within;
            *value = match self.values {
                Values::Bytes(bytes) => u16::from(*bytes.get(start + offset)?),
                Values::Shorts(shorts) => *shorts.get(start / 2 + offset)?,
            };
        }
        Some(pixel)
    }
}
