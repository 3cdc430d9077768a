//! A bundle on disk or compiled in: manifest, files, and the checks that make it fit to serve. What the tensors are is
//! checked by the networks that take them.

mod digest;
mod directory;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use memmap2::Mmap;

pub use self::digest::BundleCheck;
use self::digest::sha256;
use super::{Manifest, ModelError, demo};
use crate::native;

/// Name of the manifest in a bundle's directory.
pub(crate) const MANIFEST: &str = "bundle.toml";

/// Bytes that stay where they are for as long as somebody holds them.
#[derive(Debug, Clone)]
enum Contents {
    Mapped(Arc<Mmap>),
    Compiled(&'static [u8]),
    Held(Arc<[u8]>),
}

impl Contents {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Compiled(bytes) => bytes,
            Self::Held(bytes) => bytes,
        }
    }

    /// As [`BundleFile::let_go`].
    fn let_go(&self, part: &[u8]) {
        if let Self::Mapped(map) = self {
            native::let_go(map, part);
        }
    }
}

/// One file of a bundle: mapped, compiled in, or made in memory.
#[derive(Debug, Clone)]
pub struct BundleFile {
    name: String,
    contents: Contents,
}

impl BundleFile {
    /// A file that no directory holds.
    pub fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), contents: Contents::Held(bytes.into()) }
    }

    /// Name inside the bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Contents.
    pub fn bytes(&self) -> &[u8] {
        self.contents.bytes()
    }

    /// Says that `part` of the bytes has been used. Pages of a mapped file count as this process's memory from when they
    /// are first read: without this, loading would hold a file beside the tensors that are made of it.
    pub(super) fn let_go(&self, part: &[u8]) {
        self.contents.let_go(part);
    }
}

/// A checked bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    digest: String,
    files: BTreeMap<String, Contents>,
}

impl Bundle {
    /// Opens the bundle in `directory`: reads and checks the manifest, and every file's length and SHA-256. All bytes
    /// are read once, on as many threads as there are processors, and do not stay in memory.
    ///
    /// Beside the manifest and the files that it lists, the directory may hold hidden files, `lost+found`, `*.md`, and
    /// files whose names start with LICENSE, LICENCE, COPYING or NOTICE; they are not looked at. Anything else is
    /// refused. Files may be symbolic links, as model caches and mounted volumes have them.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let (bundle, check) = Self::open_unchecked(directory)?;
        check.run(cores())?;
        Ok(bundle)
    }

    /// As [`open`](Self::open), but for the SHA-256, which the returned check compares. It may run while the bundle is
    /// loaded; nothing may be scored by what was loaded before it has passed, and where it fails, what else went wrong
    /// follows from that.
    pub fn open_unchecked(directory: &Path) -> Result<(Self, BundleCheck), ModelError> {
        let text = directory::read_manifest(directory)?;
        let manifest = checked(&text)?;
        directory::refuse_surplus(directory, &manifest)?;
        let mut files = BTreeMap::new();
        for (name, expected) in &manifest.files {
            files.insert(name.clone(), Contents::Mapped(Arc::new(directory::map(directory, name, expected.bytes)?)));
        }
        Self::new(&text, manifest, files)
    }

    /// The bundle that is compiled into the binaries.
    pub fn demo() -> Result<Self, ModelError> {
        let mut files: BTreeMap<String, Contents> =
            demo::FILES.iter().map(|(name, bytes)| ((*name).to_owned(), Contents::Compiled(bytes))).collect();
        let manifest = checked(demo::MANIFEST)?;
        files.retain(|name, _| manifest.files.contains_key(name));
        let (bundle, check) = Self::new(demo::MANIFEST, manifest, files)?;
        check.run(cores())?;
        Ok(bundle)
    }

    fn new(
        text: &str,
        manifest: Manifest,
        files: BTreeMap<String, Contents>,
    ) -> Result<(Self, BundleCheck), ModelError> {
        let check = BundleCheck::new(&manifest.files, &files)?;
        Ok((Self { manifest, digest: sha256(text.as_bytes()), files }, check))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of `bundle.toml`, which holds those of all other files: 64 lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// One file by its name in the manifest.
    pub fn file(&self, name: &str) -> Result<BundleFile, ModelError> {
        match self.files.get(name) {
            Some(contents) => Ok(BundleFile { name: name.to_owned(), contents: contents.clone() }),
            None => Err(ModelError::File { file: name.to_owned(), problem: "is not listed in [files]".to_owned() }),
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn checked(text: &str) -> Result<Manifest, ModelError> {
    let manifest = Manifest::parse(text)?;
    manifest.check_values()?;
    manifest.check_files()?;
    Ok(manifest)
}
