//! A directory that appears complete or not at all: written under a hidden name beside its place, then renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::model::MANIFEST;

/// Goes away with what was written so far unless it is published; what a process left that was killed goes with the next
/// one for the same target.
pub(super) struct Staging {
    path: PathBuf,
    target: PathBuf,
    /// Locked as long as somebody writes.
    _directory: File,
}

impl Staging {
    /// For the bundle that will be at `target`. One that is there already is refused, or replaced with `force`; a
    /// directory that is no bundle is never replaced.
    pub(super) fn new(target: &Path, force: bool) -> anyhow::Result<Self> {
        if fs::symlink_metadata(target).is_ok() {
            if !target.join(MANIFEST).is_file() {
                bail!("{}: exists and is not a bundle, so it is not replaced", target.display());
            }
            if !force {
                bail!("{}: exists; --force replaces it", target.display());
            }
        }
        let path = sibling(target, "partial")?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("{}: cannot be created", parent.display()))?;
        }
        remove_left(target);
        let failed = || format!("{}: cannot be created", path.display());
        fs::create_dir(&path).with_context(failed)?;
        let directory = File::open(&path).with_context(failed)?;
        // Where there are no locks, what is left stays.
        let _ = directory.lock();
        Ok(Self { path, target: target.to_owned(), _directory: directory })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the directory in its place. A bundle that it replaces is gone for the instant between two renames.
    pub(super) fn publish(self) -> anyhow::Result<()> {
        let failed = || format!("{}: cannot be put in place", self.target.display());
        for entry in fs::read_dir(&self.path).with_context(failed)? {
            File::open(entry.with_context(failed)?.path()).and_then(|file| file.sync_all()).with_context(failed)?;
        }
        let old = sibling(&self.target, "replaced")?;
        let replaces = match fs::rename(&self.target, &old) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(failed),
        };
        if let Err(error) = fs::rename(&self.path, &self.target) {
            if replaces {
                fs::rename(&old, &self.target).with_context(|| format!("{}: cannot be restored", old.display()))?;
            }
            return Err(error).with_context(failed);
        }
        if replaces {
            fs::remove_dir_all(&old).with_context(|| format!("{}: cannot be removed", old.display()))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing there is nothing here; after a failure there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sibling(target: &Path, role: &str) -> anyhow::Result<PathBuf> {
    let Some(name) = target.file_name() else {
        bail!("{}: expected a path that ends in the name of a new directory", target.display());
    };
    Ok(target.with_file_name(format!(".{}.{role}-{}", name.to_string_lossy(), std::process::id())))
}

/// Removes what nobody writes any more. Where that fails it stays: it is in nobody's way.
fn remove_left(target: &Path) {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Some(name), Ok(entries)) = (target.file_name(), fs::read_dir(parent)) else { return };
    let prefix = format!(".{}.partial-", name.to_string_lossy());
    for entry in entries.flatten() {
        let is_left = entry.file_name().to_string_lossy().starts_with(&prefix)
            && File::open(entry.path()).is_ok_and(|directory| directory.try_lock().is_ok());
        if is_left {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_and_what_another_one_writes_stays() {
        let home = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("weights"), "some").unwrap();
            path
        };
        let (left, written, others) = (make(".b.partial-1"), make(".b.partial-2"), make(".c.partial-1"));
        let lock = File::open(&written).unwrap();
        lock.lock().unwrap();
        let staging = Staging::new(&home.path().join("b"), false).unwrap();
        assert!(!left.exists() && written.exists() && others.exists());
        fs::write(staging.path().join(MANIFEST), "").unwrap();
        staging.publish().unwrap();
        assert!(home.path().join("b").join(MANIFEST).exists());
    }
}
