//! Pillow's 8-bit bicubic resize, bit for bit (`Resample.c` of Pillow 12): rows first, then columns, each pass skipped
//! where it would change nothing, 8 bits between the passes, weights as 22-bit fixed-point numbers.

/// Fraction bits of a weight. Samples have 8 bits and the sum of the weights' magnitudes stays below 2, so that a sum
/// fits 32 bits.
const FRACTION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (FRACTION - 1);
/// Bicubic reach in source pixels, before widening for a smaller output.
const SUPPORT: f64 = 2.0;

/// Resizes `width * height * 3` bytes of packed RGB to `side * side * 3`, squashing the aspect ratio. `rgb` must be of
/// that length and every size at least 1.
pub fn resize(rgb: &[u8], width: u32, height: u32, side: u32) -> Vec<u8> {
    let (width, height, side) = (width as usize, height as usize, side as usize);
    assert_eq!(rgb.len(), width * height * 3, "the picture is not {width}x{height}");
    if height == side {
        return if width == side { rgb.to_vec() } else { resize_rows(rgb, width, &Windows::new(width, side)) };
    }
    let columns = Windows::new(height, side);
    if width == side {
        return resize_columns(rgb, side, &columns);
    }
    let narrowed = resize_rows(rgb, width, &Windows::new(width, side));
    resize_columns(&narrowed, side, &columns)
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

    fn len(&self) -> usize {
        self.starts.len()
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

/// Resamples every row to `windows.len()` pixels.
fn resize_rows(rgb: &[u8], width: usize, windows: &Windows) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / width * windows.len());
    for row in rgb.chunks_exact(width * 3) {
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
    out
}

/// Resamples every column of a picture `width` pixels wide: a weighted sum of whole rows, which the compiler can do
/// many samples at a time.
fn resize_columns(rgb: &[u8], width: usize, windows: &Windows) -> Vec<u8> {
    let stride = width * 3;
    let mut out = Vec::with_capacity(stride * windows.len());
    let mut sums = vec![HALF; stride];
    for (start, weights) in windows.iter() {
        sums.fill(HALF);
        for (row, &weight) in rgb[start * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_level(sum)));
    }
    out
}
