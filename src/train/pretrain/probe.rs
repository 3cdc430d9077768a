//! Learning to tell: a linear layer reads known numbers off a network's embeddings, and both learn by its errors.

use anyhow::ensure;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::model::Parameters;
use crate::train::optimiser::{AdamW, AdamWOptions};
use crate::train::progress;
use crate::train::schedule::Schedule;
use crate::train::seed::rng;

/// Least standard deviation that numbers are divided by: some are 0 in all scenes.
const LEAST_STD: f64 = 0.05;

/// The linear layer, and what it is to read off each item.
pub(super) struct Probe {
    layer: Parameters,
    /// `[items, numbers]`, standardised over the items.
    targets: Tensor,
}

impl Probe {
    /// For embeddings of `width`, and `rows` of numbers, one an item.
    pub(super) fn new(width: i64, rows: &[Vec<f32>], seed: u64) -> anyhow::Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let numbers = rows.first().map_or(0, Vec::len) as i64;
        let targets = Tensor::f_from_slice(&rows.concat())?.f_reshape([-1, numbers])?;
        let mean = targets.f_mean_dim([0].as_slice(), true, Kind::Float)?;
        let std = targets.f_std_dim([0].as_slice(), false, true)?.f_clamp_min(LEAST_STD)?;
        let mut rng = rng(seed, "pretrain/probe");
        let reach = (width as f32).sqrt().recip();
        let weight: Vec<f32> = (0..width * numbers).map(|_| rng.random_range(-reach..reach)).collect();
        let layer = [
            ("weight".to_owned(), Tensor::f_from_slice(&weight)?.f_reshape([numbers, width])?),
            ("bias".to_owned(), Tensor::f_zeros([numbers], (Kind::Float, Device::Cpu))?),
        ];
        Ok(Self { layer: Parameters::new("probe", layer, Device::Cpu)?, targets: targets.f_sub(&mean)?.f_div(&std)? })
    }

    /// Mean squared error of what is read off `embeddings` `[B, width]` of `items`.
    fn loss(&self, embeddings: &Tensor, items: &[usize]) -> anyhow::Result<Tensor> {
        let mut weights = self.layer.weights(Kind::Float);
        let (weight, bias) = (weights.take("weight", &[-1, -1])?, weights.take("bias", &[-1])?);
        let items: Vec<i64> = items.iter().map(|&item| item as i64).collect();
        let targets = self.targets.f_index_select(0, &Tensor::f_from_slice(&items)?)?;
        Ok(embeddings.f_linear(&weight, Some(&bias))?.f_mse_loss(&targets, tch::Reduction::Mean)?)
    }

    /// Teaches `networks`, whose embeddings of items `embed` gives, by `schedule`. Returns the mean loss of the last
    /// epoch: the share of the numbers' variance that cannot be read off.
    pub(super) fn teach(
        &self,
        message: &'static str,
        networks: &[&Parameters],
        schedule: &Schedule,
        epochs: u32,
        mut embed: impl FnMut(&[usize]) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<f64> {
        let numbered = networks.iter().copied().chain([&self.layer]).enumerate();
        let all = numbered.flat_map(|(number, network)| {
            network.learnable().map(move |(key, tensor)| (format!("{number}.{key}"), tensor))
        });
        let mut optimiser = AdamW::new(all, AdamWOptions::default())?;
        let bar = progress::count(message, schedule.steps());
        let mut mean = f64::NAN;
        for epoch in 0..epochs {
            let batches = schedule.batches(epoch);
            let count = batches.len() as f64;
            let mut sum = 0.0;
            for batch in batches {
                let loss = self.loss(&embed(&batch)?, &batch)?;
                optimiser.backward(&loss)?;
                let norm = optimiser.step(schedule.learning_rate(bar.position()), 1.0)?;
                ensure!(norm.is_finite(), "{message}: the gradient is no number after {} steps", bar.position());
                sum += f64::try_from(&loss)?;
                bar.inc(1);
            }
            mean = sum / count;
        }
        bar.finish_and_clear();
        eprintln!("{message}: {:.1} % of the variance is left", 100.0 * mean);
        Ok(mean)
    }
}
