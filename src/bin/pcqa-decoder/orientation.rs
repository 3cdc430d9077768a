//! How a clip's frames must be turned, from its display matrix, by the same rules as ffmpeg's command line.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;

use crate::shared::protocol::Refusal;

/// First transpose (swap x and y), then mirror. The default leaves frames as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation {
    /// Rows become columns.
    transpose: bool,
    /// The source's columns are read from the right.
    mirror_columns: bool,
    /// The source's rows are read from below.
    mirror_rows: bool,
}

impl Orientation {
    /// Reads the nine 32-bit numbers of a display matrix. Angles that are no multiple of 90 degrees are left alone.
    pub fn from_display_matrix(bytes: &[u8]) -> Self {
        let number = |i: usize| bytes.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        let (Some(a), Some(b), Some(c), Some(d)) = (number(0), number(1), number(3), number(4)) else {
            return Self::default();
        };
        let horizontal = f64::from(a).hypot(f64::from(c));
        let vertical = f64::from(b).hypot(f64::from(d));
        if horizontal == 0.0 || vertical == 0.0 {
            return Self::default();
        }
        let degrees = (f64::from(b) / vertical).atan2(f64::from(a) / horizontal).to_degrees().round();
        let (transpose, mirror_columns, mirror_rows) = match degrees.rem_euclid(360.0) as u32 {
            90 => (true, false, c <= 0),
            180 => (false, a < 0, d < 0),
            270 => (true, true, c < 0),
            0 => (false, false, d < 0),
            _ => (false, false, false),
        };
        Self { transpose, mirror_columns, mirror_rows }
    }

    /// Whether frames stay as they are.
    pub fn is_upright(self) -> bool {
        self == Self::default()
    }

    /// Size of a turned `width * height` picture.
    pub fn size(self, width: u32, height: u32) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Turns a frame plane by plane, so that its chroma is turned, not resampled; `None` where the planes' layout does
    /// not allow it and the frame must become RGB first.
    pub fn turn_planes(self, frame: &frame::Video) -> Result<Option<frame::Video>, Refusal> {
        let Some(sample_bytes) = self.sample_bytes(frame.format()) else { return Ok(None) };
        let (width, height) = self.size(frame.width(), frame.height());
        let mut turned = frame::Video::new(frame.format(), width, height);
        if turned.planes() != frame.planes() {
            return Err(Refusal::TooMuchMemory);
        }
        turned.set_color_space(frame.color_space());
        turned.set_color_range(frame.color_range());
        for plane in 0..frame.planes() {
            let source = Plane {
                bytes: frame.data(plane),
                stride: frame.stride(plane),
                width: frame.plane_width(plane) as usize,
                height: frame.plane_height(plane) as usize,
            };
            let stride = turned.stride(plane);
            self.turn(&source, sample_bytes, turned.data_mut(plane), stride);
        }
        Ok(Some(turned))
    }

    /// Turns packed RGB.
    pub fn turn_rgb(self, rgb: &[u8], width: u32, height: u32) -> Vec<u8> {
        let (width, height) = (width as usize, height as usize);
        let stride = if self.transpose { height } else { width } * 3;
        let mut turned = vec![0; rgb.len()];
        self.turn(&Plane { bytes: rgb, stride: width * 3, width, height }, 3, &mut turned, stride);
        turned
    }

    fn turn(self, source: &Plane<'_>, sample: usize, target: &mut [u8], stride: usize) {
        let (width, height) =
            if self.transpose { (source.height, source.width) } else { (source.width, source.height) };
        for (y, row) in target.chunks_mut(stride).take(height).enumerate() {
            for (x, out) in row.chunks_exact_mut(sample).take(width).enumerate() {
                let (mut row, mut column) = if self.transpose { (x, y) } else { (y, x) };
                if self.mirror_rows {
                    row = source.height - 1 - row;
                }
                if self.mirror_columns {
                    column = source.width - 1 - column;
                }
                let at = row * source.stride + column * sample;
                out.copy_from_slice(&source.bytes[at..at + sample]);
            }
        }
    }

    /// Bytes per sample of planar formats whose planes this can turn each by itself.
    fn sample_bytes(self, format: Pixel) -> Option<usize> {
        match format {
            Pixel::YUV420P | Pixel::YUVJ420P | Pixel::YUV444P | Pixel::YUVJ444P | Pixel::GBRP | Pixel::GRAY8 => Some(1),
            Pixel::YUV420P10LE | Pixel::YUV420P12LE | Pixel::YUV444P10LE | Pixel::YUV444P12LE => Some(2),
            // Transposing would need 4:4:0.
            Pixel::YUV422P | Pixel::YUVJ422P if !self.transpose => Some(1),
            Pixel::YUV422P10LE | Pixel::YUV422P12LE if !self.transpose => Some(2),
            _ => None,
        }
    }
}

struct Plane<'a> {
    bytes: &'a [u8],
    stride: usize,
    width: usize,
    height: usize,
}
