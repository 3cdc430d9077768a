//! One expert that learns: its parameters, its optimiser, and a step of both.

use std::fs;
use std::path::Path;

use anyhow::Context;
use tch::{Device, Kind, Tensor};

use super::scale;
use super::start::{self, Start};
use super::words::Words;
use crate::media::Frames;
use crate::model::{Dtype, Expert, ExpertSpec, Inputs, Parameters, TextSpec, TextTower, upload};
use crate::text::TokenIds;
use crate::train::checkpoint::LossScale;
use crate::train::config::{ExpertSettings, Precision, Recipe};
use crate::train::optimiser::{AdamW, Options, clipping};

/// Files of an expert's weights, in a checkpoint and in the description of a bundle.
pub(in crate::train) const BACKBONE: &str = "backbone.safetensors";
/// As [`BACKBONE`].
pub(in crate::train) const HEAD: &str = "head.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";

/// How the networks compute.
#[derive(Debug, Clone, Copy)]
pub(in crate::train) struct Arithmetic {
    pub(in crate::train) device: Device,
    /// Never `Auto`.
    pub(in crate::train) precision: Precision,
}

impl Arithmetic {
    pub(super) fn kind(self) -> Kind {
        match self.precision {
            Precision::Auto | Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => Kind::Half,
        }
    }
}

/// What is to be made.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) expert: &'a ExpertSettings,
    pub(super) recipe: &'a Recipe,
    pub(super) text: &'a TextSpec,
    /// Width of the prompt embedding.
    pub(super) text_dim: i64,
    pub(super) arithmetic: Arithmetic,
}

/// Some items as the networks take them.
pub(super) struct Items<'a> {
    pub(super) frames: Vec<&'a Frames>,
    /// `[B, D]` on the device, by the frozen text towers.
    pub(super) text: Tensor,
    /// For text towers that learn.
    pub(super) prompts: Vec<&'a TokenIds>,
}

/// What is to be said of them.
pub(super) struct Answers {
    /// `[2, B]` on the device, as [`Goals::of`](super::goals::Goals::of) gives them.
    pub(super) targets: Tensor,
    /// As `targets`.
    pub(super) weights: Tensor,
}

/// What a step came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Mean over the batch.
    pub(super) loss: f64,
    /// Before clipping; none where the step was left out, since something overflowed in half precision.
    pub(super) gradient_norm: Option<f64>,
    /// Whether there is a point in another step: not after a loss or a gradient that is no finite number, but for half
    /// precision, which overflows now and then.
    pub(super) went_on: bool,
}

/// One expert that learns.
pub(super) struct Learner {
    spec: ExpertSpec,
    text_dim: i64,
    backbone: Parameters,
    head: Parameters,
    /// None where the text towers are frozen.
    words: Option<Words>,
    optimiser: AdamW,
    arithmetic: Arithmetic,
    micro_batch: usize,
    clip: f64,
    scale: Option<LossScale>,
}

/// The networks of one moment.
pub(super) struct Networks {
    expert: Expert,
    towers: Option<Vec<TextTower>>,
}

impl Learner {
    /// From the weights that `plan.expert` names, or all new ones by `seed` where `fresh`.
    pub(super) fn start(plan: Plan, fresh: bool, seed: u64) -> anyhow::Result<(Self, Start)> {
        let device = plan.arithmetic.device;
        let (backbone, head, start) = start::parameters(plan.expert, plan.text_dim, device, fresh, seed)?;
        let words = if plan.recipe.train_text { Some(Words::start(plan.text, device)?) } else { None };
        Ok((Self::new(plan, backbone, head, words)?, start))
    }

    /// As it was when [`files`](Self::files) gave what is in the checkpoint at `directory`.
    pub(super) fn resume(plan: Plan, directory: &Path, scale: Option<LossScale>) -> anyhow::Result<Self> {
        let device = plan.arithmetic.device;
        let bytes = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))
        };
        let read = |name: &str| -> anyhow::Result<Parameters> { Ok(Parameters::read(name, &bytes(name)?, device)?) };
        let words = if plan.recipe.train_text { Some(Words::resume(plan.text, read)?) } else { None };
        let mut learner = Self::new(plan, read(BACKBONE)?, read(HEAD)?, words)?;
        learner.optimiser.restore(OPTIMISER, &bytes(OPTIMISER)?)?;
        learner.scale = scale;
        Ok(learner)
    }

    fn new(plan: Plan, backbone: Parameters, head: Parameters, words: Option<Words>) -> anyhow::Result<Self> {
        let Plan { expert, recipe, text_dim, arithmetic, .. } = plan;
        let mut parts = vec![("backbone".to_owned(), &backbone), ("head".to_owned(), &head)];
        parts.extend(words.iter().flat_map(Words::parameters));
        let all = parts.iter().flat_map(|(part, parameters)| {
            parameters.learnable().map(move |(key, tensor)| (format!("{part}.{key}"), tensor.shallow_clone()))
        });
        let optimiser = AdamW::new(all, Options { weight_decay: recipe.weight_decay, ..Options::default() })?;
        let scale = (recipe.precision == Precision::Fp16).then(scale::first);
        let micro_batch = recipe.at_once();
        let spec = expert.spec(BACKBONE, HEAD);
        Ok(Self { spec, text_dim, backbone, head, words, optimiser, arithmetic, micro_batch, clip: recipe.clip, scale })
    }

    /// How a bundle describes this expert; its files are those of a checkpoint.
    pub(super) fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    /// Where the networks are.
    pub(super) fn device(&self) -> Device {
        self.arithmetic.device
    }

    /// Learnable numbers of the expert.
    pub(super) fn parameters(&self) -> usize {
        self.backbone.count() + self.head.count()
    }

    /// How the loss is scaled now, in fp16.
    pub(super) fn loss_scale(&self) -> Option<LossScale> {
        self.scale
    }

    /// Everything that a step changes, by file name.
    pub(super) fn files(&self) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut files =
            vec![(BACKBONE.to_owned(), self.backbone.serialise()?), (HEAD.to_owned(), self.head.serialise()?)];
        if let Some(words) = &self.words {
            files.extend(words.files()?);
        }
        files.push((OPTIMISER.to_owned(), self.optimiser.serialise()?));
        Ok(files)
    }

    /// One step at learning rate `rate`. Where the loss is no finite number, no weight changes.
    pub(super) fn step(&mut self, items: &Items, answers: &Answers, rate: f64) -> anyhow::Result<Outcome> {
        let count = items.frames.len();
        let scale = self.scale.map_or(1.0, |scale| scale.scale);
        self.optimiser.discard();
        let mut loss = 0.0;
        for start in (0..count).step_by(self.micro_batch.max(1)) {
            let length = self.micro_batch.max(1).min(count - start);
            let part = |rows: &Tensor| rows.f_narrow(1, start as i64, length as i64);
            // Made anew for every part: the graph of the one before is gone with its gradients.
            let networks = self.networks(true)?;
            let raw = self.raw(&networks, &items.part(start, length)?)?;
            let errors = part(&answers.targets)?.f_sub(&raw)?.f_square()?.f_mul(&part(&answers.weights)?)?;
            let share = errors.f_sum(Kind::Float)?.f_div_scalar(count as f64)?;
            loss += f64::try_from(&share)?;
            self.optimiser.backward(&share.f_mul_scalar(scale)?)?;
        }
        let norm = self.optimiser.gradient_norm()? / scale;
        if loss.is_finite() && norm.is_finite() {
            self.optimiser.step(rate, clipping(norm, self.clip) / scale)?;
            self.scale.iter_mut().for_each(scale::grow);
            return Ok(Outcome { loss, gradient_norm: Some(norm), went_on: true });
        }
        Ok(Outcome { loss, gradient_norm: None, went_on: self.scale.as_mut().is_some_and(scale::shrink) })
    }

    /// The networks as they would be served now.
    pub(super) fn served(&self) -> anyhow::Result<Networks> {
        let _no_grad = tch::no_grad_guard();
        self.networks(false)
    }

    /// Raw scores by `networks`, which [`served`](Self::served) gave.
    pub(super) fn judge(&self, networks: &Networks, items: &Items) -> anyhow::Result<Vec<f64>> {
        let _no_grad = tch::no_grad_guard();
        let raw = self.raw(networks, items)?;
        Ok(Vec::try_from(raw.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
    }

    fn networks(&self, learning: bool) -> anyhow::Result<Networks> {
        let kind = self.arithmetic.kind();
        let (backbone, head) = match learning {
            true => (self.backbone.weights(kind), self.head.weights(Kind::Float)),
            false => (self.backbone.inference_weights(kind), self.head.inference_weights(Kind::Float)),
        };
        let expert = Expert::load(&self.spec, backbone, head, self.text_dim)?;
        let towers = self.words.as_ref().map(|words| words.towers(learning, kind)).transpose()?;
        Ok(Networks { expert, towers })
    }

    fn raw(&self, networks: &Networks, items: &Items) -> anyhow::Result<Tensor> {
        let uploaded = upload(&items.frames, &[self.spec.input_size], self.arithmetic.device)?;
        let input = Inputs::new(Dtype::F32, &uploaded).normalised(&self.spec)?.f_to_kind(self.arithmetic.kind())?;
        let counts: Vec<i64> = items.frames.iter().map(|frames| i64::from(frames.count)).collect();
        let text = match (&self.words, &networks.towers) {
            (Some(words), Some(towers)) => words.embed(towers, &items.prompts)?,
            _ => items.text.shallow_clone(),
        };
        Ok(networks.expert.judge(&networks.expert.features(&input)?, &counts, &text)?.raw)
    }
}

impl<'a> Items<'a> {
    fn part(&self, start: usize, length: usize) -> anyhow::Result<Items<'a>> {
        let frames = self.frames.iter().skip(start).take(length).copied().collect();
        let prompts = self.prompts.iter().skip(start).take(length).copied().collect();
        Ok(Items { frames, text: self.text.f_narrow(0, start as i64, length as i64)?, prompts })
    }
}
