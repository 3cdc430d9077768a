//! What trains experts, and makes and looks at bundles: `pcqa-train`. No gRPC.

mod architecture;
mod augment;
mod bundle;
mod check;
mod dataset;
mod evaluate;
pub mod events;
pub mod floors;
pub mod hash_init;
mod init;
mod inspect;
mod loader;
mod networks;
pub mod optimiser;
mod progress;
pub mod report;
mod seed;
mod split;
mod staging;
pub mod statistics;
pub mod synth;
mod trial;

pub use architecture::Architecture;
pub use augment::{Augmentation, Change};
pub use bundle::assemble;
pub use check::{Arguments as CheckArguments, check};
pub use dataset::{Dataset, DatasetArguments, Format, Item, Kind as ProblemKind, Problem, Problems};
pub use evaluate::{Arguments as EvaluateArguments, evaluate, table};
pub use init::{Preset, initialise};
pub use inspect::describe;
pub use loader::{Loaded, Loader, LoaderOptions, Run, decoder_beside_this};
pub use seed::{rng, seed};
pub use split::{SplitBy, folds, hold_out, prompt_key};
