//! When what happens: the learning rate of every step and the items of every batch, from the settings and the seed
//! alone. Nothing here has a state, so a run that goes on finds its place by the number of its step.

use std::f64::consts::PI;

use rand::seq::SliceRandom;

use super::config::Recipe;
use super::seed::rng;

/// The steps of one run.
#[derive(Debug, Clone)]
pub struct Schedule {
    items: Vec<usize>,
    batch: usize,
    epochs: u32,
    seed: u64,
    learning_rate: f64,
    /// Steps before the learning rate begins to fall.
    warmup: u64,
}

impl Schedule {
    /// For training on `items`, which are indices into the data set; there is at least one.
    pub fn new(items: Vec<usize>, recipe: &Recipe, seed: u64) -> Self {
        let mut schedule = Self {
            items,
            batch: recipe.batch.max(1),
            epochs: recipe.epochs,
            seed,
            learning_rate: recipe.learning_rate,
            warmup: 0,
        };
        schedule.warmup = (schedule.steps() as f64 * recipe.warmup).round() as u64;
        schedule
    }

    /// Passes over the items.
    pub fn epochs(&self) -> u32 {
        self.epochs
    }

    /// Steps of one epoch. Items that do not fill a batch sit the epoch out, others in the next; fewer than one batch
    /// make a smaller one.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.items.len() / self.batch).max(1) as u64
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.epochs)
    }

    /// The learning rate of step `step`, the first being 0: a straight line up to the highest one, which the last step
    /// of the warm-up has, then half a cosine, which would reach 0 one step after the last.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let falling = (self.steps() - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / falling).min(1.0);
        self.learning_rate * 0.5 * (1.0 + (PI * progress).cos())
    }

    /// The batches of `epoch`, the first being 0, in their order.
    pub fn batches(&self, epoch: u32) -> Vec<Vec<usize>> {
        let mut order = self.items.clone();
        order.shuffle(&mut rng(self.seed, &format!("order/epoch/{epoch}")));
        let steps = self.steps_per_epoch() as usize;
        order.chunks(self.batch).take(steps).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn schedule(items: usize, recipe: Recipe) -> Schedule {
        Schedule::new((100..100 + items).collect(), &recipe, 7)
    }

    #[test]
    fn learning_rate_rises_in_a_line_and_falls_as_a_cosine() {
        let recipe = Recipe { epochs: 10, batch: 10, learning_rate: 2.0, warmup: 0.1, ..Recipe::default() };
        let schedule = schedule(100, recipe);
        assert_eq!(schedule.steps(), 100);
        assert!((schedule.learning_rate(0) - 0.2).abs() < 1e-12);
        assert!((schedule.learning_rate(9) - 2.0).abs() < 1e-12);
        assert!((schedule.learning_rate(10) - 2.0).abs() < 1e-12);
        assert!((schedule.learning_rate(55) - 1.0).abs() < 1e-12);
        assert!(schedule.learning_rate(99) < 0.001);
        assert!((10..99).all(|step| schedule.learning_rate(step) > schedule.learning_rate(step + 1)));
    }

    #[test]
    fn an_epoch_takes_every_item_at_most_once_and_epochs_differ() {
        let schedule = schedule(103, Recipe { batch: 10, ..Recipe::default() });
        let (first, second) = (schedule.batches(0), schedule.batches(1));
        assert_eq!(first.len(), 10);
        assert!(first.iter().all(|batch| batch.len() == 10));
        let distinct: BTreeSet<usize> = first.iter().flatten().copied().collect();
        assert_eq!(distinct.len(), 100);
        assert!(distinct.iter().all(|item| (100..203).contains(item)));
        assert_ne!(first, second);
        assert_eq!(first, schedule.batches(0));
    }

    #[test]
    fn few_items_make_one_smaller_batch() {
        let schedule = schedule(3, Recipe { batch: 10, ..Recipe::default() });
        assert_eq!(schedule.batches(0).iter().map(Vec::len).collect::<Vec<_>>(), [3]);
    }
}
