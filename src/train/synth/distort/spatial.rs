//! Distortions of single pictures, but for JPEG.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::train::synth::canvas::{Canvas, Noise, mix};

/// Bends all frames by the same field.
pub(super) fn warp(frames: &mut [Canvas], strength: f32, rng: &mut ChaCha8Rng) {
    let (across, down) = (Noise::new(rng), Noise::new(rng));
    for frame in frames {
        let side = frame.side as f32;
        let reach = 0.1 * strength * side;
        *frame = Canvas::paint(frame.side, |x, y| {
            let pull = |noise: &Noise| reach * noise.at(16.0 * x, 16.0 * y);
            between(frame, x * side - 0.5 + pull(&across), y * side - 0.5 + pull(&down))
        });
    }
}

/// The colour at a place between pixels.
fn between(canvas: &Canvas, x: f32, y: f32) -> [f32; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (column, row) = (left as isize, top as isize);
    let along = |row| mix(canvas.nearest(column, row), canvas.nearest(column + 1, row), x - left);
    mix(along(row), along(row + 1), y - top)
}

/// Rows, then columns.
pub(super) fn blur(canvas: &mut Canvas, strength: f32) {
    let sigma = 0.05 * strength * canvas.side as f32;
    if sigma < 0.05 {
        return;
    }
    let reach = (3.0 * sigma) as isize + 1;
    let weight = |offset: isize| libm::expf(-0.5 * (offset * offset) as f32 / (sigma * sigma));
    let weights: Vec<(isize, f32)> = (-reach..=reach).map(|offset| (offset, weight(offset))).collect();
    let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
    for (right, down) in [(1, 0), (0, 1)] {
        let source = canvas.clone();
        for (i, pixel) in canvas.pixels.iter_mut().enumerate() {
            let (x, y) = ((i % source.side) as isize, (i / source.side) as isize);
            *pixel = [0.0; 3];
            for &(offset, weight) in &weights {
                let seen = source.nearest(x + right * offset, y + down * offset);
                *pixel = [0, 1, 2].map(|channel| pixel[channel] + seen[channel] * weight / total);
            }
        }
    }
}

/// Nearly Gaussian: the sum of four uniform numbers.
pub(super) fn noise(canvas: &mut Canvas, strength: f32, rng: &mut ChaCha8Rng) {
    // A uniform number over 16 bits has a standard deviation of 2^16 / sqrt(12), the sum of four twice that.
    let scale = 90.0 * strength * libm::sqrtf(3.0) / 65_536.0;
    for value in canvas.pixels.iter_mut().flatten() {
        let bits: u64 = rng.random();
        let sum: i32 = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as i32 - 0x8000).sum();
        *value += scale * sum as f32;
    }
}

/// Rounds every value to the nearest of a few levels.
pub(super) fn banding(canvas: &mut Canvas, strength: f32) {
    if strength <= 0.0 {
        return;
    }
    let kept = 1.0 - strength;
    let step = 255.0 / (2.0 + 10.0 * kept * kept);
    for value in canvas.pixels.iter_mut().flatten() {
        *value = (*value / step).round() * step;
    }
}
