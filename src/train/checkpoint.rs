//! Checkpoints of a run: directories under `checkpoints/` that appear complete or not at all, each named after its step.
//!
//! Everything is written under a hidden name, flushed to the disk and then renamed, so that a run that is killed or a
//! disk that is full leaves the older ones as they were. The newest directory is the truth; the links `last` and `best`
//! beside them are for people and other commands and follow from its `progress.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const DIRECTORY: &str = "checkpoints";
const PROGRESS: &str = "progress.json";
const PARTIAL: &str = ".partial";
const LOCK: &str = ".lock";

/// How far a run is: everything but the tensors. Order of items, augmentation and learning rate follow from the step and
/// the seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps that are done.
    pub step: u64,
    /// Sum of the losses of the epoch that is under way, and their number.
    pub losses: (f64, u64),
    /// Of mixed precision in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// The epochs that are done.
    pub epochs: Vec<Epoch>,
    /// The step that the best epoch ended with.
    pub best: Option<u64>,
    /// What is wrong with the items that could not be read so far, by their names.
    pub unreadable: BTreeMap<String, String>,
}

/// One epoch that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// From 1.
    pub epoch: u32,
    /// Steps of the run that are done.
    pub step: u64,
    /// Mean loss of its steps; none where every one of them was left out.
    pub loss: Option<f64>,
    /// Mean squared error of the held-out items' normalised MOS; these three are absent where nothing is held out.
    pub held_out_loss: Option<f64>,
    /// Spearman's rank correlation on the held-out items.
    pub srcc: Option<f64>,
    /// Pearson's linear correlation on the held-out items.
    pub plcc: Option<f64>,
}

impl Epoch {
    /// (SRCC + PLCC) / 2, by which epochs are compared.
    pub fn main(&self) -> Option<f64> {
        Some((self.srcc? + self.plcc?) / 2.0)
    }
}

/// What the loss is multiplied by, so that its gradients do not vanish in half precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// A power of two.
    pub scale: f64,
    /// Steps in a row whose gradients were finite.
    pub good: u32,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub struct Checkpoints {
    run: PathBuf,
    directory: PathBuf,
}

impl Checkpoints {
    /// Of the run in folder `run`. What an interrupted write left over is removed, and what it left undone is done.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or read.
    pub fn open(run: &Path) -> anyhow::Result<Self> {
        let directory = run.join(DIRECTORY);
        let failed = || format!("{}: cannot be prepared", directory.display());
        fs::create_dir_all(&directory).with_context(failed)?;
        for entry in fs::read_dir(&directory).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs::remove_dir_all(entry.path()).with_context(failed)?;
            }
        }
        let checkpoints = Self { run: run.to_owned(), directory };
        if let Some((_, progress)) = checkpoints.newest()? {
            checkpoints.link_and_clean(&progress)?;
        }
        Ok(checkpoints)
    }

    /// The newest one and how far it is; none before the first was written.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn newest(&self) -> anyhow::Result<Option<(PathBuf, Progress)>> {
        let Some(step) = self.steps()?.last().copied() else { return Ok(None) };
        let path = self.path(step);
        let progress = read_progress(&path)?;
        Ok(Some((path, progress)))
    }

    /// Writes one of `progress` with `files`, given by name and contents. Then only it and the best one are kept.
    ///
    /// # Errors
    ///
    /// When it cannot be written: the older ones are as they were.
    pub fn save(&self, progress: &Progress, files: Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
        let step = progress.step;
        let partial = self.directory.join(format!("{PARTIAL}-{step}"));
        if let Err(error) = self.write(&partial, progress, &files) {
            // Frees what a full disk needs most. What cannot be removed now goes away when the run is opened again.
            let _ = fs::remove_dir_all(&partial);
            let older = match self.steps().ok().and_then(|steps| steps.last().copied()) {
                Some(older) => format!("; the checkpoint of step {older} is whole: free some space and --resume"),
                None => String::new(),
            };
            return Err(error.context(format!("the checkpoint of step {step} cannot be written{older}")));
        }
        self.link_and_clean(progress)
    }

    fn write(&self, partial: &Path, progress: &Progress, files: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        fs::create_dir(partial).with_context(|| partial.display().to_string())?;
        let json = serde_json::to_vec_pretty(progress)?;
        let all = files.iter().map(|(name, bytes)| (name.as_str(), bytes)).chain([(PROGRESS, &json)]);
        for (name, bytes) in all {
            let path = partial.join(name);
            write_durably(&path, bytes).with_context(|| path.display().to_string())?;
        }
        let target = self.path(progress.step);
        let renamed = sync(partial).and_then(|()| {
            if target.exists() {
                // A run that was killed before its links were set comes here again with the same contents.
                fs::remove_dir_all(&target)?;
            }
            fs::rename(partial, &target)?;
            sync(&self.directory)
        });
        renamed.with_context(|| target.display().to_string())
    }

    /// Sets the links and removes what neither of them needs.
    fn link_and_clean(&self, progress: &Progress) -> anyhow::Result<()> {
        let best = progress.best.unwrap_or(progress.step);
        for (name, step) in [("last", progress.step), ("best", best)] {
            let new = self.run.join(format!(".{name}"));
            let _ = fs::remove_file(&new);
            let target = Path::new(DIRECTORY).join(directory_name(step));
            symlink(target, &new)
                .and_then(|()| fs::rename(&new, self.run.join(name)))
                .with_context(|| format!("{}: cannot be linked", self.run.join(name).display()))?;
        }
        for step in self.steps()? {
            if step != progress.step && step != best {
                let path = self.path(step);
                fs::remove_dir_all(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
            }
        }
        Ok(())
    }

    /// The steps that there are checkpoints of, ascending.
    fn steps(&self) -> anyhow::Result<Vec<u64>> {
        let failed = || format!("{}: cannot be read", self.directory.display());
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.directory).with_context(failed)? {
            let name = entry.with_context(failed)?.file_name();
            steps.extend(name.to_string_lossy().parse::<u64>());
        }
        steps.sort_unstable();
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.directory.join(directory_name(step))
    }
}

/// The `progress.json` of the checkpoint in `directory`.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_progress(directory: &Path) -> anyhow::Result<Progress> {
    let path = directory.join(PROGRESS);
    let shown = path.display();
    let json = fs::read(&path).with_context(|| format!("{shown}: cannot be read"))?;
    serde_json::from_slice(&json).with_context(|| format!("{shown}: is no progress of a run"))
}

/// Held for as long as a run goes on, so that no other process writes to its folder.
#[derive(Debug)]
pub struct RunLock {
    /// The lock lasts as long as it is open.
    _file: File,
}

impl RunLock {
    /// Takes the lock of folder `run`.
    ///
    /// # Errors
    ///
    /// When another process has it.
    pub fn take(run: &Path) -> anyhow::Result<Self> {
        let path = run.join(LOCK);
        let shown = path.display();
        let file = File::create(&path).with_context(|| format!("{shown}: cannot be made"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => bail!("{}: another process is at this run", run.display()),
            Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("{shown}: cannot be locked")),
        }
    }
}

/// Whether there is no folder `run` yet, or nothing in it but the lock of a start that came to nothing.
pub fn is_unused(run: &Path) -> bool {
    match fs::read_dir(run) {
        Ok(mut entries) => entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Replaces the file at `path` with one of `bytes`, or leaves it as it was.
///
/// # Errors
///
/// When it cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let shown = path.display();
    let partial = path.with_extension("partial");
    write_durably(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("{shown}: cannot be written"))
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn directory_name(step: u64) -> String {
    format!("{step:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64, best: u64) -> Progress {
        Progress { step, best: Some(best), ..Progress::default() }
    }

    fn weights(value: u8) -> Vec<(String, Vec<u8>)> {
        vec![("weights".to_owned(), vec![value])]
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        assert_eq!(checkpoints.newest().unwrap(), None);
        for (step, best) in [(2, 2), (4, 4), (6, 4), (8, 4)] {
            checkpoints.save(&at(step, best), weights(step as u8)).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [4, 8]);
        assert_eq!(fs::read(run.path().join("best/weights")).unwrap(), [4]);
        assert_eq!(fs::read(run.path().join("last/weights")).unwrap(), [8]);
        assert_eq!(checkpoints.newest().unwrap().unwrap().1, at(8, 4));
    }

    #[test]
    fn a_failed_write_leaves_the_older_one_and_says_so() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        checkpoints.save(&at(2, 2), weights(2)).unwrap();
        // A file whose directory does not exist stands for one that there is no room for.
        let error =
            checkpoints.save(&at(4, 4), [weights(4), vec![("no/room".to_owned(), vec![0])]].concat()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("step 4 cannot be written; the checkpoint of step 2 is whole"), "{error}");
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        assert_eq!(checkpoints.newest().unwrap().unwrap().1.step, 2);
        assert_eq!(fs::read(run.path().join("last/weights")).unwrap(), [2]);
        assert_eq!(fs::read_dir(run.path().join(DIRECTORY)).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_write_left_is_no_checkpoint_and_goes_away() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        checkpoints.save(&at(2, 2), weights(2)).unwrap();
        let left = run.path().join(DIRECTORY).join(".partial-4");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("weights"), [4]).unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        assert_eq!(checkpoints.newest().unwrap().unwrap().1.step, 2);
        assert!(!left.exists());
    }

    #[test]
    fn links_that_a_killed_write_did_not_set_are_set_when_the_run_is_opened() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        checkpoints.save(&at(2, 2), weights(2)).unwrap();
        let partial = run.path().join(DIRECTORY).join(".partial-4");
        checkpoints.write(&partial, &at(4, 4), &weights(4)).unwrap();
        assert_eq!(fs::read(run.path().join("best/weights")).unwrap(), [2]);
        Checkpoints::open(run.path()).unwrap();
        for link in ["best/weights", "last/weights"] {
            assert_eq!(fs::read(run.path().join(link)).unwrap(), [4]);
        }
    }

    #[test]
    fn a_checkpoint_that_is_written_again_replaces_itself() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path()).unwrap();
        for _ in 0..2 {
            checkpoints.save(&at(2, 2), weights(2)).unwrap();
        }
        assert_eq!(fs::read(run.path().join("best/weights")).unwrap(), [2]);
    }

    #[test]
    fn a_run_has_one_process() {
        let run = tempfile::tempdir().unwrap();
        let held = RunLock::take(run.path()).unwrap();
        let error = RunLock::take(run.path()).unwrap_err();
        assert!(format!("{error:#}").contains("another process"), "{error:#}");
        drop(held);
        RunLock::take(run.path()).unwrap();
    }
}
