//! The figures of one phase, as `--json` writes them.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// What a phase measured. Figures that there are none of are none.
#[derive(Debug, Serialize)]
pub struct Summary {
    #[serde(skip)]
    pub is_interrupted: bool,
    /// Measured seconds; less than asked for when interrupted.
    pub seconds: f64,
    /// `scores + errors + unanswered + not_sent`.
    pub requests: u64,
    pub scores: u64,
    pub errors: u64,
    /// Still on their way when interrupted.
    pub unanswered: u64,
    /// Over the most that may be outstanding.
    pub not_sent: u64,
    pub offered_per_s: Option<f64>,
    pub answered_per_s: Option<f64>,
    pub goodput_per_s: Option<f64>,
    /// Of scores.
    pub latency_ms: Figures,
    /// Round trips of scores without the stages in which the server works on the item.
    pub outside_ms: Figures,
    /// From when a request was due to when it was sent.
    pub send_lag_ms: Figures,
    pub by_code: BTreeMap<&'static str, ByCode>,
    /// Means of the server's timings.
    #[serde(serialize_with = "as_map")]
    pub stages_ms: [(&'static str, Option<f64>); 8],
    /// Mean over batches.
    pub batch_frames: Option<f64>,
    /// `batch_frames` as a share of the largest batch.
    pub batch_fill: Option<f64>,
}

/// Failures of one code.
#[derive(Debug, Serialize)]
pub struct ByCode {
    pub count: u64,
    /// The first message.
    pub example: String,
    pub latency_ms: Figures,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// How a server sheds load.
const SHED: &str = "RESOURCE_EXHAUSTED";

impl Summary {
    /// Refusals for lack of room, when there were any.
    pub fn shed(&self) -> Option<&ByCode> {
        self.by_code.get(SHED)
    }

    /// Their share of the requests.
    pub fn shed_share(&self) -> Option<f64> {
        share(self.shed().map_or(0, |shed| shed.count), self.requests)
    }

    /// Errors that are not [`Self::shed`].
    pub fn other_errors(&self) -> u64 {
        self.errors - self.shed().map_or(0, |shed| shed.count)
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn as_map<S: Serializer>(stages: &[(&'static str, Option<f64>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(stages.iter().copied())
}
