//! `pcqa-train fit`: one expert from a labelled data set, by the paper's recipe (section 4.2).
//!
//! A run lives in a folder that holds all that it needs to be repeated: `run.toml` (settings), `record.json` (digests of
//! what it began with), `split.csv` (who was trained on), `steps.csv` (every loss), `checkpoints/` with the links `last`
//! and `best`, and what people look at.

mod choice;
mod experts;
mod folds;
mod goals;
mod help;
mod history;
mod learner;
mod publish;
mod record;
mod scale;
mod session;
mod setup;
mod signals;
mod start;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use walkdir::WalkDir;

pub use self::choice::DataChoice;
pub use self::goals::Normal;
pub(in crate::train) use self::learner::{BACKBONE, HEAD};
pub(in crate::train) use self::record::digest;
pub use self::record::{Record, read_record, read_settings, read_trained_on};
use self::session::Session;
use super::checkpoint::{RunLock, is_unused};
use super::config::Settings;
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
#[command(after_help = help::HELP)]
pub struct Arguments {
    #[command(flatten)]
    data: DataChoice,
    /// TOML file with the run's settings; what it leaves out has the paper's value
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// The run's folder; with several experts, the folder of their runs
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which expert of the settings is trained: a name; or several with commas between, or `all`, for one after the
    /// other, each in a folder of its name in --out, and the same command again goes on where it was. Of `all`, those of a
    /// track that the data have no items of are skipped. Not needed where there is one
    #[arg(long, value_name = "NAME[,NAME...]")]
    expert: Option<String>,
    /// Go on with the run in --out, or with every run that was begun in its folders, of experts and of their folds, with
    /// the settings and the data that each has. Experts of `--expert all` that were not begun are trained by the first
    /// command again
    #[arg(long, conflicts_with_all = ["config", "data", "folds", "fold"])]
    resume: bool,
    /// Cross-validation: deal the items into so many parts and hold each of them out once, one run after the other in
    /// --out/fold-0 and on; ends with a table of all. The same command again goes on where it was
    #[arg(long, value_name = "K")]
    folds: Option<usize>,
    /// Only the run that holds out this part of --folds, or of the settings' split.folds, from 0; in --out itself
    #[arg(long, value_name = "I")]
    fold: Option<usize>,
    /// Of the runs that this command would make one after the other, expert by expert and of each fold by fold, only the
    /// one of this index, from 0, in the folder that it would have: machines that see the same --out share the work. The
    /// same command again goes on where it was
    #[arg(long, value_name = "INDEX", requires = "expert", conflicts_with_all = ["resume", "fold"])]
    only: Option<usize>,
    #[command(flatten)]
    machine: Machine,
}

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
    choose_fold(arguments, &mut settings)?;
    change(&mut settings);
    settings.check()?;
    let all_folds = arguments.folds.filter(|_| arguments.fold.is_none());
    let machine = &arguments.machine;
    let several = arguments.only.is_some() || arguments.expert.as_deref().is_some_and(experts::are_several);
    let experts = experts::chosen(&settings, arguments.expert.as_deref(), several, &arguments.out)?;
    if let Some(index) = arguments.only {
        let (settings, folder) = experts::only(experts, all_folds, index)?;
        return run_or_go_on(&settings, &folder, machine).map(drop);
    }
    for (settings, folder) in experts {
        match all_folds {
            Some(count) => folds::cross_validate(&settings, count, &folder, machine)?,
            None if several => drop(run_or_go_on(&settings, &folder, machine)?),
            None => drop(run(&settings, &folder, machine)?),
        }
    }
    Ok(())
}

fn choose_fold(arguments: &Arguments, settings: &mut Settings) -> anyhow::Result<()> {
    let split = &mut settings.split;
    split.folds = arguments.folds.or(split.folds);
    match (arguments.fold, split.folds) {
        (Some(fold), None) => bail!(
            "--fold: is {fold}, but nothing says of how many parts; `--folds 5 --fold {fold}` holds part {fold} of five \
             out, from 0, and `--folds 5` alone each of them once"
        ),
        (Some(fold), Some(_)) => split.fold = Some(fold),
        // Each run of a cross-validation has its own.
        (None, _) => split.fold = arguments.folds.map(|_| 0).or(split.fold),
    }
    Ok(())
}

/// Runs one expert's settings in the new folder `folder`, and gives the best epoch's predictions for the held-out items.
fn run(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<Vec<Judged>> {
    let shown = folder.display();
    ensure!(
        !is_run(folder),
        "{shown}: holds a run already{}; --resume goes on with it, with the settings that it has",
        if setup::is_of(settings, folder)? { "" } else { " of other settings" }
    );
    let (_lock, mut session) = begun(settings, folder, machine)?;
    native::keep_freed_memory();
    session.run().with_context(|| shown.to_string())
}

/// Begins the run of `settings` in `folder`, unless it is there, and leaves its steps for later.
pub(super) fn begin(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<()> {
    if is_run(folder) {
        return ensure_of(settings, folder);
    }
    begun(settings, folder, machine).map(drop)
}

fn begun(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<(RunLock, Session)> {
    let shown = folder.display();
    let is_data = |data: &DatasetArguments| folder.canonicalize().is_ok_and(|folder| folder == data.data);
    ensure!(
        !settings.data.as_ref().is_some_and(is_data),
        "{shown}: is the folder of the data; a run needs one of its own"
    );
    let was_unused = is_unused(folder);
    fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot be made"))?;
    let lock = RunLock::take(folder)?;
    let begun = setup::begin(settings, folder, machine).inspect_err(|_| {
        // A start that came to nothing leaves no folder that looks like a run.
        if was_unused && !is_run(folder) {
            drop(fs::remove_dir_all(folder));
        }
    });
    Ok((lock, begun.with_context(|| shown.to_string())?))
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
    ensure_of(settings, folder)?;
    go_on(folder, machine)
}

fn ensure_of(settings: &Settings, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    ensure!(
        setup::is_of(settings, folder)?,
        "{shown}: holds a run of other settings; remove it or choose another --out"
    );
    Ok(())
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
    match (&arguments.expert, is_run(out)) {
        (_, true) => drop(go_on(out, &arguments.machine)?),
        (name, false) => {
            let named = name.as_deref().filter(|name| !experts::are_several(name)).map(|name| out.join(name));
            let folders = match named {
                Some(folder) if is_run(&folder) => vec![folder],
                Some(folder) => runs_in(&folder)?,
                None => runs_in(out)?,
            };
            for folder in &folders {
                go_on(folder, &arguments.machine)?;
            }
            if folders.len() > 1 {
                let (shown, count) = (out.display(), folders.len());
                eprintln!("{shown}: {count} runs are finished; the first command again begins those that are missing");
            }
        }
    }
    Ok(())
}

/// The folders in `out` that hold a run, an expert's or, in its folder, one of its folds.
fn runs_in(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = out.display();
    ensure!(out.is_dir(), "{shown}: is no folder");
    let mut folders = Vec::new();
    for entry in WalkDir::new(out).min_depth(1).max_depth(2).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{shown}: cannot be read"))?;
        if is_run(entry.path()) {
            folders.push(entry.into_path());
        }
    }
    ensure!(!folders.is_empty(), "{shown}: holds no run, nor do the folders in it");
    Ok(folders)
}

/// `data` with absolute paths, so that a run can go on from anywhere.
pub(in crate::train) fn absolute(data: &DatasetArguments) -> anyhow::Result<DatasetArguments> {
    let path = data.data.canonicalize().with_context(|| format!("{}: cannot be read", data.data.display()))?;
    Ok(DatasetArguments { data: path, ..data.clone() })
}
