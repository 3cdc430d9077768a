//! Backbones that know what synthetic pictures show and how they are broken.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

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
use crate::train::synth::distort::Distortion;

/// Distortions are harder to see than colours and half of what a MOS is made of.
const DISTORTION_WEIGHT: f32 = 4.0;

/// New contents of the backbones' files. Experts with backbones alike start alike: each kind learns once, from pictures,
/// for the image track and the video track. `pictures` are those of every side.
pub(super) fn pretrain(
    bundle: &Bundle,
    arguments: &Arguments,
    pictures: &BTreeMap<u32, Vec<Lesson>>,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut kinds: Vec<(&ExpertSpec, u64)> = Vec::new();
    let mut kind_of: Vec<(&ExpertSpec, usize)> = Vec::new();
    for spec in &bundle.manifest().experts {
        let length = bundle.file(&spec.backbone.weights)?.bytes().len() as u64;
        let alike = |(other, bytes): &(&ExpertSpec, u64)| {
            other.backbone.kind == spec.backbone.kind && other.input_size == spec.input_size && *bytes == length
        };
        let kind = kinds.iter().position(alike).unwrap_or(kinds.len());
        if kind == kinds.len() {
            kinds.push((spec, length));
        }
        kind_of.push((spec, kind));
    }
    let specs: Vec<&ExpertSpec> = kinds.into_iter().map(|(spec, _)| spec).collect();
    let learnt = side_by_side(&specs, |spec| {
        let pictures = pictures.get(&spec.input_size).context("there are pictures of every side")?;
        let weights = &spec.backbone.weights;
        // Made-up weights are spread so that every one of them shows in a score, not so that they learn well.
        let shapes = Parameters::read(weights, bundle.file(weights)?.bytes(), Device::Cpu)?;
        let parameters = redrawn(&shapes, &spec.name, arguments.seed)?;
        teach(spec, parameters, pictures, arguments)
    })?;
    let file = |(spec, kind): (&ExpertSpec, usize)| Some((spec.backbone.weights.clone(), learnt.get(kind)?.clone()));
    Ok(kind_of.into_iter().filter_map(file).collect())
}

/// What `learn` makes of every one of `items`, in their order. Small networks do not fill more than one core each: as
/// many as there are threads learn at the same time, with one thread each, so that what comes out does not depend on the
/// number of cores either.
fn side_by_side<T: Send>(
    items: &[&ExpertSpec],
    learn: impl Fn(&ExpertSpec) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            match items.get(number) {
                Some(item) => made.push((number, learn(item))),
                None => return made,
            }
        }
    };
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let mut made: Vec<(usize, anyhow::Result<T>)> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(lane)).collect();
        let joined = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.flatten().collect()
    });
    tch::set_num_threads(threads);
    made.sort_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, made)| made).collect()
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
    let weights: Vec<f32> = (0..count)
        .map(|number| if number + Distortion::STILL.len() < count { 1.0 } else { DISTORTION_WEIGHT })
        .collect();
    Probe::new(width, &numbers, &weights, seed)?.teach(&spec.name, &[&parameters], &schedule, embed)?;
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
