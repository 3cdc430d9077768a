//! Text towers that know the words of synthetic prompts.

use std::collections::BTreeMap;

use anyhow::Context;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use super::Arguments;
use super::probe::Probe;
use crate::model::{Bundle, Parameters, TextSpec, TextTower, unit_length};
use crate::text::TokenIds;
use crate::train::config::Recipe;
use crate::train::schedule::Schedule;
use crate::train::seed::rng;
use crate::train::synth::Part;
use crate::train::synth::scene::{Scene, TRAITS};
use crate::train::trial;

/// All text towers of a bundle, side by side as an ensemble has them.
pub(super) struct Towers<'a> {
    text: &'a TextSpec,
    parameters: Vec<Parameters>,
}

impl<'a> Towers<'a> {
    /// The towers of `bundle`, taught with what `arguments` say.
    pub(super) fn pretrain(bundle: &'a Bundle, arguments: &Arguments) -> anyhow::Result<Self> {
        let Arguments { seed, prompts, epochs, .. } = *arguments;
        let text = &bundle.manifest().text;
        let (prompts, traits) = draw(bundle, prompts, seed)?;
        let read = |name: &String| anyhow::Ok(Parameters::read(name, bundle.file(name)?.bytes(), Device::Cpu)?);
        let parameters = text.towers.iter().map(|spec| read(&spec.weights)).collect::<anyhow::Result<_>>()?;
        let towers = Self { text, parameters };

        let embed = |items: &[usize]| {
            let prompts = items.iter().map(|&item| prompts.get(item)).collect::<Option<Vec<_>>>();
            towers.embed(&prompts.context("a prompt is missing")?)
        };
        let width = embed(&[0])?.size2()?.1;
        let recipe = Recipe { epochs, batch: 64, learning_rate: 3e-3, ..Recipe::default() };
        let schedule = Schedule::new((0..prompts.len()).collect(), &recipe, seed);
        let probe = Probe::new(width, &traits, &[1.0; TRAITS], seed)?;
        probe.teach("text towers", &towers.parameters.iter().collect::<Vec<_>>(), &schedule, embed)?;
        Ok(towers)
    }

    /// `[B, D]`, one row a prompt.
    pub(super) fn embed(&self, prompts: &[&TokenIds]) -> anyhow::Result<Tensor> {
        let mut parts = Vec::new();
        for (spec, parameters) in self.text.towers.iter().zip(&self.parameters) {
            let tower = TextTower::load(spec, parameters.weights(Kind::Float))?;
            let part = tower.forward(prompts)?;
            parts.push(if self.text.l2_norm { unit_length(&part)? } else { part });
        }
        Ok(Tensor::f_cat(&parts, 1)?)
    }

    /// Contents of their files.
    pub(super) fn files(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let names = self.text.towers.iter().map(|spec| spec.weights.clone());
        names.zip(&self.parameters).map(|(name, tower)| Ok((name, in_half(&tower.serialise()?)?))).collect()
    }
}

/// Prompts of the part that may be learnt from, of pictures and of clips in turn, and what they ask for.
fn draw(bundle: &Bundle, count: u32, seed: u64) -> anyhow::Result<(Vec<TokenIds>, Vec<Vec<f32>>)> {
    let tokenizer = trial::tokenizer(bundle)?;
    let mut rng = rng(seed, "pretrain/prompts");
    let mut scenes = Vec::new();
    while scenes.len() < count as usize {
        let scene = Scene::draw(scenes.len() % 2 == 1, &mut rng);
        if Part::Train.has(&scene) {
            let prompt = scene.prompt(&mut rng);
            scenes.push((tokenizer.encode(&prompt), scene.traits().to_vec()));
        }
    }
    Ok(scenes.into_iter().unzip())
}

/// The file in f16: nearly all of a small tower is its table of tokens, which need no more.
fn in_half(file: &[u8]) -> anyhow::Result<Vec<u8>> {
    let tensors = SafeTensors::deserialize(file)?;
    let halved = |view: &TensorView| -> Vec<u8> {
        let floats = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        floats.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let stored: Vec<_> = tensors.iter().map(|(key, view)| (key, view.shape().to_vec(), halved(&view))).collect();
    let views = stored.iter().map(|(key, shape, bytes)| Ok((*key, TensorView::new(Dtype::F16, shape.clone(), bytes)?)));
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>, SafeTensorError>>()?, None)?)
}
