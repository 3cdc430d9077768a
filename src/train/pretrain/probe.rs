//! Learning to tell: a linear layer reads known numbers off a network's embeddings, and both learn by its errors. And
//! the loop of steps that all pretraining is.

use anyhow::ensure;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::model::Parameters;
use crate::train::optimiser::{AdamW, Options, clipping};
use crate::train::progress;
use crate::train::schedule::Schedule;
use crate::train::seed::rng;

/// Least standard deviation that numbers are divided by: some are 0 in all scenes.
const LEAST_STD: f64 = 0.01;

/// The linear layer, and what it is to read off each item.
pub(super) struct Probe {
    layer: Parameters,
    /// `[items, numbers]`, standardised over the items.
    targets: Tensor,
    /// How much each number counts, `[numbers]`.
    weights: Tensor,
}

impl Probe {
    /// For embeddings of `width`, and `rows` of numbers, one an item; `weights` says how much each number counts.
    pub(super) fn new(width: i64, rows: &[Vec<f32>], weights: &[f32], seed: u64) -> anyhow::Result<Self> {
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
        let layer = Parameters::new("probe", layer, Device::Cpu)?;
        let total: f32 = weights.iter().sum();
        let weights = Tensor::f_from_slice(weights)?.f_div_scalar(f64::from(total))?;
        Ok(Self { layer, targets: targets.f_sub(&mean)?.f_div(&std)?, weights })
    }

    /// Mean squared error of what is read off `embeddings` `[B, width]` of `items`, weighted over the numbers.
    fn loss(&self, embeddings: &Tensor, items: &[usize]) -> anyhow::Result<Tensor> {
        let mut layer = self.layer.weights(Kind::Float);
        let (weight, bias) = (layer.take("weight", &[-1, -1])?, layer.take("bias", &[-1])?);
        let items: Vec<i64> = items.iter().map(|&item| item as i64).collect();
        let targets = self.targets.f_index_select(0, &Tensor::f_from_slice(&items)?)?;
        let errors = embeddings.f_linear(&weight, Some(&bias))?.f_sub(&targets)?.f_square()?;
        Ok(errors.f_mul(&self.weights)?.f_sum(Kind::Float)?.f_div_scalar(items.len() as f64)?)
    }

    /// Teaches `networks`, whose embeddings of items `embed` gives, by `schedule`.
    pub(super) fn teach(
        &self,
        message: &str,
        networks: &[&Parameters],
        schedule: &Schedule,
        mut embed: impl FnMut(&[usize]) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<()> {
        let all: Vec<&Parameters> = networks.iter().copied().chain([&self.layer]).collect();
        learn(message, &all, schedule, |batch| self.loss(&embed(batch)?, batch))
    }
}

/// Lets `networks` learn from the `loss` of batches by `schedule`, and says what the mean loss over the last tenth of
/// all steps was: the loss being a share of the variance of something, what they cannot tell of it.
pub(super) fn learn(
    message: &str,
    networks: &[&Parameters],
    schedule: &Schedule,
    mut loss: impl FnMut(&[usize]) -> anyhow::Result<Tensor>,
) -> anyhow::Result<()> {
    let all = networks.iter().enumerate().flat_map(|(number, network)| {
        network.learnable().map(move |(key, tensor)| (format!("{number}.{key}"), tensor.shallow_clone()))
    });
    let mut optimiser = AdamW::new(all, Options::default())?;
    let bar = progress::count(message, schedule.steps());
    let mut losses = Vec::new();
    for batch in (0..schedule.epochs()).flat_map(|epoch| schedule.batches(epoch)) {
        let loss = loss(&batch)?;
        optimiser.backward(&loss)?;
        let norm = optimiser.gradient_norm()?;
        ensure!(norm.is_finite(), "{message}: the gradient is no number after {} steps", bar.position());
        optimiser.step(schedule.learning_rate(bar.position()), clipping(norm, 1.0))?;
        losses.push(f64::try_from(&loss)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let last = &losses[losses.len() - losses.len().div_ceil(10)..];
    let left = 100.0 * last.iter().sum::<f64>() / last.len() as f64;
    progress::say(&format!("{message}: {left:.1} % of the variance is left"));
    Ok(())
}
