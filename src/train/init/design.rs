//! What the presets are: sizes of their networks, files and manifest.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::Preset;
use super::store::Weights;
use crate::model::{
    Activation, BackboneKind, Calibration, ExpertSpec, Manifest, Mixer, MosScale, TextSpec, TextTowerSpec, Track,
};
use crate::train::architecture::Architecture;
use crate::train::networks::{Network, head, text_tower};

/// The experts of the paper, with statistics of Eq. 4 for weights that nobody measures.
const EXPERTS: [(Track, BackboneKind, f64, f64); 5] = [
    (Track::Image, BackboneKind::Convnext, 0.05, 0.50),
    (Track::Image, BackboneKind::Efficientvit, -0.10, 0.40),
    (Track::Image, BackboneKind::Eva02, 0.20, 0.60),
    (Track::Video, BackboneKind::Convnext, 0.00, 0.45),
    (Track::Video, BackboneKind::Efficientvit, 0.15, 0.55),
];

struct Tower {
    name: &'static str,
    prefix: &'static str,
    activation: Activation,
    width: usize,
    layers: usize,
    embedding: usize,
    /// Where they are not width / 64.
    heads: Option<i64>,
}

struct Sizes {
    side: u32,
    backbone: fn(BackboneKind) -> Architecture,
    towers: [Tower; 2],
    latent: usize,
    hidden: usize,
    vision_dtype: Dtype,
    mos: (f64, f64),
}

const DEMO: Sizes = Sizes {
    side: 56,
    backbone: Architecture::demo,
    towers: [
        Tower {
            name: "openclip",
            prefix: "",
            activation: Activation::QuickGelu,
            width: 16,
            layers: 2,
            embedding: 24,
            heads: Some(2),
        },
        Tower {
            name: "eva",
            prefix: "text.",
            activation: Activation::Gelu,
            width: 12,
            layers: 3,
            embedding: 20,
            heads: Some(3),
        },
    ],
    latent: 96,
    hidden: 256,
    vision_dtype: Dtype::F16,
    mos: (3.0, 0.7),
};

const FULL: Sizes = Sizes {
    side: 448,
    backbone: Architecture::full,
    towers: [
        Tower {
            name: "openclip",
            prefix: "",
            activation: Activation::QuickGelu,
            width: 1024,
            layers: 24,
            embedding: 1024,
            heads: None,
        },
        Tower {
            name: "eva",
            prefix: "text.",
            activation: Activation::Gelu,
            width: 1280,
            layers: 32,
            embedding: 1024,
            heads: None,
        },
    ],
    latent: 1024,
    hidden: 1024,
    vision_dtype: Dtype::F32,
    mos: (2.5, 0.8),
};

/// A preset with its seed, ready to be written.
pub(super) struct Design {
    /// Without `[files]`; its calibration is made up.
    pub(super) manifest: Manifest,
    pub(super) weights: Vec<Weights>,
}

impl Design {
    pub(super) fn new(preset: Preset, seed: u64) -> Self {
        let (name, sizes) = match preset {
            Preset::Demo => ("demo", DEMO),
            Preset::Full => ("full", FULL),
        };
        let mut weights = Vec::new();
        let towers = sizes.towers.iter().map(|tower| tower_of(tower, &mut weights)).collect();
        let experts: Vec<ExpertSpec> =
            EXPERTS.iter().map(|&(track, kind, ..)| expert_of(&sizes, track, kind, &mut weights)).collect();
        let calibration = [false, true].into_iter().flat_map(|tta| made_up_calibration(&experts, tta)).collect();
        let (mean, std) = sizes.mos;
        let manifest = Manifest {
            schema: 1,
            name: format!("{name}-untrained"),
            version: "1".to_owned(),
            trained: false,
            licence: "Apache-2.0 AND MIT".to_owned(),
            provenance: format!(
                "HASH-INIT, written by `pcqa-train init --preset {name} --seed {seed}`: no data has shaped these \
                 weights and their scores mean nothing. Weights Apache-2.0; tokenizer.json is CLIP's vocabulary, MIT."
            ),
            max_frames: 16,
            mos: MosScale { dataset: "none (untrained)".to_owned(), mean, std, min: 1.0, max: 5.0 },
            text: TextSpec { tokenizer: "tokenizer.json".to_owned(), context_length: 77, l2_norm: true, towers },
            experts,
            calibration,
            files: BTreeMap::new(),
        };
        Self { manifest, weights }
    }
}

fn tower_of(tower: &Tower, weights: &mut Vec<Weights>) -> TextTowerSpec {
    let module = format!("text_{}", tower.name);
    let file = format!("{module}.safetensors");
    weights.push(Weights {
        file: file.clone(),
        module,
        prefix: tower.prefix,
        network: text_tower(tower.width, tower.layers, tower.embedding),
        dtype: Dtype::F16,
    });
    TextTowerSpec { name: tower.name.to_owned(), weights: file, activation: tower.activation, heads: tower.heads }
}

fn expert_of(sizes: &Sizes, track: Track, kind: BackboneKind, weights: &mut Vec<Weights>) -> ExpertSpec {
    let name = expert_name(track, kind);
    let mixer = if kind == BackboneKind::Convnext { Mixer::Concat } else { Mixer::Dot };
    let architecture = (sizes.backbone)(kind);
    let text = sizes.towers.iter().map(|tower| tower.embedding).sum();
    let head = head(text, architecture.channels(), sizes.latent, sizes.hidden, mixer, track == Track::Video);
    let mut file = |part: &str, network: Network| {
        let module = format!("{part}_{name}");
        let file = format!("{module}.safetensors");
        weights.push(Weights { file: file.clone(), module, prefix: "", network, dtype: sizes.vision_dtype });
        file
    };
    let backbone = architecture.backbone(&file("backbone", architecture.network(sizes.side)));
    ExpertSpec {
        track,
        backbone,
        head: file("head", head),
        input_size: sizes.side,
        mixer,
        temporal_activation: Activation::Relu,
        adapter_activation: Activation::None,
        head_activation: Activation::Gelu,
        name,
    }
}

fn made_up_calibration(experts: &[ExpertSpec], tta: bool) -> Vec<Calibration> {
    let statistics = EXPERTS.iter().map(|&(_, _, mu, sigma)| (mu, sigma));
    let entry = |(expert, (mu, sigma)): (&ExpertSpec, (f64, f64))| Calibration {
        expert: expert.name.clone(),
        tta,
        input_size: expert.input_size,
        dtypes: vec!["f32".to_owned(), "bf16".to_owned()],
        mu,
        sigma,
    };
    experts.iter().zip(statistics).map(entry).collect()
}

fn expert_name(track: Track, kind: BackboneKind) -> String {
    format!("{}_{}", track.name(), kind.name())
}
