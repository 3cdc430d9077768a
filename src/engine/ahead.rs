//! When a device that is still busy is given its next batch: late, so that the batch is the one that is due then, and
//! early enough to be there when the device is free. Pure: the clock is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::Track;

/// Added to twice the time that it takes to ask: threads do not wake to the microsecond.
const MARGIN: Duration = Duration::from_millis(1);

/// What was learnt from the batches of a device.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What the last batch of so many frames took.
    known: HashMap<(Track, u32), Duration>,
    /// What it took to ask for the last one.
    asking: Duration,
    /// When the last one was answered.
    answered: Option<Instant>,
}

impl Ahead {
    /// When the device begins with what it was asked for at `asked`.
    pub fn begin(&self, asked: Instant) -> Instant {
        self.answered.map_or(asked, |answered| answered.max(asked))
    }

    /// When the device is done with `frames` that it was asked for at `asked`; none where it has never had so many.
    pub fn ends(&self, track: Track, frames: u32, asked: Instant) -> Option<Instant> {
        self.known.get(&(track, frames)).map(|&takes| self.begin(asked) + takes)
    }

    /// How long it is too early at `now` to ask for what follows a batch that is done at `ends`.
    pub fn early(&self, ends: Instant, now: Instant) -> Duration {
        ends.saturating_duration_since(now + 2 * self.asking + MARGIN)
    }

    /// Learns from a batch that it took `elapsed` to ask for.
    pub fn asked(&mut self, elapsed: Duration) {
        self.asking = elapsed;
    }

    /// Learns from a batch that was answered at `now` and took `elapsed`.
    pub fn answered(&mut self, track: Track, frames: u32, now: Instant, elapsed: Duration) {
        self.known.insert((track, frames), elapsed);
        self.answered = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_next_batch_comes_shortly_before_the_end_of_one_whose_time_is_known() {
        let (start, mut ahead) = (Instant::now(), Ahead::default());
        ahead.asked(2 * MS);
        ahead.answered(Track::Image, 64, start, 60 * MS);
        let ends = ahead.ends(Track::Image, 64, start).unwrap();
        assert_eq!(ends, start + 60 * MS);
        assert_eq!(ahead.early(ends, start), 55 * MS);
        assert_eq!(ahead.early(ends, start + 50 * MS), 5 * MS);
        assert_eq!(ahead.early(ends, start + 58 * MS), Duration::ZERO);
        for (track, frames) in [(Track::Image, 32), (Track::Video, 64)] {
            assert_eq!(ahead.ends(track, frames, start), None);
        }
    }

    #[test]
    fn a_batch_that_was_asked_for_early_begins_when_the_one_before_ends() {
        let (start, mut ahead) = (Instant::now(), Ahead::default());
        assert_eq!(ahead.begin(start), start);
        ahead.answered(Track::Image, 64, start + 10 * MS, 10 * MS);
        assert_eq!(ahead.begin(start + 8 * MS), start + 10 * MS);
        assert_eq!(ahead.begin(start + 12 * MS), start + 12 * MS);
        assert_eq!(ahead.ends(Track::Image, 64, start + 8 * MS), Some(start + 20 * MS));
    }
}
