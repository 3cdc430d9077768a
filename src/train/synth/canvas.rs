//! A square picture in floating point, and smooth noise to paint with.
//!
//! Nothing here, nor in what paints on it, calls the platform's mathematics library: `libm` rounds the same everywhere.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Red, green and blue, 0 to 255.
pub(super) type Rgb = [f32; 3];

/// A picture, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Canvas {
    pub(super) side: usize,
    pub(super) pixels: Vec<Rgb>,
}

impl Canvas {
    /// Every pixel as `colour` says for its centre, of which both coordinates are in (0, 1).
    pub(super) fn paint(side: usize, colour: impl Fn(f32, f32) -> Rgb) -> Self {
        let at = |i: usize| (i as f32 + 0.5) / side as f32;
        let pixels = (0..side * side).map(|i| colour(at(i % side), at(i / side))).collect();
        Self { side, pixels }
    }

    /// From packed 8-bit RGB.
    pub(super) fn from_bytes(side: usize, rgb: &[u8]) -> Self {
        let pixels = rgb.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]].map(f32::from)).collect();
        Self { side, pixels }
    }

    /// Packed 8-bit RGB; what is darker than black or brighter than white is clipped.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.pixels.iter().flatten().map(|value| (value + 0.5).clamp(0.0, 255.0) as u8).collect()
    }

    /// At half its side, which is even: the mean of every four pixels.
    pub(super) fn halved(&self) -> Self {
        let side = self.side / 2;
        let mean = |i: usize| {
            let (x, y) = (2 * (i % side), 2 * (i / side));
            let four = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)].map(|(x, y)| self.pixels[y * self.side + x]);
            [0, 1, 2].map(|channel| four.iter().map(|pixel| pixel[channel]).sum::<f32>() / 4.0)
        };
        Self { side, pixels: (0..side * side).map(mean).collect() }
    }

    /// In `light` times as much light.
    pub(super) fn lit(&self, light: f32) -> Self {
        Self { side: self.side, pixels: self.pixels.iter().map(|pixel| pixel.map(|value| value * light)).collect() }
    }

    /// The pixel nearest to a place that may lie outside.
    pub(super) fn nearest(&self, x: isize, y: isize) -> Rgb {
        let last = self.side as isize - 1;
        self.pixels[(y.clamp(0, last) * self.side as isize + x.clamp(0, last)) as usize]
    }
}

/// `a` where `t` is 0, `b` where it is 1.
pub(super) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * t)
}

/// `colour` with `light` added to all its channels.
pub(super) fn lit(colour: Rgb, light: f32) -> Rgb {
    colour.map(|value| value + light)
}

/// 0 up to `low`, 1 from `high` on, smooth between them.
pub(super) fn ramp(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

const TABLE: usize = 256;

/// Smooth random values over the plane: random numbers at whole coordinates, interpolated between them.
pub(super) struct Noise {
    values: Vec<f32>,
    order: Vec<usize>,
}

impl Noise {
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Self {
        let values = (0..TABLE).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut order: Vec<usize> = (0..TABLE).collect();
        for i in (1..TABLE).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        Self { values, order }
    }

    /// The random number of a whole coordinate, -1 to 1.
    pub(super) fn cell(&self, x: i32, y: i32) -> f32 {
        let wrap = |value: i32| value.rem_euclid(TABLE as i32) as usize;
        let row = self.order[wrap(y)];
        self.values[self.order[(row + wrap(x)) % TABLE]]
    }

    /// -1 to 1.
    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let (u, v) = (ramp(0.0, 1.0, x - left), ramp(0.0, 1.0, y - top));
        let (i, j) = (left as i32, top as i32);
        let row = |j: i32| self.cell(i, j) * (1.0 - u) + self.cell(i + 1, j) * u;
        row(j) * (1.0 - v) + row(j + 1) * v
    }

    /// Octaves of it, each of half the size and half the strength of the one before, as in nature: -1 to 1.
    pub(super) fn fractal(&self, x: f32, y: f32, octaves: u32) -> f32 {
        let mut sum = 0.0;
        let (mut scale, mut strength) = (1.0, 0.5);
        for octave in 0..octaves {
            let shift = 17.0 * octave as f32;
            sum += strength * self.at(x * scale + shift, y * scale + shift);
            scale *= 2.0;
            strength *= 0.5;
        }
        sum
    }
}
