//! How fast a pool decodes, and so whether there is any use in standing in line. Pure: no threads, no clock.

use std::time::Duration;

/// Part of the moving average that each measurement makes: it is over about the last ten.
const WEIGHT: f64 = 0.1;

/// The measured time of one piece of work.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seconds: Option<f64>,
}

/// What a pool has to do before a newcomer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Pieces that wait and go first.
    pub waiting: usize,
    /// Pieces that are being worked on.
    pub running: usize,
    /// Pieces that can be worked on at once.
    pub threads: usize,
}

impl Pace {
    /// Learns from one piece of work that took `elapsed`.
    pub fn record(&mut self, elapsed: Duration) {
        let measured = elapsed.as_secs_f64();
        self.seconds = Some(self.seconds.map_or(measured, |known| (1.0 - WEIGHT) * known + WEIGHT * measured));
    }

    /// How long a newcomer takes from now on: its turn comes after all that is ahead, of which what is running is half
    /// done. None where nothing has been measured or nothing is ahead.
    pub fn time_to_finish(&self, ahead: Ahead) -> Option<Duration> {
        let seconds = self.seconds?;
        if ahead.waiting == 0 && ahead.running < ahead.threads {
            return None;
        }
        let wait = (ahead.waiting as f64 + ahead.running as f64 / 2.0) / ahead.threads as f64;
        Duration::try_from_secs_f64(seconds * (wait + 1.0)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: f64, waiting: usize, running: usize, threads: usize) -> Option<f64> {
        let mut pace = Pace::default();
        pace.record(Duration::from_secs_f64(seconds));
        pace.time_to_finish(Ahead { waiting, running, threads }).map(|time| time.as_secs_f64())
    }

    #[test]
    fn a_newcomer_waits_for_what_is_ahead_of_it() {
        assert_eq!(after(2.0, 0, 1, 1), Some(3.0));
        assert_eq!(after(2.0, 3, 1, 1), Some(9.0));
        assert_eq!(after(2.0, 6, 2, 2), Some(9.0));
    }

    #[test]
    fn nothing_is_said_of_a_free_thread_or_without_a_measurement() {
        assert_eq!(after(2.0, 0, 1, 2), None);
        assert_eq!(Pace::default().time_to_finish(Ahead { waiting: 9, running: 1, threads: 1 }), None);
    }

    #[test]
    fn the_average_follows_the_last_measurements() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.record(Duration::from_secs(1)));
        (0..30).for_each(|_| pace.record(Duration::from_secs(3)));
        let time = pace.time_to_finish(Ahead { waiting: 1, running: 0, threads: 1 }).unwrap();
        assert!((5.8..6.0).contains(&time.as_secs_f64()), "{time:?}");
    }
}
