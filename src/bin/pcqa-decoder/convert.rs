//! Decoded frames to upright packed RGB, with the numbers that ffmpeg's command line gives.

use crate::shared::protocol::Refusal;
use ffmpeg_next::color;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{Context, Flags};

use crate::demux::refusal;
use crate::ffi;
use crate::orientation::Orientation;

/// An upright picture.
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height * 3` bytes, row by row.
    pub rgb: Vec<u8>,
}

/// What a scaler is made for.
#[derive(PartialEq)]
struct Shape {
    format: Pixel,
    width: u32,
    height: u32,
    space: color::Space,
    range: color::Range,
}

/// Converts the frames of one clip; keeps its scaler while the frames stay alike.
pub struct Converter {
    orientation: Orientation,
    scaler: Option<(Shape, Context)>,
}

impl Converter {
    /// A converter that turns frames to `orientation`.
    pub fn new(orientation: Orientation) -> Self {
        Self { orientation, scaler: None }
    }

    /// Converts one frame. As on ffmpeg's command line, frames are turned before their colours are converted.
    pub fn convert(&mut self, frame: &frame::Video) -> Result<Picture, Refusal> {
        if self.orientation.is_upright() {
            return self.packed_rgb(frame);
        }
        if let Some(turned) = self.orientation.turn_planes(frame)? {
            return self.packed_rgb(&turned);
        }
        let picture = self.packed_rgb(frame)?;
        let (width, height) = self.orientation.size(picture.width, picture.height);
        let rgb = self.orientation.turn_rgb(&picture.rgb, picture.width, picture.height);
        Ok(Picture { width, height, rgb })
    }

    fn packed_rgb(&mut self, frame: &frame::Video) -> Result<Picture, Refusal> {
        let (width, height) = (frame.width(), frame.height());
        let mut output = frame::Video::new(Pixel::RGB24, width, height);
        if output.planes() == 0 {
            return Err(Refusal::TooMuchMemory);
        }
        self.scaler(frame)?.run(frame, &mut output).map_err(refusal)?;
        let row_bytes = width as usize * 3;
        let mut rgb = Vec::new();
        rgb.try_reserve_exact(row_bytes * height as usize).map_err(|_| Refusal::TooMuchMemory)?;
        for row in output.data(0).chunks(output.stride(0)) {
            rgb.extend_from_slice(&row[..row_bytes]);
        }
        Ok(Picture { width, height, rgb })
    }

    fn scaler(&mut self, frame: &frame::Video) -> Result<&mut Context, Refusal> {
        let shape = Shape {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            space: frame.color_space(),
            range: frame.color_range(),
        };
        let scaler = match self.scaler.take() {
            Some((made_for, scaler)) if made_for == shape => scaler,
            _ => new_scaler(&shape)?,
        };
        Ok(&mut self.scaler.insert((shape, scaler)).1)
    }
}

/// Bicubic without further flags is the command line's default; it decides how chroma is brought to full size.
fn new_scaler(shape: &Shape) -> Result<Context, Refusal> {
    let Shape { format, width, height, space, range } = *shape;
    let mut scaler =
        Context::get(format, width, height, Pixel::RGB24, width, height, Flags::BICUBIC).map_err(refusal)?;
    ffi::set_input_colors(&mut scaler, space, range);
    Ok(scaler)
}
