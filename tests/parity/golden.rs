//! `tests/golden/parity`, as `make_parity.py` there writes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use pcqa::model::{Backbone, ExpertSpec, Manifest, TextTowerSpec};
use safetensors::SafeTensors;
use serde::Deserialize;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/parity");

#[derive(Deserialize)]
pub struct Golden {
    /// Of what computed the expectations.
    pub versions: BTreeMap<String, String>,
    pub seed: u64,
    pub networks: Vec<Network>,
    pub whole: Whole,
    /// Expected embeddings by their name in the cases.
    #[serde(skip)]
    vectors: BTreeMap<String, Vec<f32>>,
}

/// One network alone.
#[derive(Deserialize)]
pub struct Network {
    pub name: String,
    /// The library and its name for the network.
    pub library: String,
    pub file: String,
    /// What stands before the keys in the file, and not when their values are generated.
    pub prefix: String,
    pub tensors: BTreeMap<String, Vec<usize>>,
    #[serde(flatten)]
    pub kind: Kind,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Kind {
    Backbone { backbone: Backbone, cases: Vec<PictureCase> },
    Tower { tower: TextTowerSpec, cases: Vec<PromptCase> },
}

#[derive(Deserialize)]
pub struct PictureCase {
    pub vector: String,
    pub picture: String,
    pub side: u32,
}

#[derive(Deserialize)]
pub struct PromptCase {
    pub vector: String,
    pub prompt: String,
    pub tokens: Vec<u32>,
}

/// An image and its prompt, from pixels and words to Eq. 4.
#[derive(Deserialize)]
pub struct Whole {
    pub manifest: Manifest,
    pub heads: Vec<HeadFile>,
    pub prompt: String,
    pub picture: String,
    pub side: u32,
    pub raw: Vec<f64>,
    pub z: f64,
    pub mos: f64,
}

#[derive(Deserialize)]
pub struct HeadFile {
    pub file: String,
    pub tensors: BTreeMap<String, Vec<usize>>,
}

impl Golden {
    pub fn read() -> anyhow::Result<Self> {
        let read =
            |name: &str| fs::read(Path::new(DIRECTORY).join(name)).with_context(|| format!("{DIRECTORY}/{name}"));
        let mut golden: Self = serde_json::from_slice(&read("golden.json")?)?;
        let bytes = read("golden.safetensors")?;
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            let numbers = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            golden.vectors.insert(name.to_owned(), numbers.collect());
        }
        Ok(golden)
    }

    pub fn vector(&self, name: &str) -> anyhow::Result<&[f32]> {
        self.vectors.get(name).map(Vec::as_slice).with_context(|| format!("golden.safetensors has no {name}"))
    }
}

impl Network {
    /// Numbers that the network has learnt, and running statistics.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(|shape| shape.iter().product::<usize>()).sum()
    }
}

impl Whole {
    /// Whether `file` is one of its bundle's.
    pub fn uses(&self, file: &str) -> bool {
        let Manifest { experts, text, .. } = &self.manifest;
        experts.iter().any(|expert| expert.backbone.weights == file) || text.towers.iter().any(|t| t.weights == file)
    }

    /// A description of an expert that has `backbone`, for frames of `side`.
    pub fn expert(&self, backbone: &Backbone, side: u32) -> ExpertSpec {
        let any = &self.manifest.experts[0];
        ExpertSpec { backbone: backbone.clone(), input_size: side, ..any.clone() }
    }
}
