//! What the values of a run's settings may be.

use anyhow::{bail, ensure};

use super::{Recipe, Settings, SplitSettings};

impl Settings {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names the key, the limit and the value.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=64).contains(&self.max_frames), "max_frames: is {}, expected 1 to 64", self.max_frames);
        ensure!(self.threads <= 1024, "threads: is {}, expected at most 1024", self.threads);
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
        let unreadable = self.keep.unreadable;
        ensure!((0.0..=1.0).contains(&unreadable), "keep.unreadable: is {unreadable}, expected 0 to 1");
        if let Some(teacher) = &self.teacher {
            ensure!((0.0..=1.0).contains(&teacher.share), "teacher.share: is {}, expected 0 to 1", teacher.share);
        }
        for (index, expert) in self.experts.iter().enumerate() {
            for (key, width) in [("latent", expert.latent), ("hidden", expert.hidden)] {
                ensure!((1..=65536).contains(&width), "experts[{index}].{key}: is {width}, expected 1 to 65536");
            }
            let twin = self.experts.iter().take(index).any(|other| other.name == expert.name);
            ensure!(!twin, "experts[{index}].name: is {:?}, which another expert has", expert.name);
        }
        Ok(())
    }
}

fn check_split(split: &SplitSettings) -> anyhow::Result<()> {
    let held_out = split.held_out;
    ensure!((0.0..1.0).contains(&held_out), "split.held_out: is {held_out}, expected 0 to below 1");
    match (split.folds, split.fold) {
        (None, None) => {}
        (Some(folds), _) if folds < 2 => bail!("split.folds: is {folds}, expected at least 2"),
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
    ensure!((1..=100_000).contains(&epochs), "recipe.epochs: is {epochs}, expected 1 to 100000");
    ensure!((1..=65536).contains(&batch), "recipe.batch: is {batch}, expected 1 to 65536");
    let above_zero = |value: f64| value.is_finite() && value > 0.0;
    ensure!(above_zero(learning_rate), "recipe.learning_rate: is {learning_rate}, expected more than 0");
    ensure!((0.0..=1.0).contains(&warmup), "recipe.warmup: is {warmup}, expected 0 to 1");
    ensure!((0.0..1.0).contains(&weight_decay), "recipe.weight_decay: is {weight_decay}, expected 0 to below 1");
    ensure!(above_zero(clip), "recipe.clip: is {clip}, expected more than 0");
    Ok(())
}
