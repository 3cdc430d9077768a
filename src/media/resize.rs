//! Pillow's 8-bit bicubic resize, bit for bit (`Resample.c` of Pillow 12): rows first, then columns, each pass skipped
//! where it would change nothing, 8 bits between the passes, weights as 22-bit fixed-point numbers. Unlike Pillow, both
//! passes go over the source once, row by row: a narrow and very tall picture would be many times its own size between
//! the passes.

use std::collections::VecDeque;
use std::iter::Peekable;

/// Fraction bits of a weight. Samples have 8 bits and the sum of the weights' magnitudes stays below 2, so that a sum
/// fits 32 bits.
const FRACTION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (FRACTION - 1);
/// Bicubic reach in source pixels, before widening for a smaller output.
const SUPPORT: f64 = 2.0;

/// Resizes `width * height * 3` bytes of packed RGB to `side * side * 3`, squashing the aspect ratio. `rgb` must be of
/// that length and every size at least 1.
///
/// Beside the result, memory grows with `width + height` (the weights) and with the few output rows that a source row
/// reaches, never with the number of pixels.
pub fn resize(rgb: &[u8], width: u32, height: u32, side: u32) -> Vec<u8> {
    let (width, height, side) = (width as usize, height as usize, side as usize);
    assert_eq!(rgb.len(), width * height * 3, "the picture is not {width}x{height}");
    let across = (width != side).then(|| Windows::new(width, side));
    let down = (height != side).then(|| Windows::new(height, side));
    let mut down = down.as_ref().map(|windows| Columns::new(windows.iter(), side * 3));
    let mut out = Vec::with_capacity(side * side * 3);
    let mut resized_row = Vec::with_capacity(side * 3);
    for row in rgb.chunks_exact(width * 3) {
        let row = match &across {
            Some(windows) => {
                resize_row(row, windows, &mut resized_row);
                &resized_row
            }
            None => row,
        };
        match &mut down {
            Some(columns) => columns.add(row, &mut out),
            None => out.extend_from_slice(row),
        }
    }
    out
}

/// For every output position: where its window of source positions begins, and the weights within.
struct Windows {
    starts: Vec<usize>,
    /// The weights of all windows, one after the other.
    weights: Vec<i32>,
    /// Where each window's weights end; the next one's begin there.
    ends: Vec<usize>,
}

impl Windows {
    fn new(source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        let widening = scale.max(1.0);
        let support = SUPPORT * widening;
        let mut windows = Self { starts: Vec::with_capacity(target), weights: Vec::new(), ends: Vec::new() };
        let mut window = Vec::new();
        for position in 0..target {
            let centre = (position as f64 + 0.5) * scale;
            // Truncation towards zero is part of the definition.
            let start = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            window.clear();
            let narrowing = 1.0 / widening;
            window.extend((0..end - start).map(|tap| cubic((tap as f64 + start as f64 - centre + 0.5) * narrowing)));
            let sum: f64 = window.iter().sum();
            windows.starts.push(start);
            windows
                .weights
                .extend(window.iter().map(|weight| to_fixed(if sum == 0.0 { *weight } else { weight / sum })));
            windows.ends.push(windows.weights.len());
        }
        windows
    }

    /// First source position and weights of every output position, in order.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut begin = 0;
        self.starts.iter().zip(&self.ends).map(move |(&start, &end)| {
            let weights = &self.weights[begin..end];
            begin = end;
            (start, weights)
        })
    }
}

/// Keys's cubic convolution kernel with a = -0.5, evaluated in Pillow's order of operations.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << FRACTION);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn to_level(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Resamples `row` to one pixel per window. `out` is overwritten.
fn resize_row(row: &[u8], windows: &Windows, out: &mut Vec<u8>) {
    out.clear();
    let pixels = row.as_chunks::<3>().0;
    for (start, weights) in windows.iter() {
        let (mut r, mut g, mut b) = (HALF, HALF, HALF);
        for (&[red, green, blue], &weight) in pixels[start..].iter().zip(weights) {
            r += i32::from(red) * weight;
            g += i32::from(green) * weight;
            b += i32::from(blue) * weight;
        }
        out.extend([r, g, b].map(to_level));
    }
}

/// Resamples every column, taking the source's rows in order: each is added, weighted, to the output rows whose windows
/// hold it, whole rows at a time, which the compiler can do many samples at once.
struct Columns<'a, I: Iterator<Item = (usize, &'a [i32])>> {
    /// Windows not begun yet.
    ahead: Peekable<I>,
    /// Output rows begun and not complete, in order. Windows begin and end in the order of their positions.
    open: VecDeque<OpenRow<'a>>,
    /// Sums of completed rows, to be used again.
    spare: Vec<Vec<i32>>,
    /// Samples of one row.
    stride: usize,
    /// Source rows taken so far.
    taken: usize,
}

/// An output row that lacks source rows.
struct OpenRow<'a> {
    sums: Vec<i32>,
    /// Weights of the source rows still to come.
    weights: &'a [i32],
}

impl<'a, I: Iterator<Item = (usize, &'a [i32])>> Columns<'a, I> {
    fn new(windows: I, stride: usize) -> Self {
        Self { ahead: windows.peekable(), open: VecDeque::new(), spare: Vec::new(), stride, taken: 0 }
    }

    /// Takes the next source row and appends the output rows that it completes to `out`.
    fn add(&mut self, row: &[u8], out: &mut Vec<u8>) {
        while let Some((_, weights)) = self.ahead.next_if(|&(start, _)| start <= self.taken) {
            let mut sums = self.spare.pop().unwrap_or_default();
            sums.clear();
            sums.resize(self.stride, HALF);
            self.open.push_back(OpenRow { sums, weights });
        }
        self.taken += 1;
        for open in &mut self.open {
            let Some((&weight, rest)) = open.weights.split_first() else { continue };
            open.weights = rest;
            for (sum, &sample) in open.sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        while self.open.front().is_some_and(|open| open.weights.is_empty())
            && let Some(complete) = self.open.pop_front()
        {
            out.extend(complete.sums.iter().map(|&sum| to_level(sum)));
            self.spare.push(complete.sums);
        }
    }
}
