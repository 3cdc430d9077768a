//! How well predictions follow opinions: the figures of the paper's tables, with 95 % intervals. Numbers in, numbers
//! out; no files, no tensors.

mod bootstrap;
mod generators;
mod logistic;
mod paired;

use std::array;
use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(super) use self::bootstrap::quantile;
use self::generators::Generators;
pub use self::generators::{GeneratorFigures, by_generator};
pub use self::logistic::Logistic;
use self::paired::Paired;
use super::split::prompt_key;

/// An item whose MOS is known, and what was predicted for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Mean opinion score, on the data set's scale.
    pub mos: f64,
    /// The prediction, on any scale.
    pub predicted: f64,
    /// What the item was generated for.
    pub prompt: String,
    /// What generated it, where the data set says so.
    pub generator: Option<String>,
    /// Any other group that the data set names.
    pub group: Option<String>,
    /// The item as the data set lists it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// One figure with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Of all items.
    pub value: f64,
    /// 95 % interval: percentiles of the figure over 1000 resamples of the prompts, an item's with its prompt. None
    /// where there are fewer than two prompts, where too many resamples have no such figure, or where it was not asked
    /// for.
    pub interval: Option<[f64; 2]>,
}

/// What the paper's tables say of one system on one set of items. A figure that is not defined, such as a correlation
/// with predictions that are all equal, is None.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Items that were compared.
    pub items: usize,
    /// Different prompts among them, whatever their capitals and spaces.
    pub prompts: usize,
    /// Spearman's rank correlation, -1 to 1; ties have their mean rank.
    pub srcc: Option<Figure>,
    /// Pearson's correlation, -1 to 1, of the predictions as they are.
    pub plcc: Option<Figure>,
    /// Pearson's correlation after the logistic curve of four parameters that fits the MOS best.
    pub plcc_fitted: Option<Figure>,
    /// Kendall's rank correlation, -1 to 1: tau-b, which allows for ties.
    pub krcc: Option<Figure>,
    /// Root of the mean squared error of the predictions as they are, on the data set's scale.
    pub rmse: Option<Figure>,
    /// The same after the logistic curve: for systems that predict on a scale of their own.
    pub rmse_fitted: Option<Figure>,
    /// Main score, `(srcc + plcc) / 2`.
    pub main: Option<Figure>,
    /// Mean over the generators of the SRCC among each one's items, weighted by their number. None with fewer than two
    /// generators of at least [`MIN_GENERATOR_ITEMS`].
    pub srcc_within_generator: Option<Figure>,
}

impl Metrics {
    /// Titles of the figures, in the order of all tables.
    pub const TITLES: [&str; 8] =
        ["SRCC", "PLCC", "PLCC fitted", "KRCC", "RMSE", "RMSE fitted", "main", "SRCC within generator"];

    /// The figures that [`TITLES`](Self::TITLES) name.
    pub fn figures(&self) -> [Option<Figure>; Self::TITLES.len()] {
        [
            self.srcc,
            self.plcc,
            self.plcc_fitted,
            self.krcc,
            self.rmse,
            self.rmse_fitted,
            self.main,
            self.srcc_within_generator,
        ]
    }

    /// Why the tables of `all` have gaps; None where they have none.
    pub fn gaps<'a>(all: impl IntoIterator<Item = &'a Self>) -> Option<String> {
        let has_gap = all.into_iter().any(|metrics| metrics.figures().contains(&None));
        has_gap.then(|| {
            format!(
                "not defined; SRCC within generator takes two generators of at least {MIN_GENERATOR_ITEMS} items each, and \
                 every correlation predictions and MOS that differ"
            )
        })
    }
}

/// Fewest items of a generator whose SRCC counts.
pub const MIN_GENERATOR_ITEMS: usize = 5;

/// Spearman's rank correlation; ties have their mean rank. None where it is not defined: of lists of different lengths,
/// of fewer than two pairs, of a constant list or of numbers that are not finite.
pub fn srcc(x: &[f64], y: &[f64]) -> Option<f64> {
    Paired::new(x, y)?.srcc(&ones(x))
}

/// Pearson's correlation; None as for [`srcc`].
pub fn plcc(x: &[f64], y: &[f64]) -> Option<f64> {
    Paired::new(x, y)?.plcc(&ones(x))
}

/// Kendall's tau-b; None as for [`srcc`].
pub fn krcc(x: &[f64], y: &[f64]) -> Option<f64> {
    Paired::new(x, y)?.krcc(&ones(x))
}

/// Root of the mean squared difference; None of lists of different lengths, of empty ones or of numbers that are not
/// finite.
pub fn rmse(x: &[f64], y: &[f64]) -> Option<f64> {
    Paired::new(x, y)?.rmse(&ones(x))
}

impl Metrics {
    /// Every figure with its interval. The same items always have the same intervals.
    pub fn new(judged: &[Judged]) -> Self {
        Self::measure(judged, true)
    }

    /// The figures alone, a thousand times faster: for what is looked at after every epoch.
    pub fn without_intervals(judged: &[Judged]) -> Self {
        Self::measure(judged, false)
    }

    fn measure(judged: &[Judged], with_intervals: bool) -> Self {
        let prompts = Prompts::new(judged);
        let (mut values, mut intervals) = ([None; FIGURES], [None; FIGURES]);
        if let Some(sample) = Sample::new(judged) {
            values = sample.values(&vec![1.0; judged.len()]);
            if with_intervals {
                intervals = bootstrap::intervals(&prompts.of, prompts.count, |weights| sample.values(weights));
            }
        }
        let figure = |k: usize| values[k].map(|value| Figure { value, interval: intervals[k] });
        let [srcc, plcc, plcc_fitted, krcc, rmse, rmse_fitted, main, srcc_within_generator] = array::from_fn(figure);
        Self {
            items: judged.len(),
            prompts: prompts.count,
            srcc,
            plcc,
            plcc_fitted,
            krcc,
            rmse,
            rmse_fitted,
            main,
            srcc_within_generator,
        }
    }
}

/// Number of figures in [`Metrics`], which [`Sample::values`] gives in the same order.
const FIGURES: usize = 8;

/// Judged items, prepared for being resampled.
struct Sample {
    all: Paired,
    generators: Generators,
    logistic: Option<Logistic>,
}

impl Sample {
    /// None when a number is not finite.
    fn new(judged: &[Judged]) -> Option<Self> {
        let (predicted, mos) = columns(judged);
        let all = Paired::new(&predicted, &mos)?;
        let logistic = Logistic::fit(&predicted, &mos);
        Some(Self { all, generators: Generators::new(judged), logistic })
    }

    /// Every figure of the sample in which item i is `weights[i]` times.
    fn values(&self, weights: &[f64]) -> [Option<f64>; FIGURES] {
        let srcc = self.all.srcc(weights);
        let plcc = self.all.plcc(weights);
        let fitted = self.logistic.and_then(|start| self.all.fitted(start, weights));
        let main = srcc.zip(plcc).map(|(srcc, plcc)| (srcc + plcc) / 2.0);
        [
            srcc,
            plcc,
            fitted.and_then(|fitted| fitted.plcc),
            self.all.krcc(weights),
            self.all.rmse(weights),
            fitted.map(|fitted| fitted.rmse),
            main,
            self.generators.mean_srcc(weights),
        ]
    }
}

/// Which of the distinct prompts each item has.
struct Prompts {
    of: Vec<usize>,
    count: usize,
}

impl Prompts {
    fn new(judged: &[Judged]) -> Self {
        let mut known = HashMap::new();
        let of = judged
            .iter()
            .map(|item| {
                let next = known.len();
                *known.entry(prompt_key(&item.prompt)).or_insert(next)
            })
            .collect();
        Self { of, count: known.len() }
    }
}

/// Predictions and MOS.
fn columns(judged: &[Judged]) -> (Vec<f64>, Vec<f64>) {
    judged.iter().map(|item| (item.predicted, item.mos)).unzip()
}

fn ones(values: &[f64]) -> Vec<f64> {
    vec![1.0; values.len()]
}
