//! Eq. 4's statistics and the mapping from z to MOS, from raw scores of items that no expert was trained on. Numbers in,
//! numbers out.
//!
//! mu and sigma are the mean and the population standard deviation of an expert's raw scores under exactly the settings
//! that are served: number format and test-time augmentation move them. MOS = mean + std z is the straight line of least
//! squares through the ensemble's z.

use anyhow::ensure;

/// Fewest items that a calibration is made of.
pub(super) const LEAST_ITEMS: usize = 8;
/// Processors differ in the last digits of a sum; these decimals are the same on all of them.
const ROUNDING: f64 = 1e6;

/// Mean and standard deviation of an expert's raw scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Statistics {
    pub(super) mu: f64,
    pub(super) sigma: f64,
}

impl Statistics {
    /// Of one expert's raw scores under one setting.
    pub(super) fn of(raw: &[f64]) -> anyhow::Result<Self> {
        let items = raw.len();
        ensure!(items >= LEAST_ITEMS, "{items} items are too few to calibrate with, expected {LEAST_ITEMS} or more");
        let (mu, sigma) = mean_and_deviation(raw);
        ensure!(
            mu.is_finite() && sigma.is_finite(),
            "raw scores have mean {mu} and deviation {sigma}, no finite numbers"
        );
        let (mu, sigma) = (rounded(mu), rounded(sigma));
        ensure!(sigma > 0.0, "every item has the same raw score, {mu}");
        Ok(Self { mu, sigma })
    }

    pub(super) fn z(self, raw: f64) -> f64 {
        (raw - self.mu) / self.sigma
    }
}

/// The straight line from z to MOS.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// MOS at z = 0.
    pub(super) mean: f64,
    /// MOS per unit of z, > 0.
    pub(super) std: f64,
}

impl Line {
    /// Of least squares over all `tracks`' pairs of z and MOS, where every track counts the same whatever its number of
    /// items.
    pub(super) fn fit(tracks: &[Vec<(f64, f64)>]) -> anyhow::Result<Self> {
        let (mut weight, mut z, mut mos, mut zz, mut zmos) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for pairs in tracks {
            let share = 1.0 / pairs.len().max(1) as f64;
            for &(x, y) in pairs {
                weight += share;
                z += share * x;
                mos += share * y;
                zz += share * x * x;
                zmos += share * x * y;
            }
        }
        let (z, mos) = (z / weight, mos / weight);
        let (variance, covariance) = (zz / weight - z * z, zmos / weight - z * mos);
        let slope = covariance / variance;
        ensure!(slope.is_finite(), "the ensemble's z or the MOS of the held-out items are all the same");
        ensure!(
            slope > 0.0,
            "the ensemble's z falls as MOS rises on the held-out items, by {slope:.3} MOS per unit of z, expected more \
             than 0: it has learnt nothing of them"
        );
        Ok(Self { mean: rounded(mos - slope * z), std: rounded(slope).max(1.0 / ROUNDING) })
    }
}

/// Mean and population standard deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

fn rounded(value: f64) -> f64 {
    (value * ROUNDING).round() / ROUNDING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z_has_mean_zero_and_deviation_one() {
        let raw: Vec<f64> = (0..100).map(|i| 3.0 + f64::from(i * i % 37) / 10.0).collect();
        let statistics = Statistics::of(&raw).unwrap();
        let z: Vec<f64> = raw.iter().map(|&raw| statistics.z(raw)).collect();
        let (mean, deviation) = mean_and_deviation(&z);
        assert!(mean.abs() < 1e-5 && (deviation - 1.0).abs() < 1e-5, "{mean} {deviation}");
    }

    #[test]
    fn what_cannot_be_calibrated_is_refused() {
        let said = |raw: &[f64]| format!("{:#}", Statistics::of(raw).unwrap_err());
        assert!(said(&[1.0; 3]).contains("too few"));
        assert!(said(&[1.0; 8]).contains("same raw score"));
        assert!(said(&[f64::NAN; 8]).contains("no finite numbers"));
    }

    #[test]
    fn the_line_is_found_and_tracks_count_the_same() {
        let line = |z: f64| 2.5 + 0.7 * z;
        let pairs: Vec<(f64, f64)> = (0..9).map(|i| (f64::from(i) - 4.0, line(f64::from(i) - 4.0))).collect();
        assert_eq!(Line::fit(std::slice::from_ref(&pairs)).unwrap(), Line { mean: 2.5, std: 0.7 });
        let raised: Vec<(f64, f64)> = pairs.iter().cycle().take(90).map(|(z, mos)| (*z, mos + 1.0)).collect();
        assert_eq!(Line::fit(&[pairs, raised]).unwrap(), Line { mean: 3.0, std: 0.7 });
    }

    #[test]
    fn a_line_that_falls_is_refused() {
        let pairs = vec![(-1.0, 5.0), (0.0, 3.0), (1.0, 1.0)];
        assert!(format!("{:#}", Line::fit(&[pairs]).unwrap_err()).contains("by -2.000 MOS"));
        assert!(Line::fit(&[vec![(1.0, 2.0), (1.0, 3.0)]]).is_err());
        assert!(Line::fit(&[]).is_err());
    }
}
