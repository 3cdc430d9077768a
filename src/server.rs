//! The gRPC service: configuration, the RPCs, errors, health and the life of the process. No tensors; media is decoded
//! and prompts are tokenised by the rooms below, scores come from the engine.

mod admin;
mod asked;
mod call;
mod config;
mod connections;
mod convert;
mod decode;
mod error;
mod health;
mod life;
mod load;
mod log;
mod reload;
mod scoring;
mod served;
mod service;
mod shares;
mod stream;
mod trust;

pub use config::{Config, ConfigError, Parsed};
pub use life::{EarlySignals, Ending, run};
pub use log::log;
