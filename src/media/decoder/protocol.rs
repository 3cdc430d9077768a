//! Messages between the pool and a worker: one JSON document per packet of a `SOCK_SEQPACKET` socket, the worker's
//! standard input. A request carries two memfds, in this order: the video (sealed against writing) and the place for
//! the frames (sealed against resizing). After `Decoded`, the second one holds, for each side in the order asked for,
//! `frames * side * side * 3` bytes of RGB.
//!
//! The pool trusts nothing that a worker says: hostile bytes may have taken it over.

use serde::{Deserialize, Serialize};

/// Longest message in bytes, either way.
pub const MAX_MESSAGE: usize = 4096;

/// Longest reason in a reply, in characters; the pool cuts longer ones.
pub const MAX_REASON: usize = 200;

/// One video to decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Number of the request in the worker's life; the answer repeats it.
    pub number: u64,
    /// Sides of the squares to resize to, in pixels.
    pub sides: Vec<u32>,
    /// Most encoded bytes; bounds what a demuxer may claim to have read.
    pub max_bytes: u64,
    /// Most pixels of one frame.
    pub max_pixels: u64,
    /// Longest duration in seconds.
    pub max_seconds: f64,
    /// Most frames in the clip.
    pub max_frames: u64,
    /// Most frames to return.
    pub max_frames_used: u32,
}

/// What a worker answers: `Ready` or `Unusable` once at its start, one `Answer` per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The sandbox is closed; requests may come.
    Ready,
    /// The sandbox could not be set up; the worker exits.
    Unusable {
        /// Why.
        reason: String,
    },
    /// What became of a video.
    Answer {
        /// The request's number.
        number: u64,
        /// The frames or why there are none.
        outcome: Result<Decoded, Refusal>,
    },
}

/// The frames lie in the second memfd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoded {
    /// How many at every side.
    pub frames: u32,
    /// Time spent in resizing, in microseconds.
    pub resize_us: u64,
}

/// Why a worker refuses a video; the limits are known to the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    /// No container of ours.
    UnknownFormat,
    /// A frame has more pixels than allowed.
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Longer than allowed.
    TooLong {
        /// Seconds found so far.
        seconds: f64,
    },
    /// More frames than allowed.
    TooManyFrames,
    /// No video stream other than cover art.
    NoVideoStream,
    /// An allocation failed.
    TooMuchMemory,
    /// Bytes that do not decode.
    Corrupt {
        /// The demuxer's or codec's word.
        reason: String,
    },
}

impl Refusal {
    /// A refusal of bytes that do not decode.
    pub fn corrupt(reason: impl Into<String>) -> Self {
        Self::Corrupt { reason: reason.into() }
    }
}
