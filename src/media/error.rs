//! Why media could not be turned into frames.

use std::time::Duration;

/// A refusal or failure of decoding. Every variant but [`Deadline`](MediaError::Deadline),
/// [`Cancelled`](MediaError::Cancelled) and [`Worker`](MediaError::Worker) is the fault of the bytes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MediaError {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {bytes} bytes, the limit is {limit}")]
    TooManyBytes {
        /// Length found.
        bytes: u64,
        /// Length allowed.
        limit: u64,
    },
    /// The first bytes belong to no known format; `expected` lists those that are.
    #[error("is not in a known format; expected {expected}")]
    UnknownFormat {
        /// The formats that would have been taken.
        expected: &'static str,
    },
    /// A known format of the other kind: a video in an image's field or the reverse.
    #[error("is {found}; expected {expected}")]
    WrongKind {
        /// What the bytes are, with an article ("an MP4 video").
        found: String,
        /// What belongs here.
        expected: &'static str,
    },
    /// More pixels than allowed, known from the header.
    #[error("is {width}x{height} = {} pixels, the limit is {limit}", u64::from(*width) * u64::from(*height))]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pixels allowed.
        limit: u64,
    },
    /// A width or height above what is allowed, known from the header.
    #[error("is {width}x{height} pixels, the longest side allowed is {limit}")]
    TooLongSide {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pixels allowed along one side.
        limit: u32,
    },
    /// A width or height of zero.
    #[error("is {width}x{height} pixels; both sides must be at least 1")]
    ZeroSized {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Decoding would need more memory than allowed.
    #[error("needs more than {limit} bytes of memory to decode")]
    TooMuchMemory {
        /// Bytes allowed.
        limit: u64,
    },
    /// Longer than allowed.
    #[error("lasts {seconds:.1} s, the limit is {limit} s")]
    TooLong {
        /// Seconds found.
        seconds: f64,
        /// Seconds allowed.
        limit: f64,
    },
    /// More frames than allowed.
    #[error("has more than {limit} frames")]
    TooManyFrames {
        /// Frames allowed.
        limit: u64,
    },
    /// A container without a video stream (audio only, say).
    #[error("has no video stream")]
    NoVideoStream,
    /// Bytes that do not decode; `reason` is the codec's word and holds nothing of the content.
    #[error("could not be decoded: {reason}")]
    Corrupt {
        /// What the codec said.
        reason: String,
    },
    /// The request's deadline passed while decoding.
    #[error("was not decoded within the deadline (after {:.1} s)", waited.as_secs_f64())]
    Deadline {
        /// How long was tried.
        waited: Duration,
    },
    /// Its [`Cancel`](super::Cancel) was set: nobody waits for it.
    #[error("was cancelled")]
    Cancelled,
    /// The decoder workers themselves cannot run: no fault of the bytes.
    #[error("decoder unavailable: {0}")]
    Worker(String),
}

impl MediaError {
    /// As metrics name it; [`Cancelled`](Self::Cancelled) is no failure.
    pub fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("empty"),
            Self::TooManyBytes { .. } => Some("too_many_bytes"),
            Self::UnknownFormat { .. } => Some("unknown_format"),
            Self::WrongKind { .. } => Some("wrong_kind"),
            Self::TooManyPixels { .. } => Some("too_many_pixels"),
            Self::TooLongSide { .. } => Some("too_long_side"),
            Self::ZeroSized { .. } => Some("zero_sized"),
            Self::TooMuchMemory { .. } => Some("too_much_memory"),
            Self::TooLong { .. } => Some("too_long"),
            Self::TooManyFrames { .. } => Some("too_many_frames"),
            Self::NoVideoStream => Some("no_video_stream"),
            Self::Corrupt { .. } => Some("corrupt"),
            Self::Deadline { .. } => Some("deadline"),
            Self::Worker(_) => Some("worker"),
            Self::Cancelled => None,
        }
    }

    /// True when the bytes are to blame, so that trying again cannot help.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(self, Self::Deadline { .. } | Self::Cancelled | Self::Worker(_))
    }
}
