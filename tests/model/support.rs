//! The golden ensembles of `tests/golden/model/make_model.py`, with weights and pictures made anew.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pcqa::media::{FrameStack, Frames};
use pcqa::model::{BundleFile, Dtype, Ensemble, LoadOptions, Manifest, ModelError, Track};
use pcqa::text::TokenIds;
use pcqa::train::hash_init;
use safetensors::{SafeTensors, tensor};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

/// `golden.json`
#[derive(Deserialize)]
pub struct Golden {
    pub seed: u64,
    pub ensembles: BTreeMap<String, GoldenEnsemble>,
}

/// One ensemble with its cases.
#[derive(Deserialize)]
pub struct GoldenEnsemble {
    pub manifest: Manifest,
    pub modules: BTreeMap<String, Module>,
    pub cases: Vec<Case>,
}

/// Stored type and shapes of one file.
#[derive(Deserialize, Clone)]
pub struct Module {
    pub stored: String,
    pub tensors: BTreeMap<String, Vec<usize>>,
}

/// One scored item.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub track: Track,
    pub tta: bool,
    pub tokens: Vec<u32>,
    pub clip_frames: u64,
    pub frames: Vec<String>,
    pub raw: Vec<f64>,
    pub z_by_expert: Vec<f64>,
    pub z: f64,
    pub mos: f64,
    pub disagreement: f64,
}

pub static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(include_str!("../golden/model/golden.json")).unwrap());

static STEPS: LazyLock<SafeTensors<'static>> =
    LazyLock::new(|| SafeTensors::deserialize(include_bytes!("../golden/model/golden.safetensors")).unwrap());

static FILES: LazyLock<BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>> = LazyLock::new(|| {
    let all = |name: &'static String, ensemble: &'static GoldenEnsemble| {
        let files = ensemble.modules.iter().map(|(file, module)| (file.clone(), module.file(name, file)));
        (name.as_str(), files.collect())
    };
    GOLDEN.ensembles.iter().map(|(name, ensemble)| all(name, ensemble)).collect()
});

impl Module {
    /// The file's bytes.
    pub fn file(&self, ensemble: &str, file: &str) -> Vec<u8> {
        let dtype = match self.stored.as_str() {
            "F16" => tensor::Dtype::F16,
            "BF16" => tensor::Dtype::BF16,
            _ => tensor::Dtype::F32,
        };
        let tensors = self.tensors.iter().map(|(key, shape)| (key.as_str(), shape.as_slice()));
        let stem = file.strip_suffix(".safetensors").unwrap();
        hash_init::file(&format!("{ensemble}/{stem}"), tensors, GOLDEN.seed, dtype).unwrap()
    }
}

impl GoldenEnsemble {
    /// Calibrated for both settings of TTA.
    pub fn load(&self, tta: bool, dtype: Dtype) -> Result<Ensemble, ModelError> {
        load(self.name(), &self.manifest, LoadOptions { device: Device::Cpu, dtype, tta }, |_| None)
    }

    pub fn name(&self) -> &str {
        self.manifest.name.strip_prefix("golden-").unwrap()
    }
}

impl Case {
    pub fn token_ids(&self) -> TokenIds {
        TokenIds { ids: self.tokens.clone().into_boxed_slice(), truncated: false }
    }

    /// The frames at each of `sides`.
    pub fn pictures(&self, sides: &[u32]) -> Frames {
        frames(&self.frames.iter().map(String::as_str).collect::<Vec<_>>(), sides)
    }
}

/// Loads a manifest over a golden ensemble's files, some of them replaced.
pub fn load(
    ensemble: &str,
    manifest: &Manifest,
    options: LoadOptions,
    replaced: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Ensemble, ModelError> {
    let bytes = |name: &str| replaced(name).unwrap_or_else(|| FILES[ensemble][name].clone());
    Ensemble::from_files(manifest, options, |name| Ok(BundleFile::new(name, bytes(name))))
}

/// Frames of the pictures `names`.
pub fn frames(names: &[&str], sides: &[u32]) -> Frames {
    let stack = |side: u32| FrameStack { side, rgb: names.iter().flat_map(|name| picture(name, side)).collect() };
    Frames { count: names.len() as u32, stacks: sides.iter().map(|&side| stack(side)).collect() }
}

/// `side * side * 3` bytes of integer gradients and 5 bits of noise; the generator script has the same.
pub fn picture(name: &str, side: u32) -> Vec<u8> {
    let name = format!("{name}/{side}");
    let mut noise = hash_init::bits(&name, 0);
    let mut rgb = Vec::new();
    for (y, x, c) in (0..side).flat_map(|y| (0..side).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
        let gradient = ((x * (c + 1) * 256) / side + (y * (3 - c) * 256) / side) >> 1;
        rgb.push(((gradient + (noise.next().unwrap() & 31)) & 255) as u8);
    }
    rgb
}

/// What the libraries computed at `key`.
pub fn step(key: &str) -> Vec<f32> {
    let view = STEPS.tensor(key).unwrap_or_else(|error| panic!("{key}: {error}"));
    view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// All elements, row by row.
pub fn elements(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view([-1])).unwrap()
}

/// The greatest absolute difference; both must be of one length and finite.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|x| x.is_finite()));
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}
