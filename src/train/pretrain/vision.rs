//! Backbones that know what synthetic pictures show and how they are broken.

use std::collections::BTreeMap;

use anyhow::Context;
use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::Arguments;
use super::probe::Probe;
use crate::model::backbone::VisionBackbone;
use crate::model::{Bundle, ExpertSpec, Parameters};
use crate::train::config::Recipe;
use crate::train::initial::redrawn;
use crate::train::schedule::Schedule;
use crate::train::seed::rng;
use crate::train::synth::Lesson;
use crate::train::synth::scene::TRAITS;

/// Distortions are harder to see than colours and half of what a MOS is made of.
const DISTORTION_WEIGHT: f32 = 4.0;

/// New contents of the backbones' files. Experts with backbones alike start alike: each kind learns once, from pictures,
/// for the image track and the video track. `pictures` are those of every side.
pub(super) fn pretrain(
    bundle: &Bundle,
    arguments: &Arguments,
    pictures: &BTreeMap<u32, Vec<Lesson>>,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut learnt: Vec<(&ExpertSpec, u64, Vec<u8>)> = Vec::new();
    for spec in &bundle.manifest().experts {
        let file = bundle.file(&spec.backbone.weights)?;
        let length = file.bytes().len() as u64;
        let alike = |(other, bytes, _): &&(&ExpertSpec, u64, Vec<u8>)| {
            other.backbone.kind == spec.backbone.kind && other.input_size == spec.input_size && *bytes == length
        };
        if let Some((_, _, bytes)) = learnt.iter().find(alike) {
            files.insert(spec.backbone.weights.clone(), bytes.clone());
            continue;
        }
        let pictures = pictures.get(&spec.input_size).context("there are pictures of every side")?;
        // Made-up weights are spread so that every one of them shows in a score, not so that they learn well.
        let shapes = Parameters::read(&spec.backbone.weights, file.bytes(), Device::Cpu)?;
        let parameters = redrawn(&shapes, &spec.name, arguments.seed)?;
        let bytes = teach(spec, parameters, pictures, arguments)?;
        files.insert(spec.backbone.weights.clone(), bytes.clone());
        learnt.push((spec, length, bytes));
    }
    Ok(files)
}

fn teach(
    spec: &ExpertSpec,
    parameters: Parameters,
    pictures: &[Lesson],
    arguments: &Arguments,
) -> anyhow::Result<Vec<u8>> {
    let Arguments { seed, epochs, .. } = *arguments;
    let mut flips = rng(seed, "pretrain/flips");
    let mut embed = |items: &[usize]| -> anyhow::Result<Tensor> {
        let frames = frames(spec, pictures, items)?;
        let frames = if flips.random() { frames.f_flip([3])? } else { frames };
        Ok(VisionBackbone::load(spec, parameters.weights(Kind::Float))?.forward(&frames)?)
    };
    let width = embed(&[0, 1])?.size2()?.1;
    let numbers: Vec<Vec<f32>> = pictures.iter().map(|picture| picture.numbers.clone()).collect();
    let recipe = Recipe { epochs, batch: 32, learning_rate: 2e-3, ..Recipe::default() };
    let schedule = Schedule::new((0..pictures.len()).collect(), &recipe, seed);
    let count = numbers.first().map_or(0, Vec::len);
    let weights: Vec<f32> = (0..count).map(|number| if number < TRAITS { 1.0 } else { DISTORTION_WEIGHT }).collect();
    Probe::new(width, &numbers, &weights, seed)?.teach("backbone", &[&parameters], &schedule, embed)?;
    Ok(parameters.serialise()?)
}

/// `[B, 3, S, S]`, normalised as the backbone wants it.
pub(super) fn frames(spec: &ExpertSpec, pictures: &[Lesson], items: &[usize]) -> anyhow::Result<Tensor> {
    let pictures = items.iter().map(|&item| pictures.get(item)).collect::<Option<Vec<_>>>();
    let rgb: Vec<u8> =
        pictures.context("a picture is missing")?.iter().flat_map(|picture| picture.rgb.iter().copied()).collect();
    let side = i64::from(spec.input_size);
    let frames = Tensor::f_from_slice(&rgb)?.f_reshape([-1, side, side, 3])?.f_to_kind(Kind::Float)?;
    let statistics = |values: [f64; 3]| Tensor::f_from_slice(&values.map(|value| 255.0 * value as f32));
    let (mean, std) = (statistics(spec.backbone.mean)?, statistics(spec.backbone.std)?);
    Ok(frames.f_sub(&mean)?.f_div(&std)?.f_permute([0, 3, 1, 2])?.f_contiguous()?)
}
