//! Which source positions an output position is made of, and their weights.

/// Fraction bits of a weight. Samples have 8 bits and the sum of the weights' magnitudes stays below 2, so that a sum
/// fits 32 bits.
pub(super) const FRACTION: u32 = 32 - 8 - 2;

/// Bicubic reach in source pixels, before widening for a smaller output.
const SUPPORT: f64 = 2.0;

/// For every output position: where its window of source positions begins, and the weights within. Windows begin and
/// end in the order of their positions.
pub(super) struct Windows {
    starts: Vec<usize>,
    /// The weights of all windows, one after the other.
    weights: Vec<i32>,
    /// Where each window's weights end; the next one's begin there.
    ends: Vec<usize>,
}

impl Windows {
    pub(super) fn new(source: usize, target: usize) -> Self {
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

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// First source position and weights of the window at `position`.
    pub(super) fn get(&self, position: usize) -> (usize, &[i32]) {
        let begin = if position == 0 { 0 } else { self.ends[position - 1] };
        (self.starts[position], &self.weights[begin..self.ends[position]])
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
