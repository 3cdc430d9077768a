//! A file of the hub into the cache that its own tools share: once, whole, with the digest that the hub gives.
//!
//! What has come is kept under the file's digest with `.part`, so that a download goes on where it broke, in this run or
//! in another.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use indicatif::{HumanBytes, ProgressBar};
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::hub::{Answer, Hub, text};
use super::patience::wait;
use super::refusal::Failure;
use super::repository::{Weights, is_hex};
use crate::train::bundle::progress;

/// What is to be had.
pub(super) struct Wanted<'a> {
    pub(super) repository: &'a str,
    /// What was asked for, which the cache remembers the commit of.
    pub(super) revision: &'a str,
    pub(super) commit: &'a str,
    pub(super) weights: &'a Weights,
}

/// Where the file `wanted` is in the cache, having brought it there.
///
/// # Errors
///
/// When it cannot be had whole, or is something else than the hub says.
pub(super) fn download(hub: &Hub, wanted: &Wanted) -> anyhow::Result<PathBuf> {
    let blob = hub.cached(wanted.repository, wanted.revision).blob_path(&wanted.weights.sha256);
    let failed = || format!("{}: cannot be written", blob.display());
    fs::create_dir_all(blob.parent().unwrap_or(Path::new("."))).with_context(failed)?;
    let _alone = lock(&blob.with_extension("lock")).with_context(failed)?;
    let bar = progress(wanted.weights.bytes).with_message(wanted.weights.file.clone());
    if !is_whole(&blob, wanted.weights, &bar).with_context(failed)? {
        let part = blob.with_extension("part");
        check_room(&part, wanted.weights)?;
        complete(hub, wanted, &part, &bar)
            .with_context(|| format!("{}: {}", wanted.repository, wanted.weights.file))?;
        fs::rename(&part, &blob).with_context(failed)?;
    }
    bar.finish_and_clear();
    point(hub, wanted, &blob).with_context(failed)?;
    Ok(blob)
}

/// Keeps others that use the cache away from a file while it is written; they lock the same way.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another program that downloads the same file"),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.lock()?;
    Ok(file)
}

/// Whether the file is there from before; one that is there and broken is removed.
fn is_whole(blob: &Path, weights: &Weights, bar: &ProgressBar) -> io::Result<bool> {
    let Ok(metadata) = fs::metadata(blob) else { return Ok(false) };
    if metadata.len() == weights.bytes && digest(blob, bar)? == weights.sha256 {
        return Ok(true);
    }
    eprintln!("{}: is broken, and is fetched anew", blob.display());
    fs::remove_file(blob)?;
    Ok(false)
}

/// Refuses what there is no room for.
fn check_room(part: &Path, weights: &Weights) -> anyhow::Result<()> {
    let folder = part.parent().unwrap_or(Path::new("."));
    let missing = weights.bytes.saturating_sub(fs::metadata(part).map_or(0, |part| part.len()));
    // Where nobody says, it is tried.
    let Some(there) = rustix::fs::statvfs(folder).ok().filter(|there| there.f_blocks > 0) else { return Ok(()) };
    let free = there.f_bavail.saturating_mul(there.f_frsize);
    let (file, shown) = (&weights.file, folder.display());
    ensure!(
        missing <= free,
        "{shown}: has room for {}, and {file} needs {}: --cache names another place",
        HumanBytes(free),
        HumanBytes(missing)
    );
    Ok(())
}

/// Makes `part` the whole file.
fn complete(hub: &Hub, wanted: &Wanted, part: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
    let Weights { sha256, .. } = wanted.weights;
    loop {
        let file = OpenOptions::new().create(true).append(true).open(part)?;
        let begun = file.metadata()?.len() > 0;
        receive(hub, wanted, &file, part, bar)?;
        file.sync_all()?;
        let found = digest(part, bar)?;
        if found == *sha256 {
            return Ok(());
        }
        fs::remove_file(part)?;
        // What an earlier run left may be at fault: then it is worth another download.
        if !begun {
            bail!("has SHA-256 {found}, expected {sha256}; what came has been removed");
        }
        eprintln!("{}: does not go with what was there before, and is fetched anew", wanted.weights.file);
    }
}

/// Adds what is missing to `file`, which is at `part`.
fn receive(hub: &Hub, wanted: &Wanted, file: &File, part: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
    let Weights { file: name, bytes, .. } = wanted.weights;
    let unwritable = |error: io::Error| {
        Failure::Final(anyhow::Error::new(error).context(format!("{}: cannot be written", part.display())))
    };
    // The most that there ever was: who begins anew each time gets nowhere.
    let (mut failures, mut most) = (0, file.metadata()?.len());
    loop {
        let start = file.metadata()?.len();
        if start > *bytes {
            file.set_len(0)?;
            continue;
        }
        if start == *bytes {
            return Ok(());
        }
        bar.set_position(start);
        let answer = hub.open(wanted.repository, wanted.commit, name, start);
        let Err(failure) = answer.and_then(|answer| append(answer, file, start, *bytes, unwritable, bar)) else {
            continue;
        };
        let come = file.metadata()?.len();
        failures = if come > most { 1 } else { failures + 1 };
        most = most.max(come);
        let gave_up = || format!("broke off {failures} times in a row after {come} of {bytes} bytes");
        wait(failure, failures, gave_up, |line| bar.suspend(|| eprintln!("{name}: {line}")))?;
    }
}

/// Adds `answer` to `file`, which has `start` of `bytes` bytes.
fn append(
    answer: Answer,
    mut file: &File,
    start: u64,
    bytes: u64,
    unwritable: impl Fn(io::Error) -> Failure,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut missing = bytes - start;
    if answer.status == StatusCode::PARTIAL_CONTENT {
        let range = text(&answer.headers, "content-range").unwrap_or_default();
        if range != format!("bytes {start}-{}/{bytes}", bytes - 1) {
            return Err(Failure::Final(anyhow!(
                "the hub gives {range:?}, asked for bytes {start} to the end of {bytes}"
            )));
        }
    } else {
        // All of it, whatever was asked for.
        file.set_len(0).map_err(&unwritable)?;
        missing = bytes;
        bar.set_position(0);
        let length = text(&answer.headers, "content-length").and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length != bytes) {
            return Err(Failure::Final(anyhow!("has {} bytes, expected {bytes}", length.unwrap_or_default())));
        }
    }
    let mut reader = answer.body.into_reader();
    let mut buffer = vec![0; 1 << 18];
    while missing > 0 {
        let count = reader.read(&mut buffer).map_err(|error| Failure::Again(error.into()))?;
        if count == 0 {
            return Err(Failure::Again(anyhow!("ended {missing} bytes early")));
        }
        if count as u64 > missing {
            file.set_len(0).map_err(&unwritable)?;
            return Err(Failure::Final(anyhow!("is longer than the {bytes} bytes that the hub says it has")));
        }
        file.write_all(&buffer[..count]).map_err(&unwritable)?;
        missing -= count as u64;
        bar.inc(count as u64);
    }
    Ok(())
}

/// SHA-256 of the file at `path`; `bar` shows how far it has been read.
pub(super) fn digest(path: &Path, bar: &ProgressBar) -> io::Result<String> {
    bar.set_position(0);
    let mut hasher = Sha256::new();
    io::copy(&mut bar.wrap_read(File::open(path)?), &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

/// Puts the file where the hub's tools look for it.
fn point(hub: &Hub, wanted: &Wanted, blob: &Path) -> io::Result<()> {
    let cached = hub.cached(wanted.repository, wanted.revision);
    let snapshot = cached.pointer_path(wanted.commit);
    fs::create_dir_all(&snapshot)?;
    let name = blob.file_name().unwrap_or_default();
    match symlink(Path::new("../../blobs").join(name), snapshot.join(&wanted.weights.file)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_hex(wanted.revision, 40) { Ok(()) } else { cached.create_ref(wanted.commit) }
}
