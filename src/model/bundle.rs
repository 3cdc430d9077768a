//! A bundle on disk or compiled in: manifest, files, and the checks that make it fit to serve.

use std::path::Path;

use super::{Manifest, ModelError};

/// One file of a bundle, mapped or compiled in.
pub struct BundleFile {
    name: String,
    bytes: &'static [u8],
}

impl BundleFile {
    /// Name inside the bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Contents.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// A checked bundle.
pub struct Bundle {
    manifest: Manifest,
}

impl Bundle {
    /// Opens the bundle in `directory`: reads and checks the manifest, and every file's length and SHA-256.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let _ = directory;
        todo!()
    }

    /// The bundle that is compiled into the binaries.
    pub fn demo() -> Result<Self, ModelError> {
        todo!()
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of `bundle.toml`, which holds those of all other files: 64 lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        todo!()
    }

    /// One file by its name in the manifest.
    pub fn file(&self, name: &str) -> Result<BundleFile, ModelError> {
        let _ = name;
        todo!()
    }
}

impl AsRef<[u8]> for BundleFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
