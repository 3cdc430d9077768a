//! What a run's folder says of the run beside its settings: what it began with, and who was trained on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Normal, SETTINGS};
use crate::train::checkpoint::replace;
use crate::train::config::Settings;
use crate::train::dataset::Item;

const RECORD: &str = "record.json";
const SPLIT: &str = "split.csv";
const TRAIN: &str = "train";
const HELD_OUT: &str = "held_out";

/// What a run began with, as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the program.
    pub version: String,
    /// Name of the data set.
    pub dataset: String,
    /// SHA-256 of the names, prompts and MOS of its items, in order.
    pub items_sha256: String,
    /// Items that are trained on.
    pub train_items: usize,
    /// Items that are held out.
    pub held_out_items: usize,
    /// Lowest and highest MOS of all items; None where there is no MOS.
    pub mos_range: Option<[f64; 2]>,
    /// How MOS are normalised.
    pub normal: Normal,
    /// SHA-256 of every file of weights, by path: text towers and what the expert started from.
    pub weights_sha256: BTreeMap<String, String>,
    /// Learnable numbers of the expert.
    pub parameters: usize,
    /// CPU threads of one operation.
    pub threads: i32,
    /// Name, version and digest of the teacher's bundle, in a distillation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// In a distillation, of how many items of which other data sets only the teacher's opinion is learnt; they count
    /// among those that are trained on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unlabelled: BTreeMap<String, usize>,
}

impl Record {
    /// What was trained on and who taught it, in words.
    pub fn sources(&self) -> String {
        let Self { dataset, train_items, teacher, unlabelled, .. } = self;
        let labelled = train_items - unlabelled.values().sum::<usize>().min(*train_items);
        let mut text = format!("{labelled} items of {dataset}");
        for (name, items) in unlabelled {
            text += &format!(" and {items} of {name} without MOS");
        }
        if let Some(teacher) = teacher {
            text += &format!(", taught by {teacher}");
        }
        text
    }

    pub(super) fn write(&self, run: &Path) -> anyhow::Result<()> {
        replace(&run.join(RECORD), &serde_json::to_vec_pretty(self)?)
    }
}

/// The record of the run in folder `run`.
///
/// # Errors
///
/// When it cannot be read.
pub fn read_record(run: &Path) -> anyhow::Result<Record> {
    let path = run.join(RECORD);
    let shown = path.display();
    let json = fs::read(&path).with_context(|| format!("{shown}: cannot be read"))?;
    serde_json::from_slice(&json).with_context(|| format!("{shown}: is no record of a run"))
}

/// The settings of the run in folder `run`.
///
/// # Errors
///
/// When they cannot be read.
pub fn read_settings(run: &Path) -> anyhow::Result<Settings> {
    Settings::read(&run.join(SETTINGS))
}

pub(super) fn write_settings(run: &Path, settings: &Settings) -> anyhow::Result<()> {
    replace(&run.join(SETTINGS), settings.to_toml()?.as_bytes())
}

/// What identifies the items: nothing that is trained on may change under a run.
pub(in crate::train) fn digest(items: &[Item]) -> String {
    let mut hasher = Sha256::new();
    for item in items {
        for field in [&item.name, &item.prompt, &format!("{:?}", item.mos)] {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    format!("{:x}", hasher.finalize())
}

/// Writes which of `items` are trained on and which are held out.
pub(super) fn write_split(run: &Path, items: &[Item], train: &[usize], held_out: &[usize]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["name", "prompt", "part"])?;
    for (part, indices) in [(TRAIN, train), (HELD_OUT, held_out)] {
        for item in indices.iter().filter_map(|&index| items.get(index)) {
            writer.write_record([item.name.as_str(), item.prompt.as_str(), part])?;
        }
    }
    replace(&run.join(SPLIT), &writer.into_inner().map_err(|error| error.into_error())?)
}

/// Names and prompts of the items that the run in folder `run` was trained on.
///
/// # Errors
///
/// When its `split.csv` cannot be read.
pub fn read_trained_on(run: &Path) -> anyhow::Result<BTreeSet<(String, String)>> {
    let path = run.join(SPLIT);
    let shown = path.display().to_string();
    let mut reader = csv::Reader::from_path(&path).with_context(|| format!("{shown}: cannot be read"))?;
    let mut names = BTreeSet::new();
    for row in reader.deserialize() {
        let (name, prompt, part): (String, String, String) = row.with_context(|| shown.clone())?;
        if part == TRAIN {
            names.insert((name, prompt));
        }
    }
    Ok(names)
}
