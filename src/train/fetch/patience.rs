//! Trying again.

use std::thread;
use std::time::Duration;

use anyhow::Error;

use super::refusal::Failure;

/// Failures in a row after which nobody waits any longer.
pub(super) const MOST_FAILURES: u32 = 5;

/// Longest that a hub may ask to be left alone for.
const LONGEST: Duration = Duration::from_secs(120);

/// What `attempt` gives, in the end.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> anyhow::Result<T> {
    let mut failures = 0;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(failure) => {
                failures += 1;
                let gave_up = || format!("gave up after {failures} attempts");
                wait(failure, failures, gave_up, |line| eprintln!("{line}"))?;
            }
        }
    }
}

/// Says why and waits, after so many failures in a row: as long as the hub asks for, or twice as long each time, half a
/// second at first.
///
/// # Errors
///
/// When trying again makes no sense, or no more.
pub(super) fn wait(
    failure: Failure,
    failures: u32,
    gave_up: impl FnOnce() -> String,
    say: impl FnOnce(String),
) -> anyhow::Result<()> {
    let (error, asked): (Error, _) = match failure {
        Failure::Final(error) => return Err(error),
        Failure::After(error, after) if after > LONGEST => {
            return Err(error.context(format!("the hub asks to come back in {} s", after.as_secs())));
        }
        Failure::After(error, after) => (error, Some(after)),
        Failure::Again(error) => (error, None),
    };
    if failures >= MOST_FAILURES {
        return Err(error.context(gave_up()));
    }
    let doubled = Duration::from_millis(500) * 2u32.saturating_pow(failures.saturating_sub(1));
    let time = asked.map_or(doubled, |asked| asked.max(doubled));
    say(format!("{error:#}; again in {} s", time.as_secs_f64()));
    thread::sleep(time);
    Ok(())
}
