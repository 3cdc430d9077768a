//! The service through a real client, against the real binary.

#[path = "service/bad_input.rs"]
mod bad_input;
#[path = "service/hostile.rs"]
mod hostile;
#[path = "service/house.rs"]
mod house;
#[path = "service/life.rs"]
mod life;
#[path = "service/load.rs"]
mod load;
#[path = "service/media.rs"]
mod media;
#[path = "service/metrics.rs"]
mod metrics;
#[path = "service/raw.rs"]
mod raw;
#[path = "service/reload.rs"]
mod reload;
#[path = "service/rolling.rs"]
mod rolling;
#[path = "service/scores.rs"]
mod scores;
#[path = "service/timings.rs"]
mod timings;
#[path = "service/traces.rs"]
mod traces;
#[path = "service/trust.rs"]
mod trust;
