//! The scoring path of one device: text towers, experts, Eq. 4.

use std::time::Duration;

use tch::{Device, Tensor};

use super::{Bundle, Manifest, ModelError, Track};
use crate::media::Frames;
use crate::text::TokenIds;

/// Number format of the network's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// How a bundle is put on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Where tensors live.
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
    /// Mean over the frames and their horizontal flip.
    pub tta: bool,
}

/// One expert's opinion.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertScore {
    /// Name in the bundle.
    pub name: String,
    /// f_e, the head's output.
    pub raw: f64,
    /// (raw - mu) / sigma.
    pub z: f64,
}

/// Eq. 4 over the experts of a track.
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleScore {
    /// `mos.mean + mos.std * z`.
    pub mos: f64,
    /// Mean of the experts' z.
    pub z: f64,
    /// Population standard deviation of the experts' z.
    pub disagreement: f64,
    /// In the bundle's order.
    pub experts: Vec<ExpertScore>,
}

/// Where a batch's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchTimings {
    /// Upload, normalisation and backbones.
    pub vision: Duration,
    /// Temporal modules, adapters, mixers, heads and Eq. 4.
    pub head: Duration,
}

/// All networks of a bundle on one device. Not to be shared between threads: one worker owns it.
pub struct Ensemble {}

impl Ensemble {
    /// Loads every network of `bundle`. Refused when a tensor is missing, surplus or misshapen, or when the bundle has
    /// no calibration for these options.
    pub fn load(bundle: &Bundle, options: LoadOptions) -> Result<Self, ModelError> {
        let _ = (bundle, options);
        todo!()
    }

    /// The bundle's manifest.
    pub fn manifest(&self) -> &Manifest {
        todo!()
    }

    /// The concatenated prompt embeddings u, `[prompts.len(), sum of towers' D]`, on the device.
    pub fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Tensor, ModelError> {
        let _ = prompts;
        todo!()
    }

    /// Scores one batch of one track. `text` is `[items.len(), D]`, row by row the items' prompt embeddings. Items may
    /// have different numbers of frames. A score does not depend on its neighbours.
    pub fn score(
        &self,
        track: Track,
        items: &[&Frames],
        text: &Tensor,
    ) -> Result<(Vec<EnsembleScore>, BatchTimings), ModelError> {
        let _ = (track, items, text);
        todo!()
    }
}
