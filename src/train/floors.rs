//! What can be predicted without looking at a pixel: from the name of the generator, from the words of the prompt, from
//! both. A judge is worth what it adds to that, so its figures stand beside these.
//!
//! Every prediction is of a model that saw neither the item nor another one of its prompt: ridge regression over five
//! folds with no prompt in common, its penalty chosen within the folds that it is fitted on.

mod features;
mod ridge;

use std::collections::HashMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use self::features::Features;
use self::ridge::Ridge;
use super::split::prompt_key;
use super::statistics::{Judged, Metrics};

const FOLDS: usize = 5;
/// Fewest prompts: one fold to predict, one to choose the penalty with, one to fit.
const MIN_PROMPTS: usize = 3;
/// Penalties that are tried; every item's words have length one.
const PENALTIES: [f64; 5] = [0.1, 0.5, 2.0, 8.0, 32.0];

/// What a floor may know of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Knows {
    generator: bool,
    prompt: bool,
}

/// The figures of each floor that `judged` has the facts for, with its name; what was predicted for the items plays no
/// part. None with fewer than three prompts; those with generators need two generators.
pub fn floors(judged: &[Judged]) -> Vec<(&'static str, Metrics)> {
    predictions(judged)
        .into_iter()
        .map(|(name, predicted)| {
            let judged = judged.iter().zip(predicted).map(|(item, predicted)| Judged { predicted, ..item.clone() });
            let mut metrics = Metrics::new(&judged.collect::<Vec<_>>());
            if name == GENERATOR {
                // All items of one generator are equal to it, up to what distinguishes the folds.
                metrics.srcc_within_generator = None;
            }
            (name, metrics)
        })
        .collect()
}

const GENERATOR: &str = "floor: generator";
const PROMPT: &str = "floor: prompt";
const BOTH: &str = "floor: generator, prompt";

/// Each floor's prediction for every item.
fn predictions(judged: &[Judged]) -> Vec<(&'static str, Vec<f64>)> {
    let Some(folds) = Folds::new(judged) else { return Vec::new() };
    let mos: Vec<f64> = judged.iter().map(|item| item.mos).collect();
    if mos.iter().any(|mos| !mos.is_finite()) {
        return Vec::new();
    }
    let mut generators: Vec<_> = judged.iter().filter_map(|item| item.generator.as_deref()).collect();
    generators.sort_unstable();
    generators.dedup();
    let floors = [(GENERATOR, true, false), (PROMPT, false, true), (BOTH, true, true)];
    floors
        .into_iter()
        .filter(|(_, generator, _)| !generator || generators.len() >= 2)
        .map(|(name, generator, prompt)| {
            let features = Features::new(judged, Knows { generator, prompt });
            (name, folds.predict(&features, &mos))
        })
        .collect()
}

/// The fold of each item; all items of a prompt are in one.
struct Folds {
    of: Vec<usize>,
    count: usize,
}

impl Folds {
    /// None of too few prompts.
    fn new(judged: &[Judged]) -> Option<Self> {
        let keys: Vec<String> = judged.iter().map(|item| prompt_key(&item.prompt)).collect();
        let mut prompts: Vec<&str> = keys.iter().map(String::as_str).collect();
        prompts.sort_unstable();
        prompts.dedup();
        if prompts.len() < MIN_PROMPTS {
            return None;
        }
        prompts.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
        let count = FOLDS.min(prompts.len());
        let folds: HashMap<&str, usize> = prompts.into_iter().zip((0..count).cycle()).collect();
        Some(Self { of: keys.iter().map(|prompt| folds[prompt.as_str()]).collect(), count })
    }

    fn items(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.of.len()).filter(|&item| is_wanted(self.of[item])).collect()
    }

    /// Predicts every fold from the others.
    fn predict(&self, features: &Features, mos: &[f64]) -> Vec<f64> {
        let predict = |fold: usize| {
            let next = (fold + 1) % self.count;
            let (fitted, chosen) = (self.items(|f| f != fold && f != next), self.items(|f| f == next));
            let error = |penalty: &f64| {
                let model = Ridge::fit(features, &fitted, mos, *penalty);
                chosen.iter().map(|&item| (model.predict(features.row(item)) - mos[item]).powi(2)).sum::<f64>()
            };
            let errors = PENALTIES.par_iter().map(|penalty| (error(penalty), *penalty)).collect::<Vec<_>>();
            let best = errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(PENALTIES[0], |(_, best)| best);
            let model = Ridge::fit(features, &self.items(|f| f != fold), mos, best);
            let items = self.items(|f| f == fold);
            items.into_iter().map(|item| (item, model.predict(features.row(item)))).collect::<Vec<_>>()
        };
        let mut predicted = vec![0.0; mos.len()];
        for (item, value) in (0..self.count).into_par_iter().flat_map(predict).collect::<Vec<_>>() {
            predicted[item] = value;
        }
        predicted
    }
}

#[cfg(test)]
mod tests;
