//! A repository at one commit: its files with their digests, and its licence.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::catalogue::Model;
use super::hub::{Hub, text};
use super::patience::patiently;
use super::refusal::{Failure, plain};

/// Largest file that is believed, in bytes; the largest known is of 20 GB.
const LARGEST: u64 = 1 << 40;

/// What the hub says of a repository at a commit.
#[derive(Debug, Deserialize)]
pub(super) struct Repository {
    /// The commit.
    pub(super) sha: String,
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Value,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

/// A large file, as Git LFS has it.
#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    size: u64,
    sha256: String,
}

/// A file of weights on the hub.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    /// Its name.
    pub(super) file: String,
    /// Its length.
    pub(super) bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal digits.
    pub(super) sha256: String,
}

impl Repository {
    /// `model`'s repository as it is at `revision`.
    ///
    /// # Errors
    ///
    /// When the hub does not give it, or not as expected.
    pub(super) fn look_up(hub: &Hub, model: &Model, revision: &str) -> anyhow::Result<Self> {
        let page = hub.page(model.repository);
        let json = patiently(|| hub.describe(model.repository, revision))?;
        let repository: Self =
            serde_json::from_slice(&json).with_context(|| format!("{page}: no description of it"))?;
        let sha = &repository.sha;
        ensure!(is_hex(sha, 40), "{page}: the hub gives {sha:?} as its commit");
        ensure!(!is_hex(revision, 40) || revision == sha, "{page}: the hub gives commit {sha}, asked for {revision}");
        Ok(repository)
    }

    /// The file that holds `model`'s weights.
    ///
    /// # Errors
    ///
    /// When there is none, or the hub does not say what bytes it has.
    pub(super) fn weights(&self, hub: &Hub, model: &Model) -> anyhow::Result<Weights> {
        let page = hub.page(model.repository);
        let named = |name: &&str| self.siblings.iter().find(|sibling| sibling.rfilename == *name);
        let sibling = model.files.iter().find_map(named);
        let Some(sibling) = sibling else { bail!("{page}: has neither of {}", model.files.join(", ")) };
        let file = sibling.rfilename.clone();
        let lfs = match &sibling.lfs {
            Some(lfs) => lfs.clone(),
            None => patiently(|| self.ask_for_digest(hub, model, &file))
                .with_context(|| format!("{page}: {file}"))?
                .with_context(|| format!("{page}: {file}: the hub does not give its length and SHA-256"))?,
        };
        let (bytes, sha256) = (lfs.size, lfs.sha256.to_ascii_lowercase());
        ensure!(is_hex(&sha256, 64), "{page}: {file}: the hub gives {sha256:?} as its SHA-256");
        ensure!((1..=LARGEST).contains(&bytes), "{page}: {file}: the hub gives {bytes} as its length");
        Ok(Weights { file, bytes, sha256 })
    }

    /// Mirrors may list files without their digests, and still send them with the files.
    fn ask_for_digest(&self, hub: &Hub, model: &Model, file: &str) -> Result<Option<Lfs>, Failure> {
        let answer = hub.open(model.repository, &self.sha, file, 0)?;
        let size = text(&answer.headers, "content-length").and_then(|length| length.parse().ok());
        Ok(size.zip(answer.linked_etag).map(|(size, sha256)| Lfs { size, sha256 }))
    }

    /// The hub's name of the licence.
    pub(super) fn licence(&self) -> Option<String> {
        let name = |key: &str| match &self.card[key] {
            Value::Array(names) => names.first()?.as_str(),
            name => name.as_str(),
        };
        // Licences that the hub has no name of are called `other`, and by their authors.
        name("license_name").or_else(|| name("license")).map(plain)
    }

    /// Files that hold a licence's text.
    pub(super) fn licence_files(&self) -> impl Iterator<Item = &str> {
        let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let names = self.siblings.iter().map(|sibling| sibling.rfilename.as_str());
        names.filter(move |name| (name.starts_with("LICENSE") || name.starts_with("LICENCE")) && plain(name))
    }
}

/// Whether `text` is `length` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
