//! Backbones by their sizes: enough to start one without a file.

use tch::{Device, Tensor};

use super::hash_init;
use super::networks::{Network, convnext, efficientvit, eva02, resnet, vit};
use crate::model::{Backbone, BackboneKind, ModelError, Parameters};

const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
/// Side of an EVA02 patch.
const EVA02_PATCH: usize = 14;

/// Architecture and sizes of a backbone. Attention heads are width / 64 where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// ConvNeXt.
    Convnext {
        /// Of the four stages.
        widths: [usize; 4],
        /// Blocks of the four stages.
        depths: [usize; 4],
    },
    /// EfficientViT-L.
    Efficientvit {
        /// Of the stem and the four stages.
        widths: [usize; 5],
        /// Blocks of the stem and the four stages, but for those that halve the side.
        depths: [usize; 5],
        /// Width of an attention head.
        head_width: usize,
    },
    /// EVA02 with patches of 14 pixels.
    Eva02 {
        /// Of the tokens.
        width: usize,
        /// Number of blocks.
        depth: usize,
        /// Attention heads.
        heads: Option<i64>,
        /// Side of the grid that rotary positions are scaled to; 16 where absent.
        rope_reference: Option<i64>,
    },
    /// ResNet of bottlenecks.
    Resnet {
        /// Inside the bottlenecks of the four layers: a quarter of what these give.
        widths: [usize; 4],
        /// Bottlenecks of the four layers.
        depths: [usize; 4],
    },
    /// A plain ViT.
    Vit {
        /// Of the tokens.
        width: usize,
        /// Number of blocks.
        depth: usize,
        /// Attention heads.
        heads: Option<i64>,
        /// Side of a patch in pixels.
        patch: usize,
    },
}

impl Architecture {
    /// As large as published: ConvNeXt-S, EfficientViT-L2, EVA02-B/14, ResNet-50, ViT-B/16.
    pub fn full(kind: BackboneKind) -> Self {
        match kind {
            BackboneKind::Convnext => Self::Convnext { widths: [96, 192, 384, 768], depths: [3, 3, 27, 3] },
            BackboneKind::Efficientvit => {
                Self::Efficientvit { widths: [32, 64, 128, 256, 512], depths: [1, 2, 2, 8, 8], head_width: 32 }
            }
            BackboneKind::Eva02 => Self::Eva02 { width: 768, depth: 12, heads: None, rope_reference: None },
            BackboneKind::Resnet => Self::Resnet { widths: [64, 128, 256, 512], depths: [3, 4, 6, 3] },
            BackboneKind::Vit => Self::Vit { width: 768, depth: 12, heads: None, patch: 16 },
        }
    }

    /// For frames of 56 pixels: small enough to be compiled into the binaries, and what two processor cores can teach
    /// from nothing within minutes. Early stages are wide, since distortions are seen there.
    pub fn demo(kind: BackboneKind) -> Self {
        match kind {
            BackboneKind::Convnext => Self::Convnext { widths: [32, 48, 64, 96], depths: [2, 1, 2, 1] },
            BackboneKind::Efficientvit => {
                Self::Efficientvit { widths: [12, 12, 20, 32, 48], depths: [1; 5], head_width: 8 }
            }
            BackboneKind::Eva02 => Self::Eva02 { width: 60, depth: 3, heads: Some(3), rope_reference: Some(4) },
            BackboneKind::Resnet => Self::Resnet { widths: [8, 8, 12, 16], depths: [1; 4] },
            BackboneKind::Vit => Self::Vit { width: 48, depth: 2, heads: Some(3), patch: 14 },
        }
    }

    /// What it is, without its sizes.
    pub fn kind(&self) -> BackboneKind {
        match self {
            Self::Convnext { .. } => BackboneKind::Convnext,
            Self::Efficientvit { .. } => BackboneKind::Efficientvit,
            Self::Eva02 { .. } => BackboneKind::Eva02,
            Self::Resnet { .. } => BackboneKind::Resnet,
            Self::Vit { .. } => BackboneKind::Vit,
        }
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> usize {
        match *self {
            Self::Convnext { widths: [.., last], .. } | Self::Efficientvit { widths: [.., last], .. } => last,
            Self::Resnet { widths: [.., last], .. } => 4 * last,
            Self::Eva02 { width, .. } | Self::Vit { width, .. } => width,
        }
    }

    /// How a bundle describes it, with weights in the file `weights` and frames normalised as upstream's checkpoints
    /// expect them.
    pub fn backbone(&self, weights: &str) -> Backbone {
        let (mut heads, mut rope_reference) = (None, None);
        let (mut mean, mut std) = (IMAGENET_MEAN, IMAGENET_STD);
        match *self {
            Self::Eva02 { heads: eva_heads, rope_reference: reference, .. } => {
                (heads, rope_reference) = (eva_heads, reference);
                (mean, std) = (CLIP_MEAN, CLIP_STD);
            }
            Self::Vit { heads: vit_heads, .. } => {
                heads = vit_heads;
                (mean, std) = ([0.5; 3], [0.5; 3]);
            }
            _ => {}
        }
        Backbone { kind: self.kind(), weights: weights.to_owned(), mean, std, heads, rope_reference }
    }

    /// Parameters of this backbone on the CPU, for frames of `side`, filled by [`hash_init`].
    pub fn untrained(&self, side: u32, seed: u64) -> Result<Parameters, ModelError> {
        let network = self.network(side);
        let filled = network.0.iter().filter(|entry| !entry.counter).map(|entry| {
            let values = hash_init::values(self.kind().name(), &entry.key, &entry.shape, seed);
            let shape: Vec<i64> = entry.shape.iter().map(|&side| side as i64).collect();
            Ok((entry.key.clone(), Tensor::f_from_slice(&values)?.f_reshape(shape)?))
        });
        Parameters::new(self.kind().name(), filled.collect::<Result<Vec<_>, ModelError>>()?, Device::Cpu)
    }

    /// Its tensors, positions being those for frames of `side`.
    pub(super) fn network(&self, side: u32) -> Network {
        let side = side as usize;
        match *self {
            Self::Convnext { widths, depths } => convnext(widths, depths),
            Self::Efficientvit { widths, depths, head_width } => efficientvit(widths, depths, head_width),
            Self::Eva02 { width, depth, .. } => eva02(width, depth, side / EVA02_PATCH),
            Self::Resnet { widths, depths } => resnet(widths, depths),
            Self::Vit { width, depth, patch, .. } => vit(width, depth, patch, side / patch.max(1)),
        }
    }
}
