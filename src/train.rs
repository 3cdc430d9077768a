//! What makes and looks at bundles: `pcqa-train`. No gRPC.

mod augment;
mod bundle;
mod check;
mod dataset;
mod evaluate;
pub mod events;
pub mod floors;
pub mod hash_init;
mod inspect;
mod loader;
mod progress;
pub mod report;
mod seed;
mod split;
mod staging;
pub mod statistics;
mod synth;
mod trial;

pub use augment::{Augmentation, Change};
pub use bundle::assemble;
pub use check::{Arguments as CheckArguments, check};
pub use dataset::{Dataset, DatasetArguments, Format, Item, Kind as ProblemKind, Problem, Problems};
pub use evaluate::{Arguments as EvaluateArguments, evaluate, table};
pub use inspect::describe;
pub use loader::{Loaded, Loader, LoaderOptions, Run, decoder_beside_this};
pub use seed::{rng, seed};
pub use split::{SplitBy, folds, hold_out, prompt_key};
pub use synth::{Preset, synthesise};
