//! A data set's folder: which list it has, and where the files are that the list names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use walkdir::WalkDir;

use crate::model::Track;

/// Lists as they are distributed, the labelled ones first.
const KNOWN_LISTS: [&str; 11] = [
    "info_train.xlsx",
    "info_train.csv",
    "info.csv",
    "info.jsonl",
    "info.parquet",
    "info.xlsx",
    "info.txt",
    "train.txt",
    "train.csv",
    "data.csv",
    "data.parquet",
];
const LIST_ENDINGS: [&str; 5] = ["csv", "jsonl", "parquet", "txt", "xlsx"];
const IMAGE_ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];
const VIDEO_ENDINGS: [&str; 6] = ["mp4", "mov", "m4v", "webm", "mkv", "avi"];

/// Endings that a list may leave out, in the order in which they are tried.
const OMITTED_ENDINGS: [&str; 4] = ["png", "jpg", "mp4", "avi"];

/// The list of the data set in `folder`.
pub(super) fn find_list(folder: &Path) -> anyhow::Result<PathBuf> {
    if let Some(list) = KNOWN_LISTS.iter().map(|name| folder.join(name)).find(|list| list.is_file()) {
        return Ok(list);
    }
    let shown = folder.display();
    let entries = fs::read_dir(folder).with_context(|| format!("{shown}: cannot be read"))?;
    let mut lists: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_list(path)).collect();
    lists.sort();
    match lists.as_slice() {
        [list] => Ok(list.clone()),
        [] => bail!("{shown}: holds no list; expected a file that ends in .csv, .jsonl, .parquet, .txt or .xlsx"),
        [..] => {
            let names: Vec<_> = lists.iter().flat_map(|list| list.file_name()).map(OsStr::to_string_lossy).collect();
            bail!("{shown}: holds several lists, say --list with one of {}", names.join(", "))
        }
    }
}

fn is_list(path: &Path) -> bool {
    ending(path).is_some_and(|ending| LIST_ENDINGS.contains(&ending.as_str())) && path.is_file()
}

fn ending(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

/// Whether a file's ending is that of an image or of a video. A GIF is an image here, its first frame.
pub(super) fn ending_track(path: &Path) -> Option<Track> {
    let ending = ending(path)?;
    let is_in = |endings: &[&str]| endings.contains(&ending.as_str());
    match (is_in(&IMAGE_ENDINGS), is_in(&VIDEO_ENDINGS)) {
        (true, _) => Some(Track::Image),
        (_, true) => Some(Track::Video),
        _ => None,
    }
}

/// The folder that a list's paths are relative to.
pub(super) struct Folder {
    root: PathBuf,
    /// `train`, `val` or `test`, where the list's name says which part it is of.
    part: Option<&'static str>,
    /// All media below the root by file name; gathered when a file is first not where the list says.
    below: Option<HashMap<OsString, Vec<PathBuf>>>,
}

impl Folder {
    pub fn new(root: &Path, list: &Path) -> Self {
        let stem = list.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let part = ["train", "val", "test"].into_iter().find(|part| stem.split(['_', '-']).any(|word| word == *part));
        Self { root: root.to_owned(), part, below: None }
    }

    /// The file that the list calls `name`: beside the list, else in whatever folder below has it. Distributions put
    /// their files into folders that their lists do not name.
    pub fn find(&mut self, name: &str) -> Result<PathBuf, String> {
        // Lists are written on Windows as well.
        let name = name.replace('\\', "/");
        let name = Path::new(name.trim_start_matches("./"));
        let names = || {
            let shortened = ending_track(name).is_none();
            let longer = OMITTED_ENDINGS.iter().filter(move |_| shortened);
            std::iter::once(name.to_owned()).chain(longer.map(|ending| with_ending(name, ending)))
        };
        for name in names() {
            let path = self.root.join(name);
            if path.is_file() {
                return not_empty(path);
            }
        }
        for name in names() {
            if let Some(path) = self.find_below(&name)? {
                return not_empty(path);
            }
        }
        Err(format!("{} is not below {}", name.display(), self.root.display()))
    }

    fn find_below(&mut self, name: &Path) -> Result<Option<PathBuf>, String> {
        let root = &self.root;
        let below = self.below.get_or_insert_with(|| gather(root));
        let Some(key) = name.file_name() else {
            return Ok(None);
        };
        let ends_so = |path: &&PathBuf| path.ends_with(name);
        let mut found: Vec<&PathBuf> = below.get(key).into_iter().flatten().filter(ends_so).collect();
        if let (Some(part), [_, _, ..]) = (self.part, found.as_slice()) {
            let is_of_part = |path: &Path| path.components().any(|folder| folder == Component::Normal(part.as_ref()));
            found.retain(|path| path.strip_prefix(root).is_ok_and(is_of_part));
        }
        match found.as_slice() {
            [] => Ok(None),
            [path] => Ok(Some((*path).clone())),
            [first, second, ..] => {
                Err(format!("{} is in several folders: {} and {}", name.display(), first.display(), second.display()))
            }
        }
    }
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut longer = name.as_os_str().to_owned();
    longer.push(".");
    longer.push(ending);
    longer.into()
}

fn not_empty(path: PathBuf) -> Result<PathBuf, String> {
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() == 0 => Err(format!("{} is empty", path.display())),
        Ok(_) => Ok(path),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

fn gather(root: &Path) -> HashMap<OsString, Vec<PathBuf>> {
    let mut below: HashMap<OsString, Vec<PathBuf>> = HashMap::new();
    // What cannot be looked into holds nothing that could be read.
    for entry in WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter().flatten() {
        if entry.file_type().is_file() && ending_track(entry.path()).is_some() {
            below.entry(entry.file_name().to_owned()).or_default().push(entry.into_path());
        }
    }
    below
}
