//! Text towers that learn with the expert, for the ablation of frozen ones. All experts of a bundle share their towers,
//! so that no bundle is made of these.

use std::fs;

use anyhow::Context;
use tch::{Device, Kind, Tensor};

use crate::model::{Parameters, TextSpec, TextTower, TextTowerSpec, unit_length};
use crate::text::TokenIds;

/// The parameters of all towers, in the order of concatenation.
pub(super) struct Words {
    towers: Vec<(TextTowerSpec, Parameters)>,
    l2_norm: bool,
}

impl Words {
    /// As upstream has them.
    pub(super) fn start(text: &TextSpec, device: Device) -> anyhow::Result<Self> {
        Self::read(text, |spec| {
            let path = &spec.weights;
            let bytes = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
            let mut parameters = Parameters::read(path, &bytes, device)?;
            TextTower::load(spec, parameters.inference_weights(Kind::Float))?;
            // A whole CLIP has a vision tower too.
            parameters.retain_used();
            Ok(parameters)
        })
    }

    /// As [`files`](Self::files) gave them, which `read` reads by name.
    pub(super) fn resume(text: &TextSpec, read: impl Fn(&str) -> anyhow::Result<Parameters>) -> anyhow::Result<Self> {
        Self::read(text, |spec| read(&file(spec)))
    }

    fn read(text: &TextSpec, one: impl Fn(&TextTowerSpec) -> anyhow::Result<Parameters>) -> anyhow::Result<Self> {
        let towers = text.towers.iter().map(|spec| Ok((spec.clone(), one(spec)?)));
        Ok(Self { towers: towers.collect::<anyhow::Result<_>>()?, l2_norm: text.l2_norm })
    }

    /// What learns, by name.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, &Parameters)> {
        self.towers.iter().map(|(spec, parameters)| (format!("text_{}", spec.name), parameters))
    }

    pub(super) fn files(&self) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        self.towers.iter().map(|(spec, parameters)| Ok((file(spec), parameters.serialise()?))).collect()
    }

    /// The networks of this moment.
    pub(super) fn towers(&self, learning: bool, kind: Kind) -> anyhow::Result<Vec<TextTower>> {
        let tower = |(spec, parameters): &(TextTowerSpec, Parameters)| {
            let weights = if learning { parameters.weights(kind) } else { parameters.inference_weights(kind) };
            Ok(TextTower::load(spec, weights)?)
        };
        self.towers.iter().map(tower).collect()
    }

    /// `[prompts.len(), D]` by `towers`, as the frozen ones would be concatenated.
    pub(super) fn embed(&self, towers: &[TextTower], prompts: &[&TokenIds]) -> anyhow::Result<Tensor> {
        let mut parts = Vec::with_capacity(towers.len());
        for tower in towers {
            let embedding = tower.forward(prompts)?;
            parts.push(if self.l2_norm { unit_length(&embedding)? } else { embedding });
        }
        Ok(Tensor::f_cat(&parts, -1)?)
    }
}

fn file(spec: &TextTowerSpec) -> String {
    format!("text_{}.safetensors", spec.name)
}
