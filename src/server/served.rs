//! What is served now: nothing at first, then the bundle, then perhaps another. A request keeps the one that it began
//! with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::ServiceError;
use super::scoring::Scoring;
use crate::native;

/// How often it is looked whether the last request of a bundle has its answer.
const LET_GO_POLL: Duration = Duration::from_millis(20);

/// Clones see the same.
#[derive(Clone)]
pub(super) struct Served(watch::Sender<Option<Arc<Scoring>>>);

impl Served {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self(watch::Sender::new(None))
    }

    /// For one request, from its begin to its end. Not there before the model is loaded and warm.
    pub fn ready(&self) -> Result<Arc<Scoring>, ServiceError> {
        self.0.borrow().clone().ok_or(ServiceError::Unavailable("the model is loading"))
    }

    /// From now on requests are scored by `scoring`. The one before it ends with its last request.
    pub fn put(&self, scoring: Scoring) {
        if let Some(old) = self.0.send_replace(Some(Arc::new(scoring))) {
            tokio::spawn(let_go(old));
        }
    }

    /// Resolves when the device of what is served now is lost, or its engine stopped.
    pub async fn ended(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let now = changes.borrow_and_update().clone();
            let ended = async {
                match &now {
                    Some(scoring) => scoring.engine.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended => return,
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
    });
    match freed.await {
        Ok(()) => tracing::info!(digest, "the bundle before is let go"),
        Err(error) => tracing::error!(%error, "the bundle before could not be let go"),
    }
}
