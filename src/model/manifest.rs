//! `bundle.toml`: everything about a bundle that its tensors do not say by their shapes.

mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format; 1.
    pub schema: u32,
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// False for weights that no data has shaped.
    pub trained: bool,
    /// Licence of the weights, as an SPDX expression where there is one.
    pub licence: String,
    /// Where the weights come from.
    pub provenance: String,
    /// Most frames of a video that are scored (16 in the paper, section 4.2).
    pub max_frames: u32,
    /// The scale that scores are mapped to.
    pub mos: MosScale,
    /// Tokenizer and frozen text towers.
    pub text: TextSpec,
    /// The experts of both tracks, in order.
    pub experts: Vec<ExpertSpec>,
    /// Frozen statistics of Eq. 4.
    pub calibration: Vec<Calibration>,
    /// SHA-256 and length of every other file of the bundle, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileDigest>,
}

/// The data set's scale: `mos = mean + std * z`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MosScale {
    /// Data set whose scale it is.
    pub dataset: String,
    /// Mean MOS of the data set.
    pub mean: f64,
    /// Standard deviation of its MOS, > 0.
    pub std: f64,
    /// Lower end of the scale; scores are not clamped to it.
    pub min: f64,
    /// Upper end of the scale; scores are not clamped to it.
    pub max: f64,
}

/// Tokenizer and text towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// File name of a Hugging Face `tokenizer.json`.
    pub tokenizer: String,
    /// Most tokens of a prompt, both control tokens included (77 in CLIP).
    pub context_length: usize,
    /// Whether each tower's embedding is scaled to unit length before concatenation.
    pub l2_norm: bool,
    /// The towers, in the order of concatenation.
    pub towers: Vec<TextTowerSpec>,
}

/// One frozen CLIP text tower; width and depth are read from the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTowerSpec {
    /// Name, unique in the bundle.
    pub name: String,
    /// File name of the safetensors (plain, `text.`-prefixed or Hugging Face layout).
    pub weights: String,
    /// Activation of the MLPs: `quick_gelu` or `gelu`.
    pub activation: Activation,
    /// Attention heads; width / 64 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<i64>,
}

/// One expert: a backbone with its head, for one track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertSpec {
    /// Name, unique in the bundle.
    pub name: String,
    /// What it scores; video experts have the temporal module.
    pub track: Track,
    /// The vision backbone.
    pub backbone: Backbone,
    /// File name of the head's safetensors (`prompt_adapter`, `vision_adapter`, `temporal`, `mlp`).
    pub head: String,
    /// Side of the square that frames are resized to, in pixels.
    pub input_size: u32,
    /// How prompt and vision latents are merged.
    pub mixer: Mixer,
    /// After each temporal convolution.
    #[serde(default = "relu")]
    pub temporal_activation: Activation,
    /// After each adapter.
    #[serde(default = "identity")]
    pub adapter_activation: Activation,
    /// Between the head's two layers.
    #[serde(default = "gelu")]
    pub head_activation: Activation,
}

/// A vision backbone; widths and depths are read from the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backbone {
    /// Architecture.
    pub kind: BackboneKind,
    /// File name of the safetensors with timm's keys.
    pub weights: String,
    /// Channel means that inputs in [0, 1] are normalised with.
    pub mean: [f64; 3],
    /// Channel standard deviations that inputs in [0, 1] are normalised with.
    pub std: [f64; 3],
    /// Attention heads (EVA02 and ViT only); width / 64 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<i64>,
    /// Side of the grid that rotary positions are scaled to (EVA02 only); 16 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_reference: Option<i64>,
}

/// Statistics of one expert's raw scores, for exactly the settings named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Name of the expert (and with it the track).
    pub expert: String,
    /// Whether they hold with test-time augmentation.
    pub tta: bool,
    /// Input size that they hold for, in pixels.
    pub input_size: u32,
    /// Number formats that they hold for: `f32`, `bf16`.
    pub dtypes: Vec<String>,
    /// Mean of the raw scores.
    pub mu: f64,
    /// Standard deviation of the raw scores, > 0.
    pub sigma: f64,
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// What an expert scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Track {
    /// Single images.
    Image,
    /// Videos.
    Video,
}

impl Track {
    /// As the manifest and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
        }
    }
}

/// Backbone architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneKind {
    /// ConvNeXt (timm `convnext_*`).
    Convnext,
    /// EfficientViT-L (timm `efficientvit_l*`).
    Efficientvit,
    /// EVA02 (timm `eva02_*`).
    Eva02,
    /// ResNet (timm `resnet*`).
    Resnet,
    /// Plain ViT (timm `vit_*_patch*`).
    Vit,
}

impl BackboneKind {
    /// As the manifest names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Convnext => "convnext",
            Self::Efficientvit => "efficientvit",
            Self::Eva02 => "eva02",
            Self::Resnet => "resnet",
            Self::Vit => "vit",
        }
    }
}

/// How the latents are merged (section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Element-wise product of vision and prompt latents.
    Dot,
    /// Vision latent followed by prompt latent.
    Concat,
}

/// Element-wise functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x
    None,
    /// max(x, 0)
    Relu,
    /// x * Phi(x), with erf
    Gelu,
    /// x * sigmoid(1.702 x)
    QuickGelu,
}

fn relu() -> Activation {
    Activation::Relu
}

fn identity() -> Activation {
    Activation::None
}

fn gelu() -> Activation {
    Activation::Gelu
}
