//! How long a piece of work takes, from the last pieces. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Part of the moving average that each measurement makes: it is over about the last five.
const WEIGHT: f64 = 0.2;

/// How long a measurement counts at least. A refusal for lack of time must not rest on one bad moment for ever: where
/// everything is refused nothing new is measured.
const HOLDS: Duration = Duration::from_secs(10);

/// Measured seconds of one piece.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace(Option<(f64, Instant)>);

impl Pace {
    /// Learns from `pieces` done in `elapsed` until `now`.
    pub fn record(&mut self, pieces: u32, elapsed: Duration, now: Instant) {
        let measured = elapsed.as_secs_f64() / f64::from(pieces.max(1));
        let average = self.seconds(now).map_or(measured, |known| (1.0 - WEIGHT) * known + WEIGHT * measured);
        self.0 = Some((average, now + HOLDS.max(2 * elapsed)));
    }

    /// Seconds of one piece; none where nothing has been measured lately, for which "lately" is ten seconds, or twice the
    /// time of the last measurement where that is longer.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        self.0.filter(|(_, until)| now < *until).map(|(seconds, _)| seconds)
    }

    /// Seconds of one piece when it was last measured, however long ago: for what is never refused by it.
    pub fn last_known(&self) -> Option<f64> {
        self.0.map(|(seconds, _)| seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_last_measurements() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.seconds(now), None);
        (0..100).for_each(|_| pace.record(10, Duration::from_secs(10), now));
        (0..15).for_each(|_| pace.record(1, Duration::from_secs(3), now));
        let seconds = pace.seconds(now).unwrap();
        assert!((2.9..3.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn what_was_measured_long_ago_counts_no_more() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        pace.record(1, Duration::from_secs(1), now);
        assert_eq!(pace.seconds(now + HOLDS - Duration::from_millis(1)), Some(1.0));
        assert_eq!(pace.seconds(now + HOLDS), None);
        assert_eq!(pace.last_known(), Some(1.0));
        pace.record(8, Duration::from_secs(160), now + HOLDS);
        assert_eq!(pace.seconds(now + HOLDS + Duration::from_secs(300)), Some(20.0), "a batch takes that long");
    }
}
