//! BMP through the `image` crate, with 16-bit colours widened as Pillow widens them.

use ::image::RgbImage;
use ::image::codecs::bmp::BmpDecoder;

use super::{image_error, read};
use crate::media::cancel::CancelReader;
use crate::media::{Cancel, ImageLimits, MediaError};

/// Decodes a BMP.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<RgbImage, MediaError> {
    let decoder = BmpDecoder::new(CancelReader::new(bytes, cancel)).map_err(image_error(limits))?;
    let (picture, _) = read(decoder, limits)?;
    cancel.check()?;
    let mut picture = picture.into_rgb8();
    if let Some(green_bits) = green_bits(bytes) {
        for pixel in picture.pixels_mut() {
            pixel.0 =
                [narrow_and_widen(pixel[0], 5), narrow_and_widen(pixel[1], green_bits), narrow_and_widen(pixel[2], 5)];
        }
    }
    Ok(picture)
}

/// Bits of green in a 16-bit BMP: 6 where its masks say 5-6-5, else 5. `None` at other depths.
fn green_bits(bytes: &[u8]) -> Option<u32> {
    const BITFIELDS: [u8; 4] = [3, 0, 0, 0];
    const GREEN_OF_565: [u8; 4] = [0xe0, 0x07, 0, 0];
    if bytes.get(28..30)? != [16, 0] {
        return None;
    }
    let is_565 = bytes.get(30..34) == Some(&BITFIELDS) && bytes.get(58..62) == Some(&GREEN_OF_565);
    Some(if is_565 { 6 } else { 5 })
}

/// The `image` crate rounds when it widens a colour to 8 bits, Pillow cuts off. The upper bits are the colour as stored.
fn narrow_and_widen(level: u8, bits: u32) -> u8 {
    let stored = u32::from(level) >> (8 - bits);
    (stored * 255 / ((1 << bits) - 1)) as u8
}
