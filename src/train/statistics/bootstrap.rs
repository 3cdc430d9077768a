//! Percentile intervals over resampled clusters: items of one prompt share its difficulty, so that prompts, not items,
//! are what there could have been others of.

use std::array;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const REPLICATES: u64 = 1000;
/// Resamples of a thousand in which a statistic must be defined; the percentiles of fewer would be of another
/// population.
const MIN_DEFINED: usize = 900;

/// The 2.5th and the 97.5th percentile of each of `statistic`'s values over resamples of `count` clusters. Item i is of
/// cluster `clusters[i]`; `statistic` takes how often each item is in the resample.
pub(super) fn intervals<const K: usize>(
    clusters: &[usize],
    count: usize,
    statistic: impl Fn(&[f64]) -> [Option<f64>; K] + Sync,
) -> [Option<[f64; 2]>; K] {
    if count < 2 {
        return [None; K];
    }
    let replicate = |seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut times = vec![0.0; count];
        (0..count).for_each(|_| times[rng.random_range(0..count)] += 1.0);
        let weights: Vec<f64> = clusters.iter().map(|&cluster| times[cluster]).collect();
        statistic(&weights)
    };
    let replicates: Vec<[Option<f64>; K]> = (0..REPLICATES).into_par_iter().map(replicate).collect();
    array::from_fn(|k| interval(replicates.iter().filter_map(|values| values[k]).collect()))
}

fn interval(mut values: Vec<f64>) -> Option<[f64; 2]> {
    if values.len() < MIN_DEFINED {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some([quantile(&values, 0.025)?, quantile(&values, 0.975)?])
}

/// The `share` quantile of sorted values, linear between them; None of none.
pub(in crate::train) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = place.floor();
    let low = sorted.get(below as usize)?;
    let high = sorted.get(place.ceil() as usize)?;
    Some(low + (high - low) * (place - below))
}
