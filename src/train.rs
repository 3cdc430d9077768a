//! What makes and looks at bundles: `pcqa-train`. No gRPC.

mod bundle;
pub mod events;
pub mod floors;
pub mod hash_init;
mod inspect;
pub mod report;
mod staging;
pub mod statistics;
mod synth;
mod trial;

pub use bundle::assemble;
pub use inspect::describe;
pub use synth::{Preset, synthesise};
