//! PCQA: prompt-conditioned quality assessment of AI-generated images and videos.
//!
//! The rooms, from the bottom up; each knows only those below it:
//!
//! - [`metrics`]: the names of all metrics. [`trace`]: spans of requests. [`native`]: what Rust has no safe way to, the
//!   one room for `unsafe`.
//! - [`media`]: bytes to RGB frames. [`text`]: prompts to token ids. [`proto`]: the generated gRPC types.
//! - [`model`]: the paper's networks and the bundle that holds their weights.
//! - [`engine`]: queue and device workers.
//! - [`server`] and [`train`]: one per binary, side by side. The third, `client`, is compiled by the `pcqa` binary
//!   itself, which must not link libtorch (`src/main.rs`).

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod engine;
pub mod media;
pub mod metrics;
pub mod model;
pub mod native;
pub mod proto;
pub mod server;
pub mod text;
pub mod trace;
pub mod train;
