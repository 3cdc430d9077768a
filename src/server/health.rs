//! What `grpc.health.v1` says: `""` that the process lives, `pcqa.v1.ScoringService` that it scores: not before the
//! warm-up, not while draining, not after the device is lost.

use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpcs, HealthServer};
use tonic_health::server::HealthReporter;

use super::service::Service;
use crate::proto::scoring_service_server::ScoringServiceServer;

const SERVICE: &str = ScoringServiceServer::<Service>::NAME;

/// The one place that knows whether the service is ready.
#[derive(Clone)]
pub(super) struct Health(HealthReporter);

impl Health {
    /// Alive and not ready, with the RPCs that say so.
    pub async fn start() -> (Self, HealthServer<impl HealthRpcs>) {
        let (reporter, rpcs) = tonic_health::server::health_reporter();
        let health = Self(reporter);
        health.set_ready(false).await;
        (health, rpcs)
    }

    /// Watchers are told at once.
    pub async fn set_ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status(SERVICE, status).await;
    }

    /// Watchers have been told NOT_SERVING; a watch has no end of its own and would hold up the drain. Comes last: while
    /// calls are finished, health is still true.
    pub async fn end_watches(&mut self) {
        self.0.clear_service_status("").await;
        self.0.clear_service_status(SERVICE).await;
    }
}
