//! Who is let in: TLS, client certificates, and API keys with their limits. The files that say so are read again
//! whenever they change; a broken one changes nothing but the log. What callers ask for may not enter.

mod account;
mod key_file;
mod keys;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

pub(super) use self::account::Guest;
pub(super) use self::key_file::new_key;
pub(super) use self::keys::Door;
pub(super) use self::tls::Tls;
use super::config::TrustOptions;
use crate::metrics;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What every connection and every call must pass.
pub(super) struct Trust {
    pub door: Door,
    pub tls: Option<Tls>,
    files: Vec<Files>,
}

/// Files that belong together.
struct Files {
    /// What they are, for the log and for metrics.
    what: &'static str,
    label: &'static str,
    paths: Vec<PathBuf>,
    /// As they were last read.
    seen: Vec<Vec<u8>>,
    /// How often in a row they could not be read.
    failures: u32,
    take: Take,
}

/// Takes the contents of files over, all or nothing.
type Take = Box<dyn Fn(&[Vec<u8>]) -> Result<()> + Send>;

impl Trust {
    /// Reads every file that `options` name.
    pub fn load(options: &TrustOptions) -> Result<Self> {
        let mut files = Vec::new();
        let door = match &options.keys_file {
            None => Door::open(),
            Some(path) => {
                let seen = read(std::slice::from_ref(path)).context("keys_file")?;
                let door = Door::locked(&seen[0]).with_context(|| format!("keys_file: {}", path.display()))?;
                let take = Box::new({
                    let door = door.clone();
                    move |read: &[Vec<u8>]| door.change_keys(&read[0])
                });
                files.push(Files {
                    what: "API keys",
                    label: "keys",
                    paths: vec![path.clone()],
                    seen,
                    failures: 0,
                    take,
                });
                door
            }
        };
        let tls = match (&options.tls_certificate, &options.tls_key) {
            (Some(certificate), Some(key)) => {
                let paths: Vec<_> = [certificate, key].into_iter().chain(&options.tls_client_ca).cloned().collect();
                let seen = read(&paths).context("TLS")?;
                let tls = Tls::new(&seen).context("tls_certificate")?;
                let take = Box::new({
                    let tls = tls.clone();
                    move |read: &[Vec<u8>]| tls.change(read)
                });
                files.push(Files { what: "certificates", label: "certificates", paths, seen, failures: 0, take });
                Some(tls)
            }
            _ => None,
        };
        Ok(Self { door, tls, files })
    }

    /// Reads the files again when they have changed, at SIGHUP at once. Does not return.
    pub async fn follow(self) -> Result<()> {
        let mut hangups = signal(SignalKind::hangup()).context("signals cannot be received")?;
        let mut files = self.files;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = hangups.recv() => {}
            }
            files = tokio::task::spawn_blocking(move || {
                files.iter_mut().for_each(Files::look);
                files
            })
            .await?;
        }
    }
}

impl Files {
    fn look(&mut self) {
        let what = self.what;
        let found = match read(&self.paths) {
            Ok(found) => found,
            Err(error) => {
                self.failures += 1;
                // The first time somebody may be replacing them.
                if self.failures == 2 {
                    metrics::trust_reload(self.label, "failed");
                    tracing::error!(what, error = format!("{error:#}"), "cannot be read any more: the old hold");
                }
                return;
            }
        };
        self.failures = 0;
        if found == self.seen {
            return;
        }
        match (self.take)(&found) {
            Ok(()) => {
                metrics::trust_reload(self.label, "loaded");
                tracing::info!(what, "changed on disk, the new ones hold");
            }
            Err(error) => {
                metrics::trust_reload(self.label, "failed");
                tracing::error!(
                    what,
                    error = format!("{error:#}"),
                    "changed on disk, the new ones are broken: the old hold"
                )
            }
        }
        self.seen = found;
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let one = |path: &PathBuf| std::fs::read(path).with_context(|| named(path));
    paths.iter().map(one).collect()
}

fn named(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
