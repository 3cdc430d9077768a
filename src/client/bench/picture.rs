//! Pictures made here: gradients, soft blobs of several sizes and grain, so that they compress about as photographs do.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};

use super::args::Format;
use super::random::Random;

/// Cells per side of the value noise, from blobs to texture, and their strength in levels.
const OCTAVES: [(u32, f32); 4] = [(3, 70.0), (11, 30.0), (41, 14.0), (157, 6.0)];
/// Levels of the grain that every pixel has.
const GRAIN: f32 = 6.0;

/// An encoded square picture of `side` pixels; the same for the same numbers.
///
/// # Errors
/// When it does not encode, such as a JPEG with sides over 65,535 pixels.
pub fn encoded(side: u32, format: Format, mut random: Random) -> ImageResult<Vec<u8>> {
    let pixels = pixels(side, &mut random);
    let mut bytes = Vec::new();
    match format {
        Format::Png => PngEncoder::new(&mut bytes).write_image(&pixels, side, side, ExtendedColorType::Rgb8)?,
        Format::Jpeg => {
            JpegEncoder::new_with_quality(&mut bytes, 90).write_image(&pixels, side, side, ExtendedColorType::Rgb8)?;
        }
    }
    Ok(bytes)
}

/// RGB, row by row.
fn pixels(side: u32, random: &mut Random) -> Vec<u8> {
    let tint: [f32; 3] = std::array::from_fn(|_| 60.0 + 130.0 * random.fraction());
    let slope: [[f32; 2]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| 80.0 * (random.fraction() - 0.5)));
    let layers: Vec<Layer> = OCTAVES.iter().map(|&(cells, strength)| Layer::new(cells, strength, random)).collect();
    #[expect(clippy::cast_precision_loss, reason = "sides stay far below 2^24")]
    let at = |index: u32| index as f32 / side as f32;
    let mut pixels = Vec::new();
    for y in (0..side).map(at) {
        for x in (0..side).map(at) {
            let shade: f32 = layers.iter().map(|layer| layer.at(x, y)).sum();
            let grain = GRAIN * (random.fraction() - 0.5);
            for (tint, [across, down]) in tint.iter().zip(slope) {
                let level = tint + across * x + down * y + shade + grain;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
                pixels.push(level.clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

/// One octave of value noise: random levels at the corners of a grid, linear between them.
struct Layer {
    cells: usize,
    corners: Vec<f32>,
}

impl Layer {
    fn new(cells: u32, strength: f32, random: &mut Random) -> Self {
        let corners = (0..(cells + 1) * (cells + 1)).map(|_| strength * (random.fraction() - 0.5)).collect();
        Self { cells: usize::try_from(cells).unwrap_or_default(), corners }
    }

    /// `x` and `y` in [0, 1).
    fn at(&self, x: f32, y: f32) -> f32 {
        let (column, across) = self.cell(x);
        let (row, down) = self.cell(y);
        let corner = |right: usize, below: usize| {
            self.corners.get((row + below) * (self.cells + 1) + column + right).copied().unwrap_or_default()
        };
        let top = corner(0, 0) + across * (corner(1, 0) - corner(0, 0));
        let bottom = corner(0, 1) + across * (corner(1, 1) - corner(0, 1));
        top + down * (bottom - top)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
    fn cell(&self, position: f32) -> (usize, f32) {
        let scaled = position * self.cells as f32;
        (scaled as usize, scaled.fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_decode_are_repeatable_and_do_not_compress_to_nothing() {
        for format in [Format::Png, Format::Jpeg] {
            let make = |side: u32, place: u64| encoded(side, format, Random::new(7, place)).unwrap();
            let picture = make(256, 0);
            assert_eq!(picture, make(256, 0));
            assert_ne!(picture, make(256, 1));
            let decoded = image::load_from_memory(&picture).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (256, 256));
            let bits_per_pixel = 8.0 * picture.len() as f64 / (256.0 * 256.0);
            let expected = if format == Format::Png { 6.0..20.0 } else { 0.8..5.0 };
            assert!(expected.contains(&bits_per_pixel), "{format:?}: {bits_per_pixel}");
            assert!(!make(1, 0).is_empty());
        }
    }
}
