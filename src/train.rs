//! What trains experts, and makes and looks at bundles: `pcqa-train`. No gRPC.

mod ablate;
mod architecture;
mod augment;
mod bundle;
mod calibrate;
mod card;
mod check;
mod checkpoint;
mod config;
mod convert;
mod dataset;
mod distil;
mod embeddings;
mod ensemble;
mod evaluate;
pub mod events;
pub mod fetch;
mod fit;
pub mod floors;
pub mod hash_init;
mod init;
mod initial;
mod inspect;
mod judging;
mod loader;
mod networks;
pub mod optimiser;
pub mod pretrain;
mod progress;
pub mod report;
mod schedule;
mod seed;
mod split;
mod staging;
pub mod statistics;
pub mod synth;
mod trial;

pub use ablate::{Arguments as AblateArguments, ablate};
pub use architecture::Architecture;
pub use augment::{Augmentation, Change};
pub use bundle::{assemble, export};
pub use check::{Arguments as CheckArguments, check};
pub use config::device::choose as device;
pub use convert::{Arguments as ConvertArguments, NumberFormat, run as convert};
pub use dataset::{Dataset, DatasetArguments, Format, Item, Kind as ProblemKind, Problem, Problems};
pub use distil::{Arguments as DistilArguments, distil};
pub use ensemble::{Arguments as EnsembleArguments, ensemble};
pub use evaluate::{Arguments as EvaluateArguments, evaluate, table};
pub use fit::{Arguments as FitArguments, fit};
pub use init::{Preset, initialise};
pub use inspect::describe;
pub use loader::{Loaded, Loader, LoaderOptions, Run, decoder_beside_this};
pub use seed::{rng, seed};
pub use split::{SplitBy, apart, folds, hold_out, prompt_key};
pub use trial::try_out;

/// Prints `text`, as far as somebody reads it.
///
/// # Errors
/// Those of standard output, but for a reader that has gone.
pub fn print(text: &str) -> std::io::Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
