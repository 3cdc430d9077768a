//! What makes and looks at bundles: `pcqa-train`. No gRPC.

mod bundle;
pub mod hash_init;
mod init;
mod inspect;
mod progress;
pub mod seed;
mod staging;
pub mod synth;
mod trial;

pub use bundle::assemble;
pub use init::{Preset, initialise};
pub use inspect::describe;
