//! Trying again.

use std::thread;
use std::time::Duration;

use super::refusal::Failure;

/// Failures in a row after which nobody waits any longer.
pub(super) const MOST_FAILURES: u32 = 5;

/// What `attempt` gives, in the end.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> anyhow::Result<T> {
    let mut failures = 0;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(error)) => {
                failures += 1;
                if failures == MOST_FAILURES {
                    return Err(error.context(format!("gave up after {failures} attempts")));
                }
                wait(failures);
            }
        }
    }
}

/// Twice as long after each failure: half a second after the first.
pub(super) fn wait(failures: u32) {
    thread::sleep(Duration::from_millis(500) * 2u32.saturating_pow(failures.saturating_sub(1)));
}
