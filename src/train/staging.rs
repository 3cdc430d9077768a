//! What appears complete or not at all: bundles and files, written under a hidden name beside their place, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::card;
use crate::model::{Bundle, MANIFEST};

/// Most hidden names that are tried for one target.
const MOST_NAMES: u32 = 1000;

/// Goes away with what was written so far unless it is published; what a process left that was killed goes with the next
/// one for the same target.
pub(super) struct Staging {
    path: PathBuf,
    target: PathBuf,
    replaces: bool,
    /// Locked as long as somebody writes.
    _directory: File,
}

impl Staging {
    /// For the bundle that will be at `target`, or where that leads as a link. One that is there already is refused, or
    /// replaced with `force`; a directory that is no bundle, or holds anything else, is never replaced.
    pub(super) fn new(target: &Path, force: bool) -> anyhow::Result<Self> {
        let target = match fs::read_link(target) {
            Ok(_) => target.canonicalize().with_context(|| format!("{}: is a link to nothing", target.display()))?,
            Err(_) => target.to_owned(),
        };
        let is_empty = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
        let replaces = fs::symlink_metadata(&target).is_ok() && !is_empty;
        if replaces {
            refuse_others(&target)?;
            ensure!(force, "{}: exists; --force replaces it", target.display());
        }
        check_name(&target)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).with_context(|| format!("{}: cannot be created", parent.display()))?;
        }
        remove_left(&target);
        let made = locked(&target, |path| fs::create_dir(path).and_then(|()| File::open(path)));
        let (path, directory) = made.with_context(|| format!("{}: cannot be created", target.display()))?;
        Ok(Self { path, target, replaces, _directory: directory })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the directory in its place. Where somebody has put something beside a bundle that it replaces meanwhile, that is
    /// kept under another name.
    pub(super) fn publish(self) -> anyhow::Result<()> {
        let failed = || format!("{}: cannot be put in place", self.target.display());
        for entry in fs::read_dir(&self.path).with_context(failed)? {
            File::open(entry.with_context(failed)?.path()).and_then(|file| file.sync_all()).with_context(failed)?;
        }
        if self.replaces {
            self.exchange().with_context(failed)?;
            if refuse_others(&self.path).is_err() {
                let kept = sibling(&self.target, "replaced", 0);
                fs::rename(&self.path, &kept).with_context(failed)?;
                eprintln!("{}: is what was replaced, kept since it is more than a bundle now", kept.display());
            }
            return Ok(());
        }
        fs::rename(&self.path, &self.target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                anyhow!("{}: exists by now; --force replaces it", self.target.display())
            }
            _ => anyhow::Error::new(error).context(failed()),
        })
    }

    /// Gives the directory the name of the bundle that it replaces, and that one the hidden name. Where a file system does
    /// not know how to do both at once, there is no bundle for the instant between two renames.
    fn exchange(&self) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS) => {}
            exchanged => return Ok(exchanged?),
        }
        let old = sibling(&self.target, "replaced", 0);
        fs::rename(&self.target, &old)?;
        if let Err(error) = fs::rename(&self.path, &self.target) {
            fs::rename(&old, &self.target)?;
            return Err(error);
        }
        fs::rename(&old, &self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing there is nothing here but what was replaced; after a failure there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A file that takes its place when it is whole. As a [`Staging`] it goes away unless it is published, and what a process
/// left that was killed with the next one for the same place.
pub(super) struct StagedFile {
    path: PathBuf,
    target: PathBuf,
    force: bool,
    /// Locked as long as somebody writes.
    pub(super) file: File,
}

impl StagedFile {
    /// For the file that will be at `target`. One that is there already is refused, or replaced with `force`; what is no
    /// regular file is never replaced.
    pub(super) fn new(target: &Path, force: bool) -> anyhow::Result<Self> {
        let shown = target.display();
        if fs::symlink_metadata(target).is_ok() {
            ensure!(fs::metadata(target).map_or(true, |there| there.is_file()), "{shown}: is not a regular file");
            ensure!(force, "{shown}: exists; --force replaces it");
        }
        check_name(target)?;
        remove_left(target);
        let made = locked(target, |path| OpenOptions::new().write(true).create_new(true).open(path));
        let (path, file) = made.with_context(|| format!("{shown}: cannot be written"))?;
        Ok(Self { path, target: target.to_owned(), force, file })
    }

    /// Puts the file in its place.
    pub(super) fn publish(self) -> anyhow::Result<()> {
        let failed = || format!("{}: cannot be written", self.target.display());
        self.file.sync_all().with_context(failed)?;
        if !self.force {
            match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // Not every file system knows that; a second name is the next best, which goes with the first one.
                Err(Errno::INVAL | Errno::NOSYS) => match fs::hard_link(&self.path, &self.target) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                    linked => return linked.with_context(failed),
                },
                Err(error) => return Err(error).with_context(failed),
            }
        }
        fs::rename(&self.path, &self.target).with_context(failed)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Refuses to replace anything but a bundle, and with it what is no part of it.
fn refuse_others(target: &Path) -> anyhow::Result<()> {
    let shown = target.display();
    let bundle = match Bundle::open_unchecked(target) {
        Ok((bundle, _)) => bundle,
        Err(error) if target.join(MANIFEST).is_file() => {
            bail!("{shown}: exists and is no whole bundle, so it is not replaced: {error}")
        }
        Err(_) => bail!("{shown}: exists and is not a bundle, so it is not replaced"),
    };
    for entry in fs::read_dir(target).with_context(|| format!("{shown}: cannot be listed"))? {
        let name = entry.with_context(|| format!("{shown}: cannot be listed"))?.file_name();
        let name = name.to_string_lossy();
        let is_part = name == MANIFEST || name == card::NAME || bundle.manifest().files.contains_key(&*name);
        ensure!(is_part, "{shown}: has {name:?} beside the bundle's files, so it is not replaced");
    }
    Ok(())
}

fn check_name(target: &Path) -> anyhow::Result<()> {
    ensure!(target.file_name().is_some(), "{}: expected a path that ends in a new name", target.display());
    Ok(())
}

/// A hidden name beside `target`. In containers many processes have the same number.
fn sibling(target: &Path, role: &str, number: u32) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{role}-{}-{number}", std::process::id()))
}

/// What `make` makes at a hidden name beside `target`, locked as long as it is open. Where there are no locks, what is left
/// of it stays.
fn locked(target: &Path, make: impl Fn(&Path) -> io::Result<File>) -> io::Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let path = sibling(target, "partial", number);
        number += 1;
        let file = match make(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MOST_NAMES => continue,
            made => made?,
        };
        let _ = file.lock();
        // Before it was locked, somebody may have taken it for what is left of another.
        let (here, there) = (file.metadata()?, fs::symlink_metadata(&path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())) {
            return Ok((path, file));
        }
    }
}

/// Removes what nobody writes any more. Where that fails it stays: it is in nobody's way.
fn remove_left(target: &Path) {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Some(name), Ok(entries)) = (target.file_name(), fs::read_dir(parent)) else { return };
    let prefix = format!(".{}.partial-", name.to_string_lossy());
    for entry in entries.flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        // NFS locks files for those alone who may write to them.
        let left = if path.is_dir() { File::open(&path) } else { OpenOptions::new().write(true).open(&path) };
        if left.as_ref().is_ok_and(|left| left.try_lock().is_ok()) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
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

    #[test]
    fn what_is_no_bundle_alone_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("b");
        crate::train::export(&target, false).unwrap();
        fs::write(target.join("notes.md"), "mine").unwrap();
        let refusal = |staging: anyhow::Result<Staging>| format!("{:#}", staging.map(drop).unwrap_err());
        let said = refusal(Staging::new(&target, true));
        assert!(said.ends_with("has \"notes.md\" beside the bundle's files, so it is not replaced"), "{said}");
        fs::remove_file(target.join("notes.md")).unwrap();
        assert!(refusal(Staging::new(&target, false)).ends_with("exists; --force replaces it"));
        // What comes meanwhile is kept, and what was made too.
        let staging = Staging::new(&target, true).unwrap();
        fs::write(target.join("notes.md"), "mine").unwrap();
        fs::write(staging.path().join(MANIFEST), "").unwrap();
        staging.publish().unwrap();
        let all: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(all.len(), 2);
        assert!(all.iter().any(|path| fs::read(path.join("notes.md")).is_ok_and(|mine| mine == b"mine")));
        let said = refusal(Staging::new(&target, true));
        assert!(said.contains("exists and is no whole bundle, so it is not replaced: "), "{said}");
    }

    #[test]
    fn links_lead_and_empty_directories_are_filled() {
        let home = tempfile::tempdir().unwrap();
        let (bundle, link, empty) = (home.path().join("b"), home.path().join("current"), home.path().join("empty"));
        crate::train::export(&bundle, false).unwrap();
        std::os::unix::fs::symlink("b", &link).unwrap();
        fs::create_dir(&empty).unwrap();
        for target in [&link, &empty] {
            let staging = Staging::new(target, target == &link).unwrap();
            fs::write(staging.path().join(MANIFEST), "new").unwrap();
            staging.publish().unwrap();
        }
        assert!(link.is_symlink());
        assert!([bundle, empty].iter().all(|at| fs::read_to_string(at.join(MANIFEST)).unwrap() == "new"));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3, "something was left behind");
        let late = home.path().join("late");
        let staging = Staging::new(&late, false).unwrap();
        fs::create_dir(&late).unwrap();
        fs::write(late.join("mine"), "").unwrap();
        assert!(staging.publish().unwrap_err().to_string().ends_with("late: exists by now; --force replaces it"));
    }

    #[test]
    fn a_file_that_comes_meanwhile_stays() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("weights");
        let left = home.path().join(".weights.partial-1");
        fs::write(&left, "some").unwrap();
        let staged = StagedFile::new(&target, false).unwrap();
        assert!(!left.exists());
        fs::write(&target, "mine").unwrap();
        assert!(staged.publish().is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
        StagedFile::new(&target, true).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&target).unwrap(), b"");
    }
}
