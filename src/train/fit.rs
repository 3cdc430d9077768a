//! `pcqa-train fit`: one expert from a labelled data set, by the paper's recipe (section 4.2).
//!
//! A run lives in a folder that holds all that it needs to be repeated: `run.toml` (settings), `record.json` (digests of
//! what it began with), `split.csv` (who was trained on), `steps.csv` (every loss), `checkpoints/` with the links `last`
//! and `best`, and what people look at.

mod choice;
mod folds;
mod goals;
mod history;
mod learner;
mod publish;
mod record;
mod session;
mod setup;
mod start;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

pub use self::choice::DataChoice;
pub use self::goals::Normal;
pub(in crate::train) use self::learner::{BACKBONE, HEAD};
pub use self::record::{Record, read_record, read_settings, read_trained_on};
use super::checkpoint::RunLock;
use super::config::{self, Settings};
use super::dataset::DatasetArguments;
use super::embeddings;
use super::loader::decoder_beside_this;
use super::statistics::Judged;
use crate::native;

/// Name of the settings in a run's folder.
const SETTINGS: &str = "run.toml";
/// Stands for every expert of the settings.
const ALL: &str = "all";

/// Trains an expert.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(flatten)]
    data: DataChoice,
    /// TOML file with the run's settings; what it leaves out has the paper's value
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// The run's folder; with several experts, the folder of their runs
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which expert of the settings is trained: a name, or `all` for one after the other, each in a folder of its name
    /// in --out. Not needed where there is one
    #[arg(long, value_name = "NAME")]
    expert: Option<String>,
    /// Go on with the run in --out, with the settings and the data that it has
    #[arg(long, conflicts_with_all = ["config", "data", "folds"])]
    resume: bool,
    /// Cross-validation: deal the items into so many parts and hold each of them out once, one run after the other in
    /// --out/fold-0 and on; ends with a table of all. The same command again goes on where it was
    #[arg(long, value_name = "K")]
    folds: Option<usize>,
    /// Only the run that holds out this part, from 0, in --out itself
    #[arg(long, value_name = "I", requires = "folds")]
    fold: Option<usize>,
    #[command(flatten)]
    machine: Machine,
}

const HELP: &str = r#"A settings file, with all that it may say and the paper's values (paths are relative to it):

    seed = 1
    bundle = "init"               # text towers and experts of a bundle: `pcqa-train init` writes an untrained one
    fresh = false                 # true: draw all weights of the experts anew, by seed
    max_frames = 16               # most frames of a video
    device = "auto"               # cpu | cuda | cuda:N | auto
    threads = 0                   # CPU threads of one operation; 0: one per core

    [split]
    by = "prompt"                 # random | prompt | generator | group
    held_out = 0.1
    # folds = 5
    # fold = 0

    [recipe]
    epochs = 50
    batch = 16
    micro_batch = 0               # items on the device at once; 0: the whole batch
    learning_rate = 2e-5
    warmup = 0.05                 # share of all steps
    weight_decay = 1e-2
    clip = 1.0
    precision = "auto"            # f32 | bf16 | fp16; auto: bf16 on CUDA, f32 on the CPU
    train_text = false

    [augmentation]                # see the ranges in the documentation of each
    flip = 0.5
    crop_area = 0.85
    crop_aspect = 1.05
    brightness = 0.05
    contrast = 0.05

    [keep]
    checkpoint_steps = 500        # beside the one after every epoch
    unreadable = 0.01             # most items, as a share, that may be unreadable

    # Instead of a bundle, or in place of a part of it: the sections [text] and [[experts]] of a bundle's description
    # (`pcqa-train bundle --help`), where an expert may also have
    #   pretrained = "upstream.safetensors"     # replaces the tensors of backbone.weights that it has
    #   latent = 1024, hidden = 1024            # of a new head, where `head` is left out
    # A video expert may begin as an image expert, with its backbone and its head: it gets a temporal module that changes
    # nothing at first.

    # A student: see `pcqa-train distil --help`
    # [teacher]
    # bundle = "ensemble"
    # share = 0.5
    # tta = true

A run's folder has its settings with every default (run.toml), what it began with (record.json), who was trained on (split.csv), every step's loss (steps.csv), the best epoch's predictions (held_out.csv), checkpoints with the links `last` and `best`, event files for TensorBoard (events), and a page (report.html). A run that was killed goes on with --resume and has the same losses as if it had not been."#;

/// What a run needs of the machine it is on; none of it changes a result.
#[derive(Debug, Clone, Args)]
pub struct Machine {
    /// Folder for the embeddings of prompts, which are computed once. Default: pcqa/text in the user's cache directory
    #[arg(long, value_name = "DIR")]
    pub text_cache: Option<PathBuf>,
    /// Threads that read, decode and augment. Default: one per core
    #[arg(long, value_name = "N")]
    pub loaders: Option<usize>,
    /// Most memory for decoded frames that are kept for the next epoch, in MiB
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub frame_cache: usize,
    /// The pcqa-decoder program, which opens videos. Default: beside this program
    #[arg(long, value_name = "FILE")]
    pub decoder: Option<PathBuf>,
}

impl Machine {
    /// Where prompt embeddings are kept.
    pub fn text_cache(&self) -> PathBuf {
        self.text_cache.clone().unwrap_or_else(embeddings::default_cache)
    }

    /// Number of loader threads.
    pub fn loaders(&self) -> usize {
        self.loaders.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
    }

    /// Bytes of decoded frames that are kept.
    pub fn cache_bytes(&self) -> usize {
        self.frame_cache << 20
    }

    /// The decoder's program.
    pub fn decoder(&self) -> PathBuf {
        self.decoder.clone().unwrap_or_else(decoder_beside_this)
    }
}

/// Runs the command.
///
/// # Errors
///
/// Anything that keeps a run from its last step; its checkpoints stay.
pub fn fit(arguments: &Arguments) -> anyhow::Result<()> {
    fit_with(arguments, |_| {})
}

/// As [`fit`], with settings that `change` has the last word on.
pub(super) fn fit_with(arguments: &Arguments, change: impl FnOnce(&mut Settings)) -> anyhow::Result<()> {
    if arguments.resume {
        return resume(arguments);
    }
    let config = arguments.config.as_deref().context("--config: is missing")?;
    let mut settings = Settings::read(config)?;
    if let Some(data) = arguments.data.chosen() {
        settings.data = Some(absolute(&data)?);
    }
    ensure!(settings.data.is_some(), "--data: is missing, and {} has no data either", config.display());
    let all_folds = arguments.folds.filter(|_| arguments.fold.is_none());
    if arguments.folds.is_some() {
        (settings.split.folds, settings.split.fold) = (arguments.folds, arguments.fold.or(Some(0)));
    }
    change(&mut settings);
    settings.check()?;
    for (name, folder) in runs(&config::all(&settings)?, arguments)? {
        let settings = config::resolve(&settings, &name)?;
        match all_folds {
            Some(count) => folds::cross_validate(&settings, count, &folder, &arguments.machine)?,
            None => drop(run(&settings, &folder, &arguments.machine)?),
        }
    }
    Ok(())
}

/// Runs one expert's settings in the new folder `folder`, and gives the best epoch's predictions for the held-out items.
fn run(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<Vec<Judged>> {
    let shown = folder.display();
    ensure!(!is_run(folder), "{shown}: holds a run already; --resume goes on with it");
    std::fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot be made"))?;
    let _lock = RunLock::take(folder)?;
    let mut session = setup::begin(settings, folder, machine).with_context(|| shown.to_string())?;
    native::keep_freed_memory();
    session.run().with_context(|| shown.to_string())
}

/// Whether `folder` holds a run that has begun.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join(SETTINGS).exists()
}

/// As [`run`], or goes on with the run of these settings that `folder` holds.
pub(super) fn run_or_go_on(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<Vec<Judged>> {
    if !is_run(folder) {
        return run(settings, folder, machine);
    }
    let shown = folder.display();
    ensure!(
        setup::is_of(settings, folder)?,
        "{shown}: holds a run of other settings; remove it or choose another --out"
    );
    go_on(folder, machine)
}

fn go_on(folder: &Path, machine: &Machine) -> anyhow::Result<Vec<Judged>> {
    let shown = folder.display();
    ensure!(is_run(folder), "{shown}: holds no run");
    let _lock = RunLock::take(folder)?;
    let mut session = setup::resume(folder, machine).with_context(|| shown.to_string())?;
    native::keep_freed_memory();
    session.run().with_context(|| shown.to_string())
}

fn resume(arguments: &Arguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    let folders = match (&arguments.expert, is_run(out)) {
        (_, true) => vec![out.clone()],
        (Some(name), false) if name != ALL => vec![out.join(name)],
        _ => runs_in(out)?,
    };
    for folder in folders {
        go_on(&folder, &arguments.machine)?;
    }
    Ok(())
}

/// The folders in `out` that hold a run.
fn runs_in(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = out.display();
    let entries = std::fs::read_dir(out).with_context(|| format!("{shown}: cannot be read"))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{shown}: cannot be read"))?.path();
        if is_run(&path) {
            folders.push(path);
        }
    }
    ensure!(!folders.is_empty(), "{shown}: holds no run");
    folders.sort();
    Ok(folders)
}

/// Names of the experts that are trained, each with its folder.
fn runs(settings: &Settings, arguments: &Arguments) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let names: Vec<&String> = settings.experts.iter().map(|expert| &expert.name).collect();
    match (arguments.expert.as_deref(), names.as_slice()) {
        (Some(ALL), _) => Ok(names.iter().map(|name| ((*name).clone(), arguments.out.join(name))).collect()),
        (Some(name), _) => Ok(vec![(name.to_owned(), arguments.out.clone())]),
        (None, [name]) => Ok(vec![((*name).clone(), arguments.out.clone())]),
        (None, names) => bail!("--expert: is missing; it is one of {names:?}, or {ALL}"),
    }
}

/// `data` with absolute paths, so that a run can go on from anywhere.
pub(in crate::train) fn absolute(data: &DatasetArguments) -> anyhow::Result<DatasetArguments> {
    let path = data.data.canonicalize().with_context(|| format!("{}: cannot be read", data.data.display()))?;
    Ok(DatasetArguments { data: path, ..data.clone() })
}
