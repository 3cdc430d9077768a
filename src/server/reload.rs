//! Another bundle without a restart: loaded and warmed up beside the one that is served, which stays wherever anything
//! fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config::Config;
use super::load;
use super::served::Served;
use crate::metrics;

/// How often the directory is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What became of it.
enum Outcome {
    Loaded { version: String, digest: String },
    Unchanged,
}

/// When the bundle is to be loaded again. Made before it is first loaded, so that no change is missed meanwhile.
pub(super) struct Reloads {
    config: Arc<Config>,
    hangups: Signal,
    watched: Watched,
}

impl Reloads {
    /// At SIGHUP and, where `config` asks for it, when the bundle's directory has changed, from now on.
    pub fn new(config: Arc<Config>) -> Result<Self> {
        if config.model.watch_bundle && config.model.bundle.is_none() {
            tracing::warn!("watch_bundle: is set, but the bundle that is compiled in does not change");
        }
        let hangups = signal(SignalKind::hangup()).context("signals cannot be received")?;
        let watched = Watched::new(&config);
        Ok(Self { config, hangups, watched })
    }

    /// Loads it again whenever it is due. Does not return.
    pub async fn follow(mut self, served: Served) {
        loop {
            let is_due = tokio::select! {
                _ = self.hangups.recv() => true,
                () = tokio::time::sleep(EVERY) => self.has_settled().await,
            };
            if is_due {
                reload(self.config.clone(), &served).await;
            }
        }
    }

    /// Off the async threads: the directory may lie on a file system that does not answer.
    async fn has_settled(&mut self) -> bool {
        let mut watched = self.watched.clone();
        let looking = tokio::task::spawn_blocking(move || (watched.has_settled(), watched));
        let Ok((has_settled, watched)) = looking.await else { return false };
        self.watched = watched;
        has_settled
    }
}

async fn reload(config: Arc<Config>, served: &Served) {
    let begin = Instant::now();
    let now = served.ready().map(|scoring| scoring.digest.clone()).unwrap_or_default();
    let loading = tokio::task::spawn_blocking(move || {
        let opened = load::open(&config)?;
        if opened.digest() == now {
            return opened.check().map(|()| None);
        }
        load::load(&config, opened).map(Some)
    });
    let outcome = match loading.await.context("loading panicked").flatten() {
        Ok(Some(scoring)) => {
            let (version, digest) = (scoring.engine.facts().manifest.version.clone(), scoring.digest.clone());
            served.put(scoring);
            Ok(Outcome::Loaded { version, digest })
        }
        Ok(None) => Ok(Outcome::Unchanged),
        Err(error) => Err(error),
    };
    let seconds = begin.elapsed().as_secs_f64();
    match outcome {
        Ok(Outcome::Loaded { version, digest }) => {
            metrics::reload("loaded");
            tracing::info!(version, digest, seconds, "serving another bundle");
        }
        Ok(Outcome::Unchanged) => {
            metrics::reload("unchanged");
            tracing::info!("the bundle has not changed");
        }
        Err(error) => {
            metrics::reload("failed");
            tracing::error!(error = format!("{error:#}"), "the bundle cannot be served, the one before it still is");
        }
    }
}

/// A bundle's directory as it looks from outside.
#[derive(PartialEq, Clone)]
struct Look(Vec<(std::ffi::OsString, u64, Option<SystemTime>)>);

/// Notices that the directory has changed, once it has stopped to.
#[derive(Clone)]
struct Watched {
    directory: Option<PathBuf>,
    loaded: Option<Look>,
    last: Option<Look>,
}

impl Watched {
    fn new(config: &Config) -> Self {
        let directory = config.model.bundle.clone().filter(|_| config.model.watch_bundle);
        let now = directory.as_deref().and_then(look);
        Self { directory, loaded: now.clone(), last: now }
    }

    /// Whether the directory differs from what was loaded, or tried, and looks as it did the last time: nobody is
    /// copying into it.
    fn has_settled(&mut self) -> bool {
        let Some(directory) = &self.directory else { return false };
        let now = look(directory);
        if now.is_none() && self.last.is_some() {
            tracing::warn!(directory = %directory.display(), "the bundle's directory is gone, or cannot be listed");
        }
        let has_settled = now.is_some() && now == self.last && now != self.loaded;
        if has_settled {
            self.loaded.clone_from(&now);
        }
        self.last = now;
        has_settled
    }
}

/// Links are followed: a volume is often replaced by turning one.
fn look(directory: &Path) -> Option<Look> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).ok()? {
        let entry = entry.ok()?;
        let facts = std::fs::metadata(entry.path()).ok()?;
        files.push((entry.file_name(), facts.len(), facts.modified().ok()));
    }
    files.sort();
    Some(Look(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_due_once_and_not_before_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(directory.path().join("bundle.toml"), text).unwrap();
        write("1");
        let now = look(directory.path());
        let mut watched = Watched { directory: Some(directory.path().to_owned()), loaded: now.clone(), last: now };
        assert!(!watched.has_settled());
        write("22");
        assert!(!watched.has_settled(), "somebody may be writing");
        write("333");
        assert!(!watched.has_settled(), "somebody was");
        assert!(watched.has_settled());
        assert!(!watched.has_settled(), "once is enough");
        std::fs::remove_file(directory.path().join("bundle.toml")).unwrap();
        std::fs::remove_dir(directory.path()).unwrap();
        assert!(!watched.has_settled());
    }
}
