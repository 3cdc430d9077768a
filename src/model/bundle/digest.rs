//! Lengths and SHA-256 of a bundle's files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::Contents;
use crate::model::{FileDigest, ModelError};

/// Of a file that is digested, as much is in memory at a time on each thread.
const CHUNK: usize = 8 << 20;

/// SHA-256 as 64 lower-case hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Files that are to be what the manifest says of them.
#[must_use]
pub struct BundleCheck(Vec<(String, Contents, FileDigest)>);

impl BundleCheck {
    /// Refuses files that are missing or of another length.
    pub(super) fn new(
        expected: &BTreeMap<String, FileDigest>,
        contents: &BTreeMap<String, Contents>,
    ) -> Result<Self, ModelError> {
        let mut files = Vec::new();
        for (name, digest) in expected {
            let contents = contents.get(name).ok_or_else(|| wrong(name, "is missing".to_owned()))?;
            check_length(name, contents.bytes().len() as u64, digest.bytes)?;
            files.push((name.clone(), contents.clone(), digest.clone()));
        }
        // The longest first, so that no thread is left with it when the others are done.
        files.sort_by_key(|(_, _, digest)| std::cmp::Reverse(digest.bytes));
        Ok(Self(files))
    }

    /// Reads all of them once, on so many threads, at least one.
    ///
    /// # Errors
    /// The first by name whose SHA-256 is another.
    pub fn run(self, threads: usize) -> Result<(), ModelError> {
        let found = in_parallel(threads, &self.0, |(_, contents, _)| sha256_of(contents));
        let mut found: Vec<_> = self.0.iter().zip(found).collect();
        found.sort_by_key(|((name, ..), _)| name);
        for ((name, _, digest), found) in found {
            if found != digest.sha256 {
                return Err(wrong(name, format!("has SHA-256 {found}, expected {}", digest.sha256)));
            }
        }
        Ok(())
    }
}

fn sha256_of(contents: &Contents) -> String {
    let mut hasher = Sha256::new();
    for chunk in contents.bytes().chunks(CHUNK) {
        hasher.update(chunk);
        contents.let_go(chunk);
    }
    format!("{:x}", hasher.finalize())
}

/// Refuses a file whose length is not the one in the manifest.
pub(super) fn check_length(name: &str, found: u64, expected: u64) -> Result<(), ModelError> {
    if found == expected { Ok(()) } else { Err(wrong(name, format!("has {found} bytes, expected {expected}"))) }
}

/// `work` of every item, in their order. Files differ in size a thousandfold, so threads take the next one when free.
fn in_parallel<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return done };
            done.push((i, work(item)));
        }
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(take)).collect();
        let mut all = take();
        for helper in helpers {
            match helper.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all.sort_by_key(|(i, _)| *i);
        all.into_iter().map(|(_, result)| result).collect()
    })
}

fn wrong(name: &str, problem: String) -> ModelError {
    ModelError::File { file: name.to_owned(), problem }
}
