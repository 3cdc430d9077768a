//! What is to be scored: files and folders of the command line become items in a fixed order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::WalkDir;

use super::Error;
use super::kind::{self, Kind};

/// One file and its prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The caller's name for it; empty when there is none.
    pub id: String,
    /// The path as the caller wrote it, for results and errors.
    pub name: String,
    /// Where the file lies.
    pub path: PathBuf,
    /// The prompt that it was made from.
    pub prompt: Arc<str>,
}

/// Files as they come; of folders the files below them whose names end like one of `kinds`, sorted by name, without
/// hidden ones. Links are followed.
///
/// # Errors
/// A folder that cannot be read, or that holds nothing to score.
pub fn from_paths(paths: &[PathBuf], prompt: &str, kinds: &[Kind]) -> Result<Vec<Item>, Error> {
    let prompt: Arc<str> = prompt.into();
    let item = |path: &Path| Item {
        id: String::new(),
        name: path.to_string_lossy().into_owned(),
        path: path.to_owned(),
        prompt: prompt.clone(),
    };
    let mut items = Vec::new();
    for path in paths {
        if !path.is_dir() {
            items.push(item(path));
            continue;
        }
        let found = files_below(path, kinds)?;
        if found.is_empty() {
            let kinds = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ");
            return Err(Error::Usage(format!("folder {} holds no {kinds}", path.display())));
        }
        items.extend(found.iter().map(|file| item(file)));
    }
    Ok(items)
}

fn files_below(folder: &Path, kinds: &[Kind]) -> Result<Vec<PathBuf>, Error> {
    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut files = Vec::new();
    let entries = WalkDir::new(folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()));
    let is_wanted = |path: &Path| kind::by_name(path).is_some_and(|kind| kinds.contains(&kind));
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_wanted(entry.path()) => files.push(entry.into_path()),
            Ok(_) => {}
            // A link that leads back up: what it leads to is found anyway.
            Err(error) if error.loop_ancestor().is_some() => {}
            // A link that leads nowhere has its turn, and its line, like any file that cannot be read.
            Err(error) => match error.path() {
                Some(path) if error.depth() > 0 && is_wanted(path) => files.push(path.to_owned()),
                Some(path) if error.depth() > 0 && !path.is_dir() => {}
                _ => return Err(Error::Usage(format!("folder {} cannot be searched: {error}", folder.display()))),
            },
        }
    }
    Ok(files)
}

/// Refuses an `out`, given by `option`, that is one of `inputs`: writing the results would destroy it.
///
/// # Errors
/// When it is.
pub fn keep_from<'a>(
    option: &str,
    out: Option<&Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), Error> {
    let Some(target) = out.and_then(|out| out.canonicalize().ok()) else { return Ok(()) };
    match inputs.into_iter().find(|input| input.canonicalize().is_ok_and(|input| input == target)) {
        Some(input) => Err(Error::Usage(format!("{option} {} would replace what is to be read", input.display()))),
        None => Ok(()),
    }
}
