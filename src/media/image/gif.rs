//! The first frame of a GIF. The `image` crate composes it on transparent black and keeps the size of the logical
//! screen; Pillow paints the rest of the canvas in the transparent (else the first) colour and grows the canvas to hold
//! the frame, so the indices are read here.

use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};
use ::image::{Rgb, RgbImage};

use super::corrupt;
use crate::media::cancel::CancelReader;
use crate::media::{Cancel, ImageLimits, MediaError};

/// Decodes the first frame onto its canvas.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits, cancel: &Cancel) -> Result<RgbImage, MediaError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::new(limits.max_pixels).unwrap_or(NonZeroU64::MIN)));
    let mut decoder = options.read_info(CancelReader::new(bytes, cancel)).map_err(corrupt)?;
    let screen = (u32::from(decoder.width()), u32::from(decoder.height()));

    let frame = decoder.next_frame_info().map_err(corrupt)?.ok_or_else(|| corrupt("no frame"))?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (frame_width, frame_height) = (u32::from(frame.width), u32::from(frame.height));
    let transparent = frame.transparent;
    let (width, height) = (screen.0.max(left + frame_width), screen.1.max(top + frame_height));
    limits.check_size(width, height)?;
    limits.check_size(frame_width, frame_height)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(corrupt)?;
    let palette = decoder.palette().map_err(corrupt)?;
    let mut canvas = RgbImage::from_pixel(width, height, colour(palette, transparent.unwrap_or(0)));
    for (y, row) in (top..).zip(indices.chunks_exact(frame_width as usize)) {
        cancel.check()?;
        for (x, &index) in (left..).zip(row) {
            canvas.put_pixel(x, y, colour(palette, index));
        }
    }
    Ok(canvas)
}

/// Indices beyond the palette are black, as in Pillow.
fn colour(palette: &[u8], index: u8) -> Rgb<u8> {
    let start = usize::from(index) * 3;
    palette.get(start..).and_then(<[u8]>::first_chunk).map_or(Rgb([0; 3]), |&rgb| Rgb(rgb))
}
