//! From far below the saturation to far above it.

use std::sync::Arc;

use indicatif::ProgressBar;
use tokio::sync::Notify;

use super::args::BenchArgs;
use super::run::{self, Pace, Phase, Target};
use super::summary::Summary;
use crate::client::connect::Session;

/// A sweep's figures.
#[derive(Debug)]
pub struct Sweep {
    /// Requests at once of the closed loop.
    pub concurrency: usize,
    /// The closed loop; its goodput is the saturation.
    pub saturation: Summary,
    /// Multiples of the saturation with what became of them. Empty when nothing was scored or all was interrupted.
    pub rows: Vec<(f64, Summary)>,
}

/// Runs all phases, or those before an interrupt.
pub async fn run(
    target: &Arc<Target>,
    args: &BenchArgs,
    session: &Session,
    interrupt: &Notify,
    progress: &ProgressBar,
) -> Sweep {
    let phase = |pace| Phase { pace, warm_up: args.warm_up, duration: args.duration };
    let concurrency = args.concurrency.map_or_else(|| two_batches(session.limits.max_batch_frames), Into::into);
    progress.set_prefix("saturation ");
    let saturation = run::run(target, phase(Pace::Closed(concurrency)), interrupt, progress).await;
    let mut sweep = Sweep { concurrency, saturation, rows: Vec::new() };
    let Some(rate) = sweep.saturation.goodput_per_s.filter(|&rate| rate > 0.0) else { return sweep };
    let mut is_interrupted = sweep.saturation.is_interrupted;
    for &load in &args.loads {
        if is_interrupted {
            break;
        }
        progress.set_prefix(format!("load {load} "));
        let summary = run::run(target, phase(Pace::Open(load * rate)), interrupt, progress).await;
        is_interrupted = summary.is_interrupted;
        sweep.rows.push((load, summary));
    }
    sweep
}

/// One batch on the device and one that fills, as images.
fn two_batches(frames: u32) -> usize {
    usize::try_from(frames).unwrap_or_default().saturating_mul(2).clamp(32, 512)
}
