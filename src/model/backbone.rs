//! The vision backbones: normalised frames `[B, 3, S, S]` to pooled embeddings `[B, C]` of their last stage (section
//! 4.5.2). One file each, with the checkpoint's names.

mod convnext;
mod efficientvit;
mod eva02;
mod patches;
mod resnet;
mod vit;

use tch::Tensor;

pub use convnext::ConvNext;
pub use efficientvit::EfficientVit;
pub use eva02::Eva02;
pub(super) use patches::resample_positions;
pub use resnet::Resnet;
pub use vit::Vit;

use super::{BackboneKind, ExpertSpec, ModelError, Weights};

/// One backbone, in the form that its weights ask for.
pub enum VisionBackbone {
    /// ConvNeXt.
    ConvNext(ConvNext),
    /// EfficientViT-L.
    EfficientVit(EfficientVit),
    /// EVA02.
    Eva02(Eva02),
    /// ResNet.
    Resnet(Resnet),
    /// A plain ViT.
    Vit(Vit),
}

impl VisionBackbone {
    /// The network that `spec.backbone` describes, for frames of `spec.input_size`. Refused when a tensor is missing,
    /// surplus or misshapen, or when the network cannot take that size.
    pub fn load(spec: &ExpertSpec, weights: Weights) -> Result<Self, ModelError> {
        match spec.backbone.kind {
            BackboneKind::Convnext => {
                check_side(spec, ConvNext::MIN_SIDE)?;
                Ok(Self::ConvNext(ConvNext::load(weights)?))
            }
            BackboneKind::Efficientvit => {
                check_side(spec, EfficientVit::MIN_SIDE)?;
                Ok(Self::EfficientVit(EfficientVit::load(weights)?))
            }
            BackboneKind::Eva02 => Ok(Self::Eva02(Eva02::load(spec, weights)?)),
            BackboneKind::Resnet => {
                check_side(spec, Resnet::MIN_SIDE)?;
                Ok(Self::Resnet(Resnet::load(weights)?))
            }
            BackboneKind::Vit => Ok(Self::Vit(Vit::load(spec, weights)?)),
        }
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        match self {
            Self::ConvNext(network) => network.channels(),
            Self::EfficientVit(network) => network.channels(),
            Self::Eva02(network) => network.channels(),
            Self::Resnet(network) => network.channels(),
            Self::Vit(network) => network.channels(),
        }
    }

    /// Normalised frames `[B, 3, S, S]` in the network's number format to f32 embeddings `[B, C]`.
    pub fn forward(&self, frames: &Tensor) -> Result<Tensor, ModelError> {
        let features = match self {
            Self::ConvNext(network) => network.forward(frames),
            Self::EfficientVit(network) => network.forward(frames),
            Self::Eva02(network) => network.forward(frames),
            Self::Resnet(network) => network.forward(frames),
            Self::Vit(network) => network.forward(frames),
        };
        Ok(features?)
    }
}

/// Any side works that leaves a pixel to pool.
fn check_side(spec: &ExpertSpec, least: u32) -> Result<(), ModelError> {
    if spec.input_size < least {
        return Err(spec.error("input_size", format!("is {}, expected at least {least}", spec.input_size)));
    }
    Ok(())
}
