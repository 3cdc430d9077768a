//! Heads that know how well a picture matches a prompt, on embeddings that stay as they are.

use std::collections::BTreeMap;

use anyhow::Context;
use tch::{Device, Kind, Tensor};

use super::probe::learn;
use super::text::Towers;
use super::vision::frames;
use crate::model::backbone::VisionBackbone;
use crate::model::{Bundle, ExpertSpec, Head, Parameters};
use crate::text::TokenIds;
use crate::train::config::Recipe;
use crate::train::initial::redrawn;
use crate::train::schedule::Schedule;
use crate::train::seed::rng;
use crate::train::synth::Lesson;
use crate::train::trial;

/// Prompts a picture.
const PROMPTS: usize = 4;
/// Passes over all pairs: they cost little, since no backbone computes.
const EPOCHS: u32 = 4;
const BATCH: usize = 256;

/// Pairs of a picture and a prompt; those of picture i are [`PROMPTS`] in a row.
struct Pairs {
    /// `[pairs, D]`
    text: Tensor,
    /// How well they match, standardised, `[pairs]`.
    matching: Tensor,
}

/// New contents of the heads' files, for the backbones in `backbones`.
pub(super) fn pretrain(
    bundle: &Bundle,
    seed: u64,
    towers: &Towers,
    pictures: &BTreeMap<u32, Vec<Lesson>>,
    backbones: &BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (side, pictures) in pictures {
        let pairs = Pairs::new(bundle, seed, towers, pictures)?;
        for spec in bundle.manifest().experts.iter().filter(|spec| spec.input_size == *side) {
            let backbone = backbones.get(&spec.backbone.weights).context("a backbone is missing")?;
            let features = features(spec, backbone, pictures)?;
            let head = Parameters::read(&spec.head, bundle.file(&spec.head)?.bytes(), Device::Cpu)?;
            let head = redrawn(&head, &spec.name, seed)?;
            pairs.teach(spec, &head, &features, seed)?;
            files.insert(spec.head.clone(), head.serialise()?);
        }
    }
    Ok(files)
}

/// `[pictures, C]`, in inference form.
fn features(spec: &ExpertSpec, backbone: &[u8], pictures: &[Lesson]) -> anyhow::Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let parameters = Parameters::read(&spec.backbone.weights, backbone, Device::Cpu)?;
    let backbone = VisionBackbone::load(spec, parameters.inference_weights(Kind::Float))?;
    let all: Vec<usize> = (0..pictures.len()).collect();
    let parts = all.chunks(BATCH).map(|items| anyhow::Ok(backbone.forward(&frames(spec, pictures, items)?)?));
    Ok(Tensor::f_cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?)
}

impl Pairs {
    fn new(bundle: &Bundle, seed: u64, towers: &Towers, pictures: &[Lesson]) -> anyhow::Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let tokenizer = trial::tokenizer(bundle)?;
        let mut rng = rng(seed, "pretrain/pairs");
        let (mut prompts, mut matching) = (Vec::new(), Vec::new());
        for picture in pictures.iter().flat_map(|picture| std::iter::repeat_n(picture, PROMPTS)) {
            let (prompt, matches) = picture.prompt(&mut rng);
            prompts.push(tokenizer.encode(&prompt));
            matching.push(matches);
        }
        let parts = prompts.chunks(BATCH).map(|prompts| towers.embed(&prompts.iter().collect::<Vec<&TokenIds>>()));
        let text = Tensor::f_cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?;
        let matching = Tensor::f_from_slice(&matching)?;
        let (mean, std) = (matching.f_mean(Kind::Float)?, matching.f_std(false)?);
        Ok(Self { text, matching: matching.f_sub(&mean)?.f_div(&std)? })
    }

    fn teach(&self, spec: &ExpertSpec, head: &Parameters, features: &Tensor, seed: u64) -> anyhow::Result<()> {
        let (count, width) = self.text.size2()?;
        let channels = features.size2()?.1;
        let recipe = Recipe { epochs: EPOCHS, batch: BATCH, learning_rate: 3e-3, ..Recipe::default() };
        let schedule = Schedule::new((0..count as usize).collect(), &recipe, seed);
        learn(&format!("{}, head", spec.name), &[head], &schedule, |batch| {
            let indices = |divisor: usize| {
                Tensor::f_from_slice(&batch.iter().map(|&pair| (pair / divisor) as i64).collect::<Vec<_>>())
            };
            let (pictures, pairs) = (indices(PROMPTS)?, indices(1)?);
            let network = Head::load(spec, head.weights(Kind::Float), channels, width)?;
            let counts = vec![1; batch.len()];
            let text = self.text.f_index_select(0, &pairs)?;
            let raw = network.forward(&features.f_index_select(0, &pictures)?, &counts, &text)?.raw;
            let errors = raw.f_sub(&self.matching.f_index_select(0, &pairs)?)?;
            Ok(errors.f_square()?.f_mean(Kind::Float)?)
        })
    }
}
