//! Figures among the items of one generator, where a system cannot gain by telling good generators from bad ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::paired::Paired;
use super::{Judged, MIN_GENERATOR_ITEMS};

/// One generator's items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorFigures {
    /// Its name in the data set.
    pub generator: String,
    /// How many items it has.
    pub items: usize,
    /// Mean of their MOS.
    pub mos: f64,
    /// Mean of their predictions.
    pub predicted: f64,
    /// SRCC among them.
    pub srcc: Option<f64>,
}

impl GeneratorFigures {
    /// Why a table of `all` has gaps; None where it has none.
    pub fn gaps(all: &[Self]) -> Option<String> {
        let has_gap = all.iter().any(|figures| figures.srcc.is_none());
        has_gap.then(|| "not defined for one item, nor where all predictions or all MOS are the same".to_owned())
    }
}

/// The figures of every generator by name; none where the items name none.
pub fn by_generator(judged: &[Judged]) -> Vec<GeneratorFigures> {
    let figures = |(generator, items): (&str, Vec<usize>)| {
        let (predicted, mos) = columns_of(judged, &items);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        GeneratorFigures {
            generator: generator.to_owned(),
            items: items.len(),
            mos: mean(&mos),
            predicted: mean(&predicted),
            srcc: super::srcc(&predicted, &mos),
        }
    };
    indices(judged).into_iter().map(figures).collect()
}

/// The generators that have enough items.
pub(super) struct Generators(Vec<(Vec<usize>, Paired)>);

impl Generators {
    pub(super) fn new(judged: &[Judged]) -> Self {
        let large = indices(judged).into_values().filter(|items| items.len() >= MIN_GENERATOR_ITEMS);
        let paired = large.filter_map(|items| {
            let (predicted, mos) = columns_of(judged, &items);
            Some((items, Paired::new(&predicted, &mos)?))
        });
        Self(paired.collect())
    }

    /// Mean SRCC in the sample in which item i is `weights[i]` times, each generator's weighted by its items.
    pub(super) fn mean_srcc(&self, weights: &[f64]) -> Option<f64> {
        if self.0.len() < 2 {
            return None;
        }
        let (mut sum, mut total) = (0.0, 0.0);
        for (items, paired) in &self.0 {
            let weights: Vec<f64> = items.iter().map(|&item| weights[item]).collect();
            let weight: f64 = weights.iter().sum();
            if let Some(srcc) = paired.srcc(&weights) {
                sum += weight * srcc;
                total += weight;
            }
        }
        (total > 0.0).then(|| sum / total)
    }
}

fn indices(judged: &[Judged]) -> BTreeMap<&str, Vec<usize>> {
    let mut indices: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, item) in judged.iter().enumerate() {
        if let Some(generator) = &item.generator {
            indices.entry(generator).or_default().push(i);
        }
    }
    indices
}

fn columns_of(judged: &[Judged], items: &[usize]) -> (Vec<f64>, Vec<f64>) {
    items.iter().map(|&item| (judged[item].predicted, judged[item].mos)).unzip()
}
