//! Resizing: equal to Pillow, on few pictures by checksum and on many by its algorithm, written down once more without
//! a thought to speed.

use image::RgbImage;
use pcqa::media::resize;
use proptest::prelude::*;
use serde::Deserialize;

use crate::{read_json, sha256};

#[derive(Deserialize)]
struct ResizeVector {
    width: u32,
    height: u32,
    side: u32,
    sha256: String,
}

/// The picture that make_images.py computes in the same way.
fn pattern(width: u32, height: u32) -> Vec<u8> {
    (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn resizing_equals_pillow() {
    for vector in read_json::<ResizeVector>("resize_vectors.json") {
        let ResizeVector { width, height, side, sha256: expected } = vector;
        let resized = resize(&pattern(width, height), width, height, side);
        assert_eq!(sha256(&resized), expected, "{width}x{height} to {side}");
    }
}

/// Keys's cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    }
}

/// Resizes rows of `width` pixels to `side` pixels.
fn plain_rows(rgb: &[u8], width: usize, side: usize) -> Vec<u8> {
    if width == side {
        return rgb.to_vec();
    }
    let scale = width as f64 / side as f64;
    let widening = scale.max(1.0);
    let windows: Vec<(usize, Vec<i64>)> = (0..side)
        .map(|position| {
            let centre = (position as f64 + 0.5) * scale;
            let start = (centre - 2.0 * widening + 0.5).max(0.0) as usize;
            let end = ((centre + 2.0 * widening + 0.5) as usize).min(width);
            let weights =
                (start..end).map(|tap| cubic(((tap - start) as f64 + start as f64 - centre + 0.5) * (1.0 / widening)));
            let weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            (start, weights.iter().map(|weight| (weight / sum * f64::from(1 << 22)).round() as i64).collect())
        })
        .collect();
    let mut resized = Vec::new();
    for row in rgb.chunks(width * 3) {
        for (start, weights) in &windows {
            for channel in 0..3 {
                let terms = weights
                    .iter()
                    .enumerate()
                    .map(|(tap, weight)| weight * i64::from(row[(start + tap) * 3 + channel]));
                let level = (terms.sum::<i64>() + (1 << 21)) >> 22;
                resized.push(level.clamp(0, 255) as u8);
            }
        }
    }
    resized
}

/// Rows become columns.
fn turned(rgb: &[u8], width: usize) -> Vec<u8> {
    let pixels = rgb.as_chunks::<3>().0;
    (0..width).flat_map(|x| pixels[x..].iter().step_by(width).flatten().copied()).collect()
}

fn plain_resize(rgb: &[u8], width: u32, height: u32, side: u32) -> Vec<u8> {
    let (width, height, side) = (width as usize, height as usize, side as usize);
    let narrowed = plain_rows(rgb, width, side);
    turned(&plain_rows(&turned(&narrowed, side), height, side), side)
}

#[test]
fn extreme_shapes_are_resized_by_the_same_rule() {
    let shapes = [
        (1, 1, 300),
        (1, 2, 1),
        (2, 1, 1),
        (1, 4000, 64),
        (4000, 1, 64),
        (3, 2000, 1),
        (2000, 3, 1),
        (7, 9, 400),
        (9, 7, 401),
        (448, 9, 448),
        (11, 448, 448),
        (640, 333, 97),
    ];
    for (width, height, side) in shapes {
        let picture = pattern(width, height);
        let equal = resize(&picture, width, height, side) == plain_resize(&picture, width, height, side);
        assert!(equal, "{width}x{height} to {side}");
    }
}

proptest! {
    #[test]
    fn any_size_is_resized_by_the_same_rule(
        width in 1u32..90,
        height in 1u32..90,
        side in 1u32..90,
        contrast: bool,
    ) {
        let mut picture = pattern(width, height);
        if contrast {
            // Black and white make weights below 0 show: sums beyond the range of a level.
            picture.iter_mut().for_each(|level| *level = if *level < 128 { 0 } else { 255 });
        }
        prop_assert_eq!(resize(&picture, width, height, side), plain_resize(&picture, width, height, side));
    }

    #[test]
    fn one_colour_stays_that_colour(rgb: [u8; 3], width in 1u32..60, height in 1u32..60, side in 1u32..60) {
        let resized = resize(&rgb.repeat((width * height) as usize), width, height, side);
        prop_assert_eq!(resized, rgb.repeat((side * side) as usize));
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(side in 1u32..40) {
        let picture = pattern(side, side);
        prop_assert_eq!(resize(&picture, side, side, side), picture);
    }

    #[test]
    fn resizing_commutes_with_mirroring(width in 1u32..50, height in 1u32..50, side in 1u32..50) {
        let mirror = |rgb: Vec<u8>, width: u32, height: u32| {
            let picture = RgbImage::from_raw(width, height, rgb).unwrap();
            image::imageops::flip_vertical(&picture).into_raw()
        };
        let picture = pattern(width, height);
        let first = resize(&mirror(picture.clone(), width, height), width, height, side);
        let last = mirror(resize(&picture, width, height, side), side, side);
        prop_assert!(first.iter().zip(&last).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
}
