//! One expert: a backbone and its head, for one track.

use tch::Tensor;

use super::backbone::VisionBackbone;
use super::head::{Head, HeadTrace};
use super::{ExpertSpec, ModelError, Weights};

/// One expert in inference form.
pub struct Expert {
    backbone: VisionBackbone,
    head: Head,
}

impl Expert {
    /// The expert that `spec` describes, from the tensors of its two files; those of the head were parsed in f32.
    /// `text_dim` is the width of the prompt embedding.
    pub fn load(spec: &ExpertSpec, backbone: Weights, head: Weights, text_dim: i64) -> Result<Self, ModelError> {
        let backbone = VisionBackbone::load(spec, backbone)?;
        let head = Head::load(spec, head, backbone.channels(), text_dim)?;
        Ok(Self { backbone, head })
    }

    /// Normalised frames `[N, 3, S, S]` to f32 embeddings `[N, C]`.
    pub fn features(&self, frames: &Tensor) -> Result<Tensor, ModelError> {
        self.backbone.forward(frames)
    }

    /// Embeddings `[N, C]` of all items' frames, `counts[i]` of item i, and prompt embeddings `[B, D]` to raw scores.
    pub fn judge(&self, features: &Tensor, counts: &[i64], text: &Tensor) -> Result<HeadTrace, ModelError> {
        self.head.forward(features, counts, text)
    }
}

impl ExpertSpec {
    /// An error about `field` of this expert.
    pub(super) fn error(&self, field: &str, problem: String) -> ModelError {
        ModelError::Manifest { key: format!("experts.{}.{field}", self.name), problem }
    }
}
