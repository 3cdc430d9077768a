//! On what terms a caller asks for a score.

use std::time::Instant;

use crate::engine::{Caller, Priority};

/// Who asks, how urgently, since when and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub caller: Caller,
    pub priority: Priority,
    /// When the request's head arrived; for an item of a stream, when it was read.
    pub arrived: Instant,
    /// When the answer must be there: for the queue, the decoder and the device.
    pub deadline: Instant,
}
