//! Encoded still images to RGB, as Pillow's `exif_transpose` then `convert("RGB")`.

use ::image::RgbImage;

use super::{ImageLimits, MediaError};

/// Decodes the first frame of `bytes`, upright.
pub fn decode_image(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, MediaError> {
    let _ = (bytes, limits);
    todo!()
}
