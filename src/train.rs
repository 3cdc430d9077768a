//! What trains experts, and makes and looks at bundles: `pcqa-train`. No gRPC.

mod architecture;
mod bundle;
pub mod hash_init;
mod init;
mod inspect;
mod networks;
pub mod optimiser;
mod staging;
mod trial;

pub use architecture::Architecture;
pub use bundle::assemble;
pub use init::{Preset, initialise};
pub use inspect::describe;
