//! What an expert learns to say of each item: its MOS, normalised, and with a teacher also the teacher's z.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// How a MOS becomes what an expert learns: `(mos - mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normal {
    /// Mean MOS of the training items.
    pub mean: f64,
    /// Their population standard deviation, > 0.
    pub std: f64,
}

impl Normal {
    /// Of the training items' MOS.
    ///
    /// # Errors
    ///
    /// When there are none, or they are all the same.
    pub fn of(mos: &[f64]) -> anyhow::Result<Self> {
        ensure!(!mos.is_empty(), "no training item has a MOS");
        let count = mos.len() as f64;
        let mean = mos.iter().sum::<f64>() / count;
        let std = (mos.iter().map(|mos| (mos - mean).powi(2)).sum::<f64>() / count).sqrt();
        ensure!(std > 0.0 && std.is_finite(), "all {count} training items have the same MOS, {mean}");
        Ok(Self { mean, std })
    }

    /// On the data set's scale.
    pub fn mos(&self, raw: f64) -> f64 {
        self.mean + self.std * raw
    }

    /// What an expert learns to say.
    pub fn raw(&self, mos: f64) -> f64 {
        (mos - self.mean) / self.std
    }
}

/// What is known of one item.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::train) struct Goal {
    /// Normalised.
    pub(in crate::train) mos: Option<f64>,
    /// A teacher's z.
    pub(in crate::train) teacher: Option<f64>,
}

/// The goals of all items of a data set.
#[derive(Debug)]
pub(in crate::train) struct Goals {
    goals: Vec<Goal>,
    /// Share of the teacher in the loss of an item that has both, 0 to 1.
    teacher_share: f64,
}

impl Goals {
    pub(in crate::train) fn new(goals: Vec<Goal>, teacher_share: f64) -> Self {
        Self { goals, teacher_share }
    }

    /// Targets and weights of `items`, `[2, items.len()]` each: an item's loss is the sum over both rows of weight times
    /// squared difference. Its weights add up to 1.
    pub(in crate::train) fn of(&self, items: &[usize], device: Device) -> anyhow::Result<(Tensor, Tensor)> {
        let (mut targets, mut weights) = (vec![0.0f32; 2 * items.len()], vec![0.0f32; 2 * items.len()]);
        for (column, &item) in items.iter().enumerate() {
            let goal = self.goals.get(item).context("an item has no goal")?;
            let teacher = match (goal.mos, goal.teacher) {
                (Some(_), Some(_)) => self.teacher_share,
                (None, Some(_)) => 1.0,
                _ => 0.0,
            };
            let rows = [(goal.mos, 1.0 - teacher), (goal.teacher, teacher)];
            for (row, (target, weight)) in rows.into_iter().enumerate() {
                let place = row * items.len() + column;
                if let (Some(target), Some(targets), Some(weights)) =
                    (target, targets.get_mut(place), weights.get_mut(place))
                {
                    *targets = target as f32;
                    *weights = weight as f32;
                }
            }
        }
        let tensor = |values: &[f32]| -> anyhow::Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_reshape([2, -1])?.f_to_device(device)?)
        };
        Ok((tensor(&targets)?, tensor(&weights)?))
    }

    /// What is known of `item`.
    pub(in crate::train) fn get(&self, item: usize) -> Goal {
        self.goals.get(item).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_an_item_add_up_to_one() {
        let goal = |mos, teacher| Goal { mos, teacher };
        let goals = vec![goal(Some(1.0), None), goal(None, Some(2.0)), goal(Some(3.0), Some(4.0))];
        let (targets, weights) = Goals::new(goals, 0.25).of(&[2, 0, 1], Device::Cpu).unwrap();
        let flat = |tensor: Tensor| Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
        assert_eq!(flat(targets), [3.0, 1.0, 0.0, 4.0, 0.0, 2.0]);
        assert_eq!(flat(weights), [0.75, 1.0, 0.0, 0.25, 0.0, 1.0]);
    }

    #[test]
    fn normal_is_of_the_whole_population_and_refuses_what_has_no_width() {
        assert_eq!(Normal::of(&[1.0, 3.0]).unwrap(), Normal { mean: 2.0, std: 1.0 });
        assert!(Normal::of(&[]).is_err());
        assert!(Normal::of(&[2.0, 2.0]).is_err());
    }
}
