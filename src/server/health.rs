//! What `grpc.health.v1` says: `""` that the process lives, `pcqa.v1.ScoringService` that it scores: not before the
//! warm-up, not while draining, not after the device is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpcs, HealthServer};
use tonic_health::server::HealthReporter;

use super::service::Service;
use crate::metrics;
use crate::proto::scoring_service_server::ScoringServiceServer;

const SERVICE: &str = ScoringServiceServer::<Service>::NAME;

/// The one place that knows whether the service is ready.
#[derive(Clone)]
pub(super) struct Health {
    reporter: HealthReporter,
    is_ready: Arc<AtomicBool>,
}

impl Health {
    /// Alive and not ready, with the RPCs that say so.
    pub async fn start() -> (Self, HealthServer<impl HealthRpcs>) {
        let (reporter, rpcs) = tonic_health::server::health_reporter();
        let health = Self { reporter, is_ready: Arc::default() };
        health.set_ready(false).await;
        (health, rpcs)
    }

    /// Watchers are told at once.
    pub async fn set_ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(SERVICE, status).await;
        self.is_ready.store(ready, Ordering::Relaxed);
        metrics::ready(ready);
    }

    /// What watchers have been told.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Watchers have been told NOT_SERVING; a watch has no end of its own and would hold up the drain. Comes last: while
    /// calls are finished, health is still true.
    pub async fn end_watches(&mut self) {
        self.reporter.clear_service_status("").await;
        self.reporter.clear_service_status(SERVICE).await;
    }
}
