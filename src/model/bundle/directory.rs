//! A bundle's directory: what may lie in it, and its files mapped into memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use memmap2::Mmap;

use super::MANIFEST;
use super::digest::check_length;
use crate::model::{Manifest, ModelError};
use crate::native;

/// Far above any real manifest: what is longer was given by mistake.
const LONGEST_MANIFEST: u64 = 1 << 20;

pub(super) fn read_manifest(directory: &Path) -> Result<String, ModelError> {
    let unreadable = |error: io::Error| wrong(MANIFEST, format!("cannot be read in {}: {error}", directory.display()));
    let file = File::open(directory.join(MANIFEST)).map_err(unreadable)?;
    let mut text = String::new();
    file.take(LONGEST_MANIFEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST_MANIFEST {
        return Err(wrong(MANIFEST, format!("is longer than {LONGEST_MANIFEST} bytes")));
    }
    Ok(text)
}

/// Refuses what neither the manifest lists nor belongs beside a model.
pub(super) fn refuse_surplus(directory: &Path, manifest: &Manifest) -> Result<(), ModelError> {
    let unreadable = |error: io::Error| wrong(".", format!("{} cannot be listed: {error}", directory.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match names.iter().find(|name| *name != MANIFEST && !manifest.files.contains_key(*name) && !is_companion(name)) {
        Some(name) => Err(wrong(name, "is not listed in [files] of bundle.toml".to_owned())),
        None => Ok(()),
    }
}

/// Model cards, licences, hidden files of tools, and what file systems put at their root.
fn is_companion(name: &str) -> bool {
    let papers = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];
    name.starts_with('.') || name == "lost+found" || name.ends_with(".md") || papers.iter().any(|p| name.starts_with(p))
}

/// Maps the file `name`, which must have `length` bytes.
pub(super) fn map(directory: &Path, name: &str, length: u64) -> Result<Mmap, ModelError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => wrong(name, format!("is missing in {}", directory.display())),
        _ => wrong(name, format!("cannot be read in {}: {error}", directory.display())),
    };
    let path = directory.join(name);
    // Asked before opening, since opening a pipe would wait for its writer.
    let metadata = fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(wrong(name, "is not a regular file".to_owned()));
    }
    check_length(name, metadata.len(), length)?;
    native::map_bundle_file(&File::open(&path).map_err(unreadable)?).map_err(unreadable)
}

fn wrong(name: &str, problem: String) -> ModelError {
    ModelError::File { file: name.to_owned(), problem }
}
