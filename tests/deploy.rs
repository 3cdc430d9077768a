//! The Helm chart, rendered by Helm itself from every file in deploy/helm/pcqa/ci: what Kubernetes' schemas say of its
//! objects, and what no schema says: whether they fit each other, the server's options and its metrics.
//!
//! `deploy/setup/setup.sh deploy` installs what this needs; `make test` and `make deploy-test` do that first.

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/fits.rs"]
mod fits;
#[path = "deploy/life.rs"]
mod life;
#[path = "deploy/metrics.rs"]
mod metrics;
#[path = "deploy/network.rs"]
mod network;
#[path = "deploy/notes.rs"]
mod notes;
#[path = "deploy/options.rs"]
mod options;
#[path = "deploy/refused.rs"]
mod refused;
#[path = "deploy/training.rs"]
mod training;
#[path = "deploy/valid.rs"]
mod valid;
