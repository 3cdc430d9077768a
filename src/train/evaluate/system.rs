//! What one judge predicts for the items of one track.

use serde::Serialize;

use crate::train::dataset::Item;
use crate::train::statistics::Judged;

/// What kind of judge it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The bundle's experts together, by Eq. 4.
    Ensemble,
    /// One of them.
    Expert,
    /// The ensemble, asked about other items' prompts.
    ShuffledPrompts,
    /// A file of predictions.
    Predictions,
    /// No judge of pictures.
    Floor,
}

/// One judge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct System {
    /// Its row's name.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether with test-time augmentation, where that is a question.
    pub(super) tta: Option<bool>,
    /// By item; None where it has none.
    pub(super) predicted: Vec<Option<f64>>,
}

impl System {
    /// The items that have both a MOS and a prediction.
    pub(super) fn judged(&self, items: &[Item]) -> Vec<Judged> {
        let judged = |(item, &predicted): (&Item, &Option<f64>)| {
            Some(Judged {
                mos: item.mos?,
                predicted: predicted?,
                prompt: item.prompt.clone(),
                generator: item.generator.clone(),
                group: item.group.clone(),
                name: item.name.clone(),
                path: item.path.clone(),
            })
        };
        items.iter().zip(&self.predicted).filter_map(judged).collect()
    }
}
