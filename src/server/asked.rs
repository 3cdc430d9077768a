//! What is known of an item from its beginning to its answer: that somebody waits for it, and its span.

use std::time::Instant;

use super::call::Terms;
use crate::model::Track;
use crate::{metrics, trace};

/// Somebody waits for items. Dropped before they are answered, and before their time is over, they were cancelled.
#[must_use = "dropped without an answer it counts as cancelled"]
pub(super) struct Asked {
    /// None once they are answered.
    items: usize,
    deadline: Instant,
}

impl Asked {
    pub fn for_items(items: usize, deadline: Instant) -> Self {
        Self { items, deadline }
    }

    /// Whatever the answer was.
    pub fn answered(mut self) {
        self.items = 0;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.items > 0 && Instant::now() < self.deadline {
            metrics::cancelled(self.items);
        }
    }
}

/// The span of an item of `track`.
pub(super) fn item_span(track: Track, terms: Terms) -> trace::Span {
    let name = match track {
        Track::Image => "image",
        Track::Video => "video",
    };
    trace::Span::of(terms.span, name, terms.arrived)
}
