//! JPEG through `jpeg-decoder` rather than the `image` crate's decoder (zune-jpeg), for two measured reasons: against
//! Pillow's libjpeg-turbo it stays within 5 levels where the other reaches 6, and it refuses the truncated files that
//! Pillow refuses where the other returns half a picture. (Not within 5 levels: pictures up to 4 pixels wide with
//! subsampled chroma, where libjpeg-turbo repeats chroma instead of interpolating it.)

use ::image::RgbImage;
use jpeg_decoder::{Decoder, PixelFormat};

use super::metadata::Metadata;
use super::{cmyk_to_rgb, corrupt, from_raw, high_byte};
use crate::media::cancel::CancelReader;
use crate::media::{Cancel, ImageLimits, MediaError};

/// Decodes a JPEG. Its size is taken from the parser that decodes it: two parsers need not agree on where the frame
/// header stands.
///
/// The limit on pixels bounds the memory, too: per pixel and component 2 bytes of coefficients (progressive only), 1 of
/// a plane and 1 of output, at 4 components 16 bytes, and less than that again in rows on their way to a thread.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<(RgbImage, Metadata), MediaError> {
    const MAX_COMPONENTS: u64 = 4;
    check_scans(bytes)?;
    let mut decoder = Decoder::new(CancelReader::new(bytes, cancel));
    decoder.read_info().map_err(corrupt)?;
    let info = decoder.info().ok_or_else(|| corrupt("the frame header is missing"))?;
    limits.check_size(info.width.into(), info.height.into())?;
    let max_output = limits.max_pixels.saturating_mul(MAX_COMPONENTS);
    decoder.set_max_decoding_buffer_size(usize::try_from(max_output).unwrap_or(usize::MAX));
    let pixels = decoder.decode().map_err(corrupt)?;
    let metadata = Metadata {
        exif: decoder.exif_data().map(<[u8]>::to_vec),
        xmp: decoder.xmp_data().map(<[u8]>::to_vec),
        orientation: None,
    };
    // With its coefficients.
    drop(decoder);
    cancel.check()?;
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.iter().flat_map(|&level| [level; 3]).collect(),
        PixelFormat::L16 => {
            let samples = pixels.as_chunks::<2>().0.iter().map(|&sample| u16::from_ne_bytes(sample));
            samples.flat_map(|sample| [high_byte(sample); 3]).collect()
        }
        PixelFormat::CMYK32 => pixels.as_chunks::<4>().0.iter().flat_map(|&pixel| cmyk_to_rgb(pixel)).collect(),
    };
    Ok((from_raw(info.width.into(), info.height.into(), rgb)?, metadata))
}

/// A progressive JPEG may go over all its pixels in every scan, and a scan costs the sender a dozen bytes: their number
/// bounds the time. Encoders make about ten. Counted are start-of-scan markers wherever they stand, so that metadata
/// may bring a few of its own.
fn check_scans(bytes: &[u8]) -> Result<(), MediaError> {
    const MAX_SCANS: usize = 500;
    let scans = bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).take(MAX_SCANS + 1).count();
    if scans > MAX_SCANS {
        return Err(corrupt(format!("it has more than {MAX_SCANS} scans")));
    }
    Ok(())
}
