//! The pool of sandboxed `pcqa-decoder` processes and the protocol spoken with them.

pub mod protocol;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Frames, MediaError, VideoLimits};

/// How the pool runs.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// The `pcqa-decoder` executable.
    pub program: PathBuf,
    /// Worker processes, and so videos decoded at once.
    pub workers: usize,
    /// Address space of one worker in bytes.
    pub max_memory: u64,
    /// Limits of every video.
    pub limits: VideoLimits,
}

/// A decoded clip and the time it took.
#[derive(Debug, Clone)]
pub struct DecodedVideo {
    /// The chosen frames, in presentation order.
    pub frames: Frames,
    /// Waiting for a worker, demuxing and decoding.
    pub decode: Duration,
    /// Resizing.
    pub resize: Duration,
}

/// A fixed number of worker processes, restarted when one dies.
#[derive(Debug)]
pub struct DecoderPool {}

impl DecoderPool {
    /// Starts the workers and waits until each has answered once.
    pub fn start(config: DecoderConfig) -> Result<Self, MediaError> {
        let _ = config;
        todo!()
    }

    /// Decodes `video` to at most `limits.max_frames_used` frames at every one of `sides`. Blocks; ends by `deadline`.
    pub fn decode(&self, video: &[u8], sides: &[u32], deadline: Instant) -> Result<DecodedVideo, MediaError> {
        let _ = (video, sides, deadline);
        todo!()
    }
}
