//! What the values of a run's settings may be.

use std::fmt::Display;

use anyhow::{anyhow, bail, ensure};

use super::{Recipe, Settings, SplitSettings};

/// What numbers may be, by key.
const RANGES: [(&str, &str); 20] = [
    ("max_frames", "1 to 64"),
    ("threads", "at most 1024"),
    ("split.held_out", "0 to below 1"),
    ("split.folds", "at least 2"),
    ("split.fold", "0 to below split.folds"),
    ("recipe.epochs", "1 to 100000"),
    ("recipe.batch", "1 to 65536"),
    ("recipe.learning_rate", "more than 0"),
    ("recipe.warmup", "0 to 1"),
    ("recipe.weight_decay", "0 to below 1"),
    ("recipe.clip", "more than 0"),
    ("augmentation.flip", "0 to 1"),
    ("augmentation.crop_area", "above 0 to 1"),
    ("augmentation.crop_aspect", "1 to 2"),
    ("augmentation.brightness", "0 to 1"),
    ("augmentation.contrast", "0 to 1"),
    ("keep.unreadable", "0 to 1"),
    ("teacher.share", "0 to 1"),
    ("experts[].latent", "1 to 65536"),
    ("experts[].hidden", "1 to 65536"),
];

fn range(key: &str) -> Option<&'static str> {
    // Every expert's numbers have the same range.
    let (start, rest) = key.split_once('[').unwrap_or((key, ""));
    let key = rest.split_once(']').map_or(key.to_owned(), |(_, rest)| format!("{start}[]{rest}"));
    RANGES.iter().find(|(known, _)| *known == key).map(|(_, range)| *range)
}

/// `problem`, which serde found with the value at `key`, in words that do not take Rust to understand.
pub(super) fn in_words(key: &str, problem: &str) -> String {
    let Some((found, expected)) = problem.rsplit_once(", expected ") else { return format!("{key}: {problem}") };
    let (kind, least) = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => ("a whole number", Some("at least 0")),
        "f32" | "f64" => ("a number", None),
        "a boolean" => ("true or false", None),
        other => (other, None),
    };
    match range(key).or(least) {
        Some(range) => format!("{key}: {found}, expected {kind}, {range}"),
        None => format!("{key}: {found}, expected {kind}"),
    }
}

fn demand(key: &str, value: impl Display, is_fine: bool) -> anyhow::Result<()> {
    ensure!(is_fine, "{key}: is {value}, expected {}", range(key).unwrap_or("another value"));
    Ok(())
}

impl Settings {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names the key, the limit and the value.
    pub fn check(&self) -> anyhow::Result<()> {
        demand("max_frames", self.max_frames, (1..=64).contains(&self.max_frames))?;
        demand("threads", self.threads, self.threads <= 1024)?;
        ensure!(
            self.bundle.is_some() || self.text.is_some(),
            "bundle: is missing, and so is text; one of them says where the text towers are"
        );
        ensure!(
            self.bundle.is_some() || !self.experts.is_empty(),
            "bundle: is missing, and so is experts; one of them says what is trained"
        );
        check_split(&self.split)?;
        check_recipe(&self.recipe)?;
        if let Some(augmentation) = &self.augmentation {
            augmentation.check().map_err(|error| anyhow!("augmentation.{error}"))?;
        }
        demand("keep.unreadable", self.keep.unreadable, (0.0..=1.0).contains(&self.keep.unreadable))?;
        if let Some(teacher) = &self.teacher {
            demand("teacher.share", teacher.share, (0.0..=1.0).contains(&teacher.share))?;
        }
        for (index, expert) in self.experts.iter().enumerate() {
            for (key, width) in [("latent", expert.latent), ("hidden", expert.hidden)] {
                demand(&format!("experts[{index}].{key}"), width, (1..=65536).contains(&width))?;
            }
            let twin = self.experts.iter().take(index).any(|other| other.name == expert.name);
            ensure!(!twin, "experts[{index}].name: is {:?}, which another expert has", expert.name);
        }
        Ok(())
    }
}

fn check_split(split: &SplitSettings) -> anyhow::Result<()> {
    demand("split.held_out", split.held_out, (0.0..1.0).contains(&split.held_out))?;
    match (split.folds, split.fold) {
        (None, None) => {}
        (Some(folds), _) if folds < 2 => demand("split.folds", folds, false)?,
        (Some(folds), Some(fold)) => {
            ensure!(fold < folds, "split.fold: is {fold}, expected 0 to {} of split.folds", folds - 1);
        }
        (Some(_), None) => bail!("split.fold: is missing, but split.folds is given"),
        (None, Some(_)) => bail!("split.folds: is missing, but split.fold is given"),
    }
    Ok(())
}

fn check_recipe(recipe: &Recipe) -> anyhow::Result<()> {
    let Recipe { epochs, batch, learning_rate, warmup, weight_decay, clip, .. } = *recipe;
    let above_zero = |value: f64| value.is_finite() && value > 0.0;
    demand("recipe.epochs", epochs, (1..=100_000).contains(&epochs))?;
    demand("recipe.batch", batch, (1..=65536).contains(&batch))?;
    demand("recipe.learning_rate", learning_rate, above_zero(learning_rate))?;
    demand("recipe.warmup", warmup, (0.0..=1.0).contains(&warmup))?;
    demand("recipe.weight_decay", weight_decay, (0.0..1.0).contains(&weight_decay))?;
    demand("recipe.clip", clip, above_zero(clip))
}
