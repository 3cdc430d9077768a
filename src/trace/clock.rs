//! From the clock that measures to the one that dates.

use std::time::{Instant, SystemTime};

/// One moment on both clocks. A trace has one of these: whatever becomes of the date meanwhile, its spans stand as they
/// were measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    instant: Instant,
    date: SystemTime,
}

impl Clock {
    pub fn now() -> Self {
        Self { instant: Instant::now(), date: SystemTime::now() }
    }

    /// The date of `instant`.
    pub fn at(self, instant: Instant) -> SystemTime {
        let (before, after) =
            (self.instant.saturating_duration_since(instant), instant.saturating_duration_since(self.instant));
        let date = self.date.checked_sub(before).and_then(|date| date.checked_add(after));
        date.unwrap_or(self.date)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_lie_as_far_apart_as_what_was_measured() {
        let (clock, second) = (Clock::now(), Duration::from_secs(1));
        let (before, after) = (clock.instant - second, clock.instant + second);
        assert_eq!(clock.at(after).duration_since(clock.at(before)).unwrap(), 2 * second);
        assert_eq!(clock.at(clock.instant), clock.date);
    }
}
