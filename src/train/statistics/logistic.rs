//! The logistic curve of four parameters that predictions are mapped to opinions with before PLCC and RMSE, so that a
//! system is not blamed for a scale of its own (as in the video quality experts group's reports and the NTIRE
//! challenges).

use levenberg_marquardt::{LeastSquaresProblem, LevenbergMarquardt};
use nalgebra::{DVector, Dyn, Matrix, Owned, U4, Vector4};
use serde::{Deserialize, Serialize};

/// `low + (high - low) / (1 + exp(-(x - centre) / width))`. It falls where `low` is the higher one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// Limit for x far above the centre.
    pub high: f64,
    /// Limit for x far below the centre.
    pub low: f64,
    /// Where the curve is halfway.
    pub centre: f64,
    /// How wide the slope is, > 0.
    pub width: f64,
}

impl Logistic {
    /// The curve of least squared error from `x` to `y`, by Levenberg-Marquardt from the range of `y` and the mean and
    /// standard deviation of `x`. None of lists of different lengths, of fewer than four pairs, of a constant `x` or of
    /// numbers that are not finite.
    pub fn fit(x: &[f64], y: &[f64]) -> Option<Self> {
        if x.len() != y.len() || x.len() < 4 || x.iter().chain(y).any(|value| !value.is_finite()) {
            return None;
        }
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        if deviation <= 1e-13 * mean.abs() {
            return None;
        }
        let (least, most) = y.iter().fold((f64::MAX, f64::MIN), |(low, high), &y| (low.min(y), high.max(y)));
        let falls = super::plcc(x, y).is_some_and(|plcc| plcc < 0.0);
        let (low, high) = if falls { (most, least) } else { (least, most) };
        let start = Self { high, low, centre: mean, width: deviation };
        start.search(x, y, &vec![1.0; x.len()], LevenbergMarquardt::new().with_patience(100))
    }

    /// A search from this curve, where pair i is there `weights[i]` times: at most some 20 steps, since a resample's
    /// curve is near that of all items, and intervals are no finer than that.
    pub(super) fn refit(self, x: &[f64], y: &[f64], weights: &[f64]) -> Option<Self> {
        let search = LevenbergMarquardt::new().with_ftol(1e-6).with_xtol(1e-6).with_gtol(1e-6).with_patience(4);
        self.search(x, y, weights, search)
    }

    fn search(self, x: &[f64], y: &[f64], weights: &[f64], search: LevenbergMarquardt<f64>) -> Option<Self> {
        // In units of the slope and of the range every parameter is of order one, whatever the scales.
        let range = if self.high == self.low { 1.0 } else { self.high - self.low };
        let problem = Problem {
            x: x.iter().map(|x| (x - self.centre) / self.width).collect(),
            y: y.iter().map(|y| (y - self.low) / range).collect(),
            roots: weights.iter().map(|weight| weight.sqrt()).collect(),
            parameters: Vector4::new(1.0, 0.0, 0.0, 1.0),
        };
        let (problem, _) = search.minimize(problem);
        // The search also ends without a minimum: a straight line is a curve of limits infinitely far away. What it has
        // found by then fits as well as makes no difference.
        let [high, low, centre, width] = problem.parameters.into();
        let curve = Self {
            high: self.low + high * range,
            low: self.low + low * range,
            centre: self.centre + centre * self.width,
            width: (width * self.width).abs(),
        };
        let is_finite = [curve.high, curve.low, curve.centre, curve.width].iter().all(|value| value.is_finite());
        (is_finite && curve.width > 0.0).then_some(curve)
    }

    /// The curve at `x`.
    pub fn apply(&self, x: f64) -> f64 {
        self.low + (self.high - self.low) * sigmoid((x - self.centre) / self.width)
    }
}

struct Problem {
    x: Vec<f64>,
    y: Vec<f64>,
    /// Square roots of the weights.
    roots: Vec<f64>,
    /// high, low, centre, width.
    parameters: Vector4<f64>,
}

impl LeastSquaresProblem<f64, Dyn, U4> for Problem {
    type ResidualStorage = Owned<f64, Dyn>;
    type JacobianStorage = Owned<f64, Dyn, U4>;
    type ParameterStorage = Owned<f64, U4>;

    fn set_params(&mut self, parameters: &Vector4<f64>) {
        self.parameters.copy_from(parameters);
    }

    fn params(&self) -> Vector4<f64> {
        self.parameters
    }

    fn residuals(&self) -> Option<DVector<f64>> {
        let [high, low, centre, width] = self.parameters.into();
        let curve = Logistic { high, low, centre, width: width.abs() };
        let residual = |i: usize| self.roots[i] * (curve.apply(self.x[i]) - self.y[i]);
        Some(DVector::from_fn(self.x.len(), |i, _| residual(i)))
    }

    fn jacobian(&self) -> Option<Matrix<f64, Dyn, U4, Self::JacobianStorage>> {
        let [high, low, centre, width] = self.parameters.into();
        let mut jacobian = Matrix::<f64, Dyn, U4, Self::JacobianStorage>::zeros(self.x.len());
        for (i, (&x, &root)) in self.x.iter().zip(&self.roots).enumerate() {
            let place = (x - centre) / width.abs();
            let share = sigmoid(place);
            let slope = (high - low) * share * (1.0 - share) / width.abs();
            let row = [share, 1.0 - share, -slope, -slope * place * width.signum()];
            row.iter().enumerate().for_each(|(j, value)| jacobian[(i, j)] = root * value);
        }
        Some(jacobian)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use levenberg_marquardt::differentiate_numerically;

    use super::*;

    #[test]
    fn the_derivatives_are_those_of_the_residuals() {
        for width in [0.7, -0.7] {
            let mut problem = Problem {
                x: vec![-2.0, -0.3, 0.0, 0.4, 3.0],
                y: vec![0.1, 0.3, 0.2, 0.9, 1.1],
                roots: vec![1.0, 0.0, 2.0, 1.5, 1.0],
                parameters: Vector4::new(1.2, 0.1, 0.3, width),
            };
            let numeric = differentiate_numerically(&mut problem).unwrap();
            let exact = problem.jacobian().unwrap();
            assert!((numeric - exact).abs().max() < 1e-6);
        }
    }
}
