//! Cross-validation: every part of the data held out once, one run each.

use std::path::Path;

use super::{Machine, run_or_go_on};
use crate::train::config::Settings;
use crate::train::evaluate::table;
use crate::train::floors::floors;
use crate::train::print;
use crate::train::statistics::{Figure, Metrics};

/// Name of the folder of the run that holds out part `fold`.
pub(super) fn folder(fold: usize) -> String {
    format!("fold-{fold}")
}

/// Runs one expert's `settings` once for each of `folds` parts, in the folders `folder`/fold-0 and on, and prints the
/// figures of each part, their mean, those of all held-out predictions together, and the floors of the same items. Runs
/// that are there go on where they were.
pub(super) fn cross_validate(
    settings: &Settings,
    folds: usize,
    folder: &Path,
    machine: &Machine,
) -> anyhow::Result<()> {
    let (mut rows, mut together) = (Vec::new(), Vec::new());
    for fold in 0..folds {
        let mut settings = settings.clone();
        (settings.split.folds, settings.split.fold) = (Some(folds), Some(fold));
        let judged = run_or_go_on(&settings, &folder.join(self::folder(fold)), machine)?;
        rows.push((format!("fold {fold}"), Metrics::new(&judged)));
        together.extend(judged);
    }
    let all = Metrics::new(&together);
    let mean = mean(&rows, &all);
    rows.extend([("mean of the folds".to_owned(), mean), ("all folds together".to_owned(), all)]);
    rows.extend(floors(&together).into_iter().map(|(name, metrics)| (name.to_owned(), metrics)));
    Ok(print(&format!("{}: every part held out once\n{}\n", folder.display(), table(&rows)))?)
}

/// Every figure's mean over `folds`; None where a fold has none. Counts are those of `all`.
fn mean(folds: &[(String, Metrics)], all: &Metrics) -> Metrics {
    let of = |figure: fn(&Metrics) -> Option<Figure>| {
        let values: Option<Vec<f64>> = folds.iter().map(|(_, metrics)| Some(figure(metrics)?.value)).collect();
        values.map(|values| Figure { value: values.iter().sum::<f64>() / folds.len() as f64, interval: None })
    };
    Metrics {
        items: all.items,
        prompts: all.prompts,
        srcc: of(|metrics| metrics.srcc),
        plcc: of(|metrics| metrics.plcc),
        plcc_fitted: of(|metrics| metrics.plcc_fitted),
        krcc: of(|metrics| metrics.krcc),
        rmse: of(|metrics| metrics.rmse),
        rmse_fitted: of(|metrics| metrics.rmse_fitted),
        main: of(|metrics| metrics.main),
        srcc_within_generator: of(|metrics| metrics.srcc_within_generator),
    }
}
