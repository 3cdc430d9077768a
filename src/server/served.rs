//! What is served now: nothing at first, then the bundle, then perhaps another. A request keeps the one that it began
//! with.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::error::ServiceError;
use super::scoring::Scoring;
use crate::engine::Memory;
use crate::{metrics, native};

/// How often it is looked whether the last request of a bundle has its answer.
const LET_GO_POLL: Duration = Duration::from_millis(20);

/// Clones see the same.
#[derive(Clone)]
pub(super) struct Served {
    now: watch::Sender<Option<Arc<Scoring>>>,
    /// Those before it whose last requests are still in progress, and perhaps some that are gone.
    before: Arc<Mutex<Vec<Weak<Scoring>>>>,
}

impl Served {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self { now: watch::Sender::new(None), before: Arc::default() }
    }

    /// For one request, from its begin to its end. Not there before the model is loaded and warm.
    pub fn ready(&self) -> Result<Arc<Scoring>, ServiceError> {
        self.now.borrow().clone().ok_or(ServiceError::Unavailable("the model is loading"))
    }

    /// From now on requests are scored by `scoring`. The one before it ends with its last request.
    pub fn put(&self, scoring: Scoring) {
        let new = Arc::new(scoring);
        let old = self.now.send_replace(Some(new.clone()));
        if let Some(old) = old {
            old.name_to_metrics(false);
            let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
            before.retain(|scoring| scoring.strong_count() > 0);
            before.push(Arc::downgrade(&old));
            tokio::spawn(let_go(old));
        }
        new.name_to_metrics(true);
    }

    /// Tells metrics of the lines and the devices of all that scores now.
    pub fn sample(&self) {
        let mut scoring: Vec<Arc<Scoring>> = self.now.borrow().iter().cloned().collect();
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        scoring.extend(before.iter().filter_map(Weak::upgrade));
        let (mut items, mut frames, mut oldest) = (0, 0, Duration::ZERO);
        for scoring in &scoring {
            let standing = scoring.engine.standing();
            items += standing.items;
            frames += standing.frames;
            oldest = oldest.max(standing.oldest);
        }
        metrics::queue(items, frames, oldest);
        for (device, Memory { used, total }) in scoring.iter().flat_map(|scoring| scoring.engine.memory()) {
            metrics::device_memory(&device, used, total);
        }
    }

    /// Resolves when a device of what is served now is lost, or its engine stopped: it takes nothing more.
    pub async fn ending(&self) {
        let mut changes = self.now.subscribe();
        loop {
            let now = changes.borrow_and_update().clone();
            let ending = async {
                match &now {
                    Some(scoring) => scoring.engine.ending().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ending => return,
                // The sender is `self`: it cannot be gone.
                _ = changes.changed() => {}
            }
        }
    }
}

/// Waits for the last request of `old`, and frees its memory off the async threads: weights, embeddings, processes.
async fn let_go(mut old: Arc<Scoring>) {
    let scoring = loop {
        match Arc::try_unwrap(old) {
            Ok(scoring) => break scoring,
            Err(held) => old = held,
        }
        tokio::time::sleep(LET_GO_POLL).await;
    };
    let digest = scoring.digest.clone();
    scoring.engine.stop();
    scoring.engine.ended().await;
    let freed = tokio::task::spawn_blocking(move || {
        drop(scoring);
        native::give_back_memory();
        // Of a GPU libtorch keeps what it took, for the stream that it was taken for and no other.
        if native::cuda().is_ok()
            && let Err(error) = native::empty_cache()
        {
            tracing::warn!(%error, "GPU memory of the bundle before was not given back");
        }
    });
    match freed.await {
        Ok(()) => tracing::info!(digest, "the bundle before is let go"),
        Err(error) => tracing::error!(%error, "the bundle before could not be let go"),
    }
}
