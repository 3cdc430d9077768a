//! The paper's networks, from u8 frames and token ids to a calibrated score, and the bundle that holds their weights; the
//! same networks made of parameters that learn.
//! No async, no gRPC, no encoded media.

pub mod backbone;
mod bundle;
mod demo;
mod ensemble;
mod error;
mod expert;
mod head;
mod manifest;
mod ops;
mod parameters;
mod text_tower;
mod weights;

pub(crate) use bundle::MANIFEST;
pub use bundle::{Bundle, BundleCheck, BundleFile};
pub(crate) use demo::TOKENIZER;
pub use ensemble::{
    Asked, BatchTimings, Dtype, Ensemble, EnsembleScore, ExpertScore, ExpertTrace, Fault, LoadOptions, Serving,
    ViewTrace,
};
pub(crate) use ensemble::{Inputs, unit_length, upload};
pub use error::ModelError;
pub(crate) use error::shown;
pub use expert::Expert;
pub use head::{Head, HeadTrace};
pub use manifest::{
    Activation, Backbone, BackboneKind, Calibration, ExpertSpec, FileDigest, Manifest, Mixer, MosScale, TextSpec,
    TextTowerSpec, Track,
};
pub(crate) use parameters::serialise;
pub use parameters::{Adopted, Parameters};
pub use tch::Device;
pub use text_tower::TextTower;
pub use weights::Weights;
pub(crate) use weights::parse_file;
