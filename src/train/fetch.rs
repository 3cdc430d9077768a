//! `pcqa-train fetch`: public checkpoints from the Hugging Face hub to a folder that training starts from.
//!
//! Revisions are pinned, digests are checked, downloads go on where they broke, and nothing that is fetched is executed.

mod catalogue;
mod download;
mod hub;
mod licence;
mod patience;
mod record;
mod refusal;
mod repository;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use indicatif::HumanBytes;

pub use self::catalogue::{HELP, Model};
use self::catalogue::{MODELS, Role, find};
use self::download::{Wanted, digest, download};
use self::hub::Hub;
use self::licence::Terms;
use self::record::{Entry, Record};
use self::repository::{Repository, Weights};
use super::bundle::progress;
use super::convert::{NumberFormat, convert};
use super::print;
use super::staging::StagedFile;

/// The revision of repositories that nobody names another one of.
const NEWEST: &str = "main";

/// What `pcqa-train fetch` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Models to fetch; those of the paper where none is named. See below.
    #[arg(value_name = "MODEL", value_parser = find)]
    pub models: Vec<&'static Model>,
    /// Folder to write; models that it holds already stay.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Number format of what is written.
    #[arg(long, value_enum, default_value_t = NumberFormat::F32)]
    pub dtype: NumberFormat,
    /// A model whose licence, which restricts its use, you have read and accept; may be given again.
    #[arg(long, value_name = "MODEL", value_parser = find)]
    pub accept_licence: Vec<&'static Model>,
    /// Branch, tag or commit of a model's repository; may be given again. By default the commit of before, or else the
    /// newest.
    #[arg(long, value_name = "MODEL=REVISION", value_parser = revision)]
    pub revision: Vec<(&'static Model, String)>,
    /// Where downloads are kept, as the hub's own tools keep them; by default with theirs.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Fetches what `arguments` name.
///
/// # Errors
///
/// Says which model, which file and what was expected.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.out;
    for (model, revision) in &arguments.revision {
        let name = model.name;
        ensure!(is_wanted(model, arguments), "--revision {name}={revision}: {name} is not among the models to fetch");
    }
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let record = Record::read(folder)?;
    settings::refuse_another_tokenizer(&record, folder)?;
    let mut missing = Vec::new();
    for model in MODELS.iter().filter(|model| is_wanted(model, arguments)) {
        // A branch may have moved, and the hub is to be asked where.
        let named = named_revision(model, arguments);
        match record.get(model.name) {
            Some(entry) if named.is_none_or(|named| named == entry.commit) && is_there(entry, model, arguments)? => {
                say_there(entry, arguments)?;
            }
            _ => missing.push(model),
        }
    }
    if !missing.is_empty() {
        fetch(&missing, arguments, &record)?;
    }
    say(&settings::write(folder)?)
}

/// Prints a line.
fn say(line: &str) -> anyhow::Result<()> {
    Ok(print(&format!("{line}\n"))?)
}

fn say_there(entry: &Entry, arguments: &Arguments) -> anyhow::Result<()> {
    say(&format!("{}: is there: {}", entry.name, arguments.out.join(&entry.written).display()))
}

fn is_wanted(model: &Model, arguments: &Arguments) -> bool {
    if arguments.models.is_empty() { model.default } else { arguments.models.contains(&model) }
}

fn revision(text: &str) -> anyhow::Result<(&'static Model, String)> {
    let (model, revision) = text.split_once('=').context("expected MODEL=REVISION")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let fits = !revision.is_empty() && !revision.contains("..") && !revision.starts_with('/');
    let fits = fits && revision.bytes().all(plain);
    ensure!(fits, "{revision:?} is no name of a branch, tag or commit");
    Ok((find(model)?, revision.to_owned()))
}

fn named_revision<'a>(model: &Model, arguments: &'a Arguments) -> Option<&'a str> {
    arguments.revision.iter().rev().find(|(named, _)| *named == model).map(|(_, revision)| revision.as_str())
}

/// Whether the file of `entry` is what would be fetched now.
fn is_there(entry: &Entry, model: &Model, arguments: &Arguments) -> anyhow::Result<bool> {
    let path = arguments.out.join(&entry.written);
    let long = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == entry.written_bytes);
    if !long || entry.dtype != arguments.dtype || entry.written != file_name(model) {
        return Ok(false);
    }
    let bar = progress(entry.written_bytes).with_message(entry.written.clone());
    let found = digest(&path, &bar).with_context(|| format!("{}: cannot be read", path.display()))?;
    bar.finish_and_clear();
    Ok(found == entry.written_sha256)
}

/// The name of `model`'s file in the folder.
fn file_name(model: &Model) -> String {
    let kind = match model.role {
        Role::Text(_) => "text",
        Role::Backbone(..) => "backbone",
    };
    format!("{kind}_{}.safetensors", model.name)
}

/// A model that has been looked up.
struct Found {
    model: &'static Model,
    /// What was asked for when nothing was pinned.
    revision: String,
    /// What is asked for now: the revision, or the commit that it was before.
    at: String,
    repository: Repository,
    weights: Weights,
}

impl Found {
    fn terms(&self) -> Terms<'_> {
        Terms { model: self.model, repository: &self.repository }
    }
}

fn fetch(models: &[&'static Model], arguments: &Arguments, record: &Record) -> anyhow::Result<()> {
    // A folder that cannot be written to: better now than after gigabytes.
    drop(StagedFile::new(&arguments.out.join(record::FILE), true)?);
    let hub = Hub::from_env(arguments.cache.as_deref())?;
    let found = models.iter().map(|model| look_up(&hub, model, arguments, record));
    let mut missing = Vec::new();
    for found in found {
        let found = found?;
        match record.get(found.model.name).filter(|entry| entry.commit == found.repository.sha) {
            Some(entry) if is_there(entry, found.model, arguments)? => say_there(entry, arguments)?,
            _ => {
                let path = arguments.out.join(file_name(found.model));
                let ours = record.get(found.model.name).is_some();
                ensure!(
                    ours || !path.exists(),
                    "{}: is there and was not fetched; --out another folder",
                    path.display()
                );
                missing.push(found);
            }
        }
    }
    let found = missing;
    let terms: Vec<Terms> = found.iter().map(Found::terms).collect();
    licence::settle(&hub, &terms, &arguments.accept_licence)?;
    for found in &found {
        let (entry, said) = obtain(&hub, found, arguments).with_context(|| found.model.name)?;
        let recorded = Record::put(entry, &arguments.out)?;
        say(&format!("{said}\n{recorded}"))?;
    }
    Ok(())
}

fn look_up(hub: &Hub, model: &'static Model, arguments: &Arguments, record: &Record) -> anyhow::Result<Found> {
    let before = record.get(model.name);
    let (revision, at) = match (named_revision(model, arguments), before) {
        (Some(named), _) => (named, named),
        (None, Some(before)) => (before.revision.as_str(), before.commit.as_str()),
        (None, None) => (NEWEST, NEWEST),
    };
    let (revision, at) = (revision.to_owned(), at.to_owned());
    let repository = Repository::look_up(hub, model, &at).with_context(|| model.name)?;
    let weights = repository.weights(hub, model).with_context(|| model.name)?;
    if let Some(before) = before {
        before.check(&repository.sha, &weights)?;
    }
    let found = Found { model, revision, at, repository, weights };
    let Weights { file, bytes, sha256 } = &found.weights;
    let (page, commit, licence) = (hub.page(model.repository), &found.repository.sha, found.terms().name());
    let name = model.name;
    say(&format!("{name}: {page} at {commit}: {file}, {}, licence {licence}", HumanBytes(*bytes)))?;
    say(&format!("{name}: SHA-256 {sha256} by the hub"))?;
    Ok(found)
}

/// Downloads and converts one model. Says what it was.
fn obtain(hub: &Hub, found: &Found, arguments: &Arguments) -> anyhow::Result<(Entry, String)> {
    let Found { model, revision, at, repository, weights } = found;
    let wanted = Wanted { repository: model.repository, revision: at, commit: &repository.sha, weights };
    let blob = download(hub, &wanted)?;
    let written = file_name(model);
    let path: &Path = &arguments.out.join(&written);
    let converted = convert(&blob, Some(model.role.part()), arguments.dtype, path, true)?;
    let said = format!("{}: {}: {}, {} tensors", model.name, path.display(), converted.found, converted.tensors);
    let entry = Entry {
        name: model.name.to_owned(),
        repository: model.repository.to_owned(),
        revision: revision.clone(),
        commit: repository.sha.clone(),
        file: weights.file.clone(),
        bytes: weights.bytes,
        sha256: weights.sha256.clone(),
        licence: found.terms().name(),
        written,
        dtype: arguments.dtype,
        written_bytes: converted.digest.bytes,
        written_sha256: converted.digest.sha256,
    };
    Ok((entry, said))
}
