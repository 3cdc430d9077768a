//! `fetched.toml`: what a folder holds, and where it came from. It pins revisions: with it, the same command fetches the
//! same bytes, unless it names a branch or a tag, which may have moved.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::repository::{Weights, is_hex};
use crate::train::convert::NumberFormat;
use crate::train::staging::StagedFile;

/// The record, in the folder.
pub(super) const FILE: &str = "fetched.toml";
const SCHEMA: u32 = 1;

/// All models of a folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    schema: u32,
    /// SHA-256 of the settings that were written beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settings_sha256: Option<String>,
    #[serde(default)]
    pub(super) models: Vec<Entry>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Its name in the catalogue.
    pub(super) name: String,
    pub(super) repository: String,
    /// What was asked for.
    pub(super) revision: String,
    /// What that was then.
    pub(super) commit: String,
    /// The file of the repository.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// By the hub's name.
    pub(super) licence: String,
    /// The file of this folder.
    pub(super) written: String,
    pub(super) dtype: NumberFormat,
    pub(super) written_bytes: u64,
    pub(super) written_sha256: String,
}

impl Record {
    /// The record of `folder`, which may not have one yet.
    ///
    /// # Errors
    ///
    /// When there is something else of that name.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let shown = path.display();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { schema: SCHEMA, settings_sha256: None, models: Vec::new() });
            }
            text => text.with_context(|| format!("{shown}: cannot be read"))?,
        };
        let record: Self = toml::from_str(&text).with_context(|| shown.to_string())?;
        ensure!(record.schema == SCHEMA, "{shown}: schema: is {}, expected {SCHEMA}", record.schema);
        for Entry { name, commit, sha256, .. } in &record.models {
            ensure!(is_hex(commit, 40), "{shown}: {name}: commit: is {commit:?}, expected 40 hexadecimal digits");
            ensure!(is_hex(sha256, 64), "{shown}: {name}: sha256: is {sha256:?}, expected 64 hexadecimal digits");
        }
        Ok(record)
    }

    /// The model called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.models.iter().find(|entry| entry.name == name)
    }

    /// Adds `entry` to the record of `folder`, or puts it in the place of the one of its name. Says so.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn put(entry: Entry, folder: &Path) -> anyhow::Result<String> {
        Self::change(folder, |record| {
            match record.models.iter_mut().find(|known| known.name == entry.name) {
                Some(known) => *known = entry,
                None => record.models.push(entry),
            }
            let count = record.models.len();
            let models = if count == 1 { "model" } else { "models" };
            Ok(format!("{}: {count} {models}", folder.join(FILE).display()))
        })
    }

    /// Has `change` change the record of `folder`, which nobody else does meanwhile.
    ///
    /// # Errors
    ///
    /// Those of `change`; when it cannot be read or written.
    pub(super) fn change<T>(folder: &Path, change: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let directory = File::open(folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
        // Where there are no locks, whoever comes last has the last word.
        let _ = directory.lock();
        let mut record = Self::read(folder)?;
        let result = change(&mut record)?;
        replace(folder, FILE, toml::to_string(&record).context("the record cannot be written as TOML")?)?;
        Ok(result)
    }
}

impl Entry {
    /// Refuses `weights` that are not those of before although the commit is.
    pub(super) fn check(&self, commit: &str, weights: &Weights) -> anyhow::Result<()> {
        let same = self.file != weights.file || (self.sha256 == weights.sha256 && self.bytes == weights.bytes);
        let (name, before) = (&self.name, &self.sha256);
        ensure!(
            self.commit != commit || same,
            "{name}: {} at commit {commit} had SHA-256 {before}, now the hub gives {}: commits do not change, so one of \
             the two is wrong",
            weights.file,
            weights.sha256
        );
        Ok(())
    }
}

/// Writes the file `name` of `folder`, which is the old one or the new one at any time.
pub(super) fn replace(folder: &Path, name: &str, contents: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let mut staged = StagedFile::new(&path, true)?;
    let written = staged.file.write_all(contents.as_ref());
    written.with_context(|| format!("{}: cannot be written", path.display()))?;
    staged.publish()?;
    Ok(path)
}
