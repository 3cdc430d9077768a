//! Whether there is any use in standing in line. Pure: no threads, no clock.

use std::time::Duration;

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

impl Ahead {
    /// How long a newcomer takes from now on, where a piece takes `seconds`: its turn comes after all that is ahead, of
    /// which what is running is half done. None where nothing is ahead.
    pub fn time_to_finish(self, seconds: f64) -> Option<Duration> {
        if self.waiting == 0 && self.running < self.threads {
            return None;
        }
        let wait = (self.waiting as f64 + self.running as f64 / 2.0) / self.threads as f64;
        Duration::try_from_secs_f64(seconds * (wait + 1.0)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_waits_for_what_is_ahead_of_it() {
        let after = |waiting, running, threads| Ahead { waiting, running, threads }.time_to_finish(2.0);
        assert_eq!(after(0, 1, 1), Some(Duration::from_secs(3)));
        assert_eq!(after(3, 1, 1), Some(Duration::from_secs(9)));
        assert_eq!(after(6, 2, 2), Some(Duration::from_secs(9)));
        assert_eq!(after(0, 1, 2), None, "a thread is free");
    }
}
