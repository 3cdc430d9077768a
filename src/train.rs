//! What makes and looks at bundles: `pcqa-train`. No gRPC.

mod bundle;
pub mod hash_init;
mod inspect;
mod staging;
mod synth;
mod trial;

pub use bundle::assemble;
pub use inspect::describe;
pub use synth::{Preset, synthesise};
