//! Items in, scores out: the queue before the devices and the threads that own them. No gRPC types, no HTTP, no file
//! formats.

mod worker;

use std::time::{Duration, Instant};

use crate::media::Frames;
use crate::model::{EnsembleScore, ModelError, Track};
use crate::text::TokenIds;

/// What the engine scores.
#[derive(Debug)]
pub struct Item {
    /// Which experts.
    pub track: Track,
    /// The prompt.
    pub prompt: TokenIds,
    /// The frames at every side that the track's experts take.
    pub frames: Frames,
    /// When the answer is of no more use.
    pub deadline: Instant,
}

/// A scored item.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The score.
    pub score: EnsembleScore,
    /// Waiting for the device.
    pub queue: Duration,
    /// Prompt embedding.
    pub text: Duration,
    /// Backbones.
    pub vision: Duration,
    /// Heads and Eq. 4.
    pub head: Duration,
}

/// Why there is no score.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The queue's frame budget is spent.
    #[error("{queued} frames are queued, the limit is {limit}")]
    QueueFull {
        /// Frames waiting.
        queued: u64,
        /// Frames allowed.
        limit: u64,
        /// When there will be room, from the measured rate.
        retry_after: Duration,
    },
    /// The deadline passed before the item reached the device.
    #[error("the deadline passed while waiting for the device")]
    Deadline,
    /// The engine is shutting down or its device is lost.
    #[error("the engine has stopped")]
    Stopped,
    /// The network failed on this item.
    #[error("{0}")]
    Model(std::sync::Arc<ModelError>),
}
