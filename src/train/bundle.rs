//! A bundle from weights that somebody has: upstream's safetensors and a description of what they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::staging::Staging;
use super::trial;
use crate::model::{Bundle, FileDigest, MANIFEST, Manifest, ModelError};

/// A file for a bundle.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Its name in the bundle.
    pub(super) name: String,
}

/// Writes the bundle that the TOML file `description` describes to the directory `out`, which appears only after every
/// network has been loaded and has scored. A bundle that is there already is replaced only with `force`.
///
/// The description is a `bundle.toml` without `[files]`, with paths relative to itself in place of file names.
pub fn assemble(description: &Path, out: &Path, force: bool) -> anyhow::Result<Bundle> {
    let shown = description.display();
    let text = fs::read_to_string(description).with_context(|| format!("{shown}: cannot be read"))?;
    let mut manifest = described(&text).map_err(|error| match error {
        ModelError::Manifest { key, problem } => anyhow!("{shown}: {key}: {problem}"),
        other => anyhow!("{shown}: {other}"),
    })?;
    let base = description.parent().unwrap_or(Path::new("."));
    let sources = name_sources(&mut manifest, base).with_context(|| shown.to_string())?;

    let staging = Staging::new(out, force)?;
    manifest.files = copy(&sources, staging.path())?;
    let bundle = seal(&manifest, staging.path())?;
    trial::try_out(&bundle).map_err(|error| name_source(error, &sources))?;
    staging.publish()?;
    Ok(bundle)
}

/// Writes the bundle that is compiled in to the directory `out`: for those who start from its networks.
pub fn export(out: &Path, force: bool) -> anyhow::Result<Bundle> {
    let bundle = Bundle::demo()?;
    let staging = Staging::new(out, force)?;
    for name in bundle.manifest().files.keys() {
        let path = staging.path().join(name);
        fs::write(&path, bundle.file(name)?.bytes())
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    let bundle = seal(bundle.manifest(), staging.path())?;
    staging.publish()?;
    Ok(bundle)
}

/// Writes the manifest of a directory that has all its files, and opens it as a server would.
pub(super) fn seal(manifest: &Manifest, directory: &Path) -> anyhow::Result<Bundle> {
    let text = toml::to_string(manifest).context("the manifest cannot be written as TOML")?;
    fs::write(directory.join(MANIFEST), text).with_context(|| format!("{MANIFEST}: cannot be written"))?;
    Ok(Bundle::open(directory)?)
}

fn described(text: &str) -> Result<Manifest, ModelError> {
    let manifest = Manifest::parse(text)?;
    if !manifest.files.is_empty() {
        let problem = "is given, but is made by `pcqa-train bundle`: leave it out".to_owned();
        return Err(ModelError::Manifest { key: "files".to_owned(), problem });
    }
    manifest.check_values()?;
    Ok(manifest)
}

/// Puts names of the bundle's own in place of the description's paths: upstream calls every other file
/// `model.safetensors`. A file that is used twice is in the bundle once.
fn name_sources(manifest: &mut Manifest, base: &Path) -> anyhow::Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    let mut names: HashMap<PathBuf, String> = HashMap::new();
    let mut take = |key: &str, value: &mut String, name: String| -> anyhow::Result<()> {
        let place = || format!("{key}: {value:?}: cannot be read");
        let path = base.join(&*value).canonicalize().with_context(place)?;
        let metadata = fs::metadata(&path).with_context(place)?;
        if !metadata.is_file() {
            bail!("{key}: {value:?}: is not a regular file");
        }
        let kind = Path::new(&name).extension().map(ToOwned::to_owned);
        let name = names.entry(path.clone()).or_insert_with(|| {
            sources.push(Source { path, bytes: metadata.len(), name: name.clone() });
            name
        });
        if Path::new(name).extension() != kind.as_deref() {
            bail!("{key}: {value:?}: is given as a tokenizer and as weights");
        }
        value.clone_from(name);
        Ok(())
    };
    take("text.tokenizer", &mut manifest.text.tokenizer, "tokenizer.json".to_owned())?;
    for (i, tower) in manifest.text.towers.iter_mut().enumerate() {
        take(&format!("text.towers[{i}].weights"), &mut tower.weights, format!("text_{}.safetensors", tower.name))?;
    }
    for (i, expert) in manifest.experts.iter_mut().enumerate() {
        let weights = &mut expert.backbone.weights;
        let name = &expert.name;
        take(&format!("experts[{i}].backbone.weights"), weights, format!("backbone_{name}.safetensors"))?;
        take(&format!("experts[{i}].head"), &mut expert.head, format!("head_{name}.safetensors"))?;
    }
    Ok(sources)
}

/// Says which of the description's files an error is about, which itself names the one in the bundle.
fn name_source(error: anyhow::Error, sources: &[Source]) -> anyhow::Error {
    let file = match error.downcast_ref::<ModelError>() {
        Some(ModelError::File { file, .. } | ModelError::Tensor { file, .. }) => file,
        _ => return error,
    };
    match sources.iter().find(|source| source.name == *file) {
        Some(source) => {
            let path = source.path.display().to_string();
            error.context(path)
        }
        None => error,
    }
}

/// Copies `sources` into `directory` and says what they are.
pub(super) fn copy(sources: &[Source], directory: &Path) -> anyhow::Result<BTreeMap<String, FileDigest>> {
    let bar = progress(sources.iter().map(|source| source.bytes).sum());
    let mut files = BTreeMap::new();
    for source in sources {
        bar.set_message(source.name.clone());
        let digest = copy_one(source, directory, &bar)
            .with_context(|| format!("{}: cannot be copied to {}", source.path.display(), directory.display()))?;
        files.insert(source.name.clone(), digest);
    }
    bar.finish_and_clear();
    Ok(files)
}

fn copy_one(source: &Source, directory: &Path, bar: &ProgressBar) -> std::io::Result<FileDigest> {
    let mut from = File::open(&source.path)?;
    let mut to = File::create_new(directory.join(&source.name))?;
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(FileDigest { sha256: format!("{:x}", hasher.finalize()), bytes });
        }
        let chunk = &buffer[..length];
        hasher.update(chunk);
        to.write_all(chunk)?;
        bytes += length as u64;
        bar.inc(length as u64);
    }
}

/// A bar of bytes on stderr, invisible where that is no terminal.
pub(super) fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{msg:40!} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
