//! `run.toml`: what `pcqa-train fit` starts from, with the paper's experts on what has been fetched.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, ensure};

use sha2::{Digest, Sha256};

use super::catalogue::{MODELS, Model, Role};
use super::record::{Record, replace};
use crate::model::{Activation, BackboneKind, Mixer, TOKENIZER, TextSpec, TextTowerSpec, Track};
use crate::train::architecture::Architecture;
use crate::train::config::{ExpertSettings, Settings};

/// Settings of a run, in the folder.
const FILE: &str = "run.toml";
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Most tokens of a prompt of CLIP.
const CONTEXT: usize = 77;

/// Refuses a folder that has a tokenizer and no record of anything that was fetched: it is another's.
pub(super) fn refuse_another_tokenizer(record: &Record, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(TOKENIZER_FILE);
    let another = record.models.is_empty() && fs::read(&path).is_ok_and(|found| found != TOKENIZER);
    ensure!(!another, "{}: is there and was not fetched; --out another folder", path.display());
    Ok(())
}

/// Writes settings for what `folder` holds, and CLIP's tokenizer beside them. Settings that somebody has changed stay. Says
/// what it wrote, and what to do next.
///
/// # Errors
///
/// When a file cannot be written.
pub(super) fn write(folder: &Path) -> anyhow::Result<String> {
    let tokenizer = replace(folder, TOKENIZER_FILE, TOKENIZER)?;
    let settings = Record::change(folder, |record| write_settings(record, folder))?;
    Ok(format!("{}: CLIP's vocabulary (MIT)\n{settings}", tokenizer.display()))
}

fn write_settings(record: &mut Record, folder: &Path) -> anyhow::Result<String> {
    let (text, experts) = (text(record), experts(record));
    if text.towers.is_empty() || experts.is_empty() {
        return Ok(format!("next: fetch a text tower and a backbone to train with into {}", folder.display()));
    }
    let settings = Settings { text: Some(text), experts, ..Settings::default() };
    let (path, wanted) = (folder.join(FILE), settings.to_toml()?);
    let shown = path.display();
    let digest = |text: &str| Some(format!("{:x}", Sha256::digest(text)));
    let (fit, then) = ("pcqa-train fit --data DATA --config", "pcqa-train ensemble --runs runs/* --out my-ensemble");
    let next = format!("next: {fit} {shown} --expert all --out runs\nthen: {then}");
    let found = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.with_context(|| format!("{shown}: cannot be read"))?),
    };
    Ok(match found {
        Some(found) if found == wanted => next,
        Some(found) if digest(&found) != record.settings_sha256 => {
            format!("{shown}: has been changed, and is kept as it is; remove it to have one for all models\n{next}")
        }
        _ => {
            record.settings_sha256 = digest(&wanted);
            replace(folder, FILE, wanted)?;
            format!("{shown}: the paper's experts and recipe\n{next}")
        }
    })
}

/// Every model of the catalogue that is there, with its file.
fn present(record: &Record) -> impl Iterator<Item = (&'static Model, String)> {
    let files: BTreeMap<&str, &str> =
        record.models.iter().map(|entry| (entry.name.as_str(), entry.written.as_str())).collect();
    MODELS.iter().filter_map(move |model| Some((model, (*files.get(model.name)?).to_owned())))
}

fn text(record: &Record) -> TextSpec {
    let tower = |(model, weights): (&Model, String)| match model.role {
        Role::Text(activation) => Some(TextTowerSpec { name: model.name.to_owned(), weights, activation, heads: None }),
        Role::Backbone(..) => None,
    };
    let towers = present(record).filter_map(tower).collect();
    TextSpec { tokenizer: TOKENIZER_FILE.to_owned(), context_length: CONTEXT, l2_norm: true, towers }
}

/// Images are judged by all backbones, videos by the two that are fast enough (section 4.2).
fn experts(record: &Record) -> Vec<ExpertSettings> {
    let mut experts = Vec::new();
    for track in [Track::Image, Track::Video] {
        for (model, weights) in present(record) {
            match model.role {
                Role::Backbone(BackboneKind::Eva02, _) if track == Track::Video => {}
                Role::Backbone(kind, mixer) => experts.push(expert(track, kind, mixer, &weights)),
                Role::Text(_) => {}
            }
        }
    }
    experts
}

fn expert(track: Track, kind: BackboneKind, mixer: Mixer, weights: &str) -> ExpertSettings {
    ExpertSettings {
        name: format!("{}_{}", track.name(), kind.name()),
        track,
        backbone: Architecture::full(kind).backbone(weights),
        pretrained: None,
        head: None,
        latent: 1024,
        hidden: 1024,
        input_size: 448,
        mixer,
        temporal_activation: Activation::Relu,
        adapter_activation: Activation::None,
        head_activation: Activation::Gelu,
    }
}
