//! Ridge regression on sparse rows: the weights w that make `sum (mean + row . w - y)^2 + penalty |w|^2` least, by
//! conjugate gradients, so that memory and time grow with what is not zero.

use super::features::Features;

const MOST_STEPS: usize = 100;
/// Length of the gradient, relative to the first one, at which the search ends.
const TOLERANCE: f64 = 1e-5;

/// A fitted regression.
pub(super) struct Ridge {
    mean: f64,
    weights: Vec<f64>,
}

impl Ridge {
    /// Fits `y` of `items`; `penalty` > 0.
    pub(super) fn fit(features: &Features, items: &[usize], y: &[f64], penalty: f64) -> Self {
        let mean = items.iter().map(|&item| y[item]).sum::<f64>() / items.len().max(1) as f64;
        let mut weights = vec![0.0; features.columns()];
        let mut gradient = vec![0.0; features.columns()];
        for &item in items {
            add(&mut gradient, features.row(item), y[item] - mean);
        }
        let mut direction = gradient.clone();
        let mut squares = dot(&gradient, &gradient);
        let end = squares * TOLERANCE * TOLERANCE;
        for _ in 0..MOST_STEPS {
            if squares <= end {
                break;
            }
            let mut image: Vec<f64> = direction.iter().map(|value| penalty * value).collect();
            for &item in items {
                add(&mut image, features.row(item), value(&direction, features.row(item)));
            }
            let step = squares / dot(&direction, &image);
            weights.iter_mut().zip(&direction).for_each(|(weight, direction)| *weight += step * direction);
            gradient.iter_mut().zip(&image).for_each(|(gradient, image)| *gradient -= step * image);
            let before = squares;
            squares = dot(&gradient, &gradient);
            direction.iter_mut().zip(&gradient).for_each(|(d, gradient)| *d = gradient + squares / before * *d);
        }
        Self { mean, weights }
    }

    pub(super) fn predict(&self, row: &[(usize, f64)]) -> f64 {
        self.mean + value(&self.weights, row)
    }
}

fn value(weights: &[f64], row: &[(usize, f64)]) -> f64 {
    row.iter().map(|&(column, value)| weights[column] * value).sum()
}

fn add(sums: &mut [f64], row: &[(usize, f64)], factor: f64) {
    row.iter().for_each(|&(column, value)| sums[column] += factor * value);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
