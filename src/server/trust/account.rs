//! What the holder of a key may use at once and over time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics;
use crate::server::error::ServiceError;

/// A call that ends makes room; nobody knows when one will.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The shortest wait that is told to who was too fast.
const MIN_RETRY: Duration = Duration::from_millis(50);

/// Limits of one key's holder; none where there is no number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct KeyLimits {
    /// Calls in progress.
    pub max_calls: Option<u64>,
    /// Frames per second, over 0: an image is 1, a video as many as are scored of it at most.
    pub max_frames_per_second: Option<f64>,
}

/// One holder, who may have several keys.
#[derive(Debug)]
pub(super) struct Account {
    pub name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: KeyLimits,
    calls: u64,
    /// Frames that may be asked for at once: what a second brings, at least one; below 0 when more than that was.
    credit: f64,
    /// When `credit` was right.
    at: Instant,
}

impl Account {
    pub fn new(name: String, limits: KeyLimits) -> Self {
        metrics::key_known(&name);
        let state = State { limits, calls: 0, credit: most_credit(limits), at: Instant::now() };
        Self { name, state: Mutex::new(state) }
    }

    pub fn limits(&self) -> KeyLimits {
        self.lock().limits
    }

    pub fn set_limits(&self, limits: KeyLimits) {
        let mut state = self.lock();
        state.limits = limits;
        state.credit = state.credit.min(most_credit(limits));
    }

    fn enter(&self) -> Result<(), ServiceError> {
        let mut state = self.lock();
        let calls = state.calls;
        if let Some(limit) = state.limits.max_calls.filter(|limit| calls >= *limit) {
            metrics::key_limited(&self.name, "calls");
            let message = format!("calls in progress of API key {}: {calls}, the limit is {limit}", self.name);
            return Err(ServiceError::Overloaded { message, retry_after: RETRY_AFTER });
        }
        state.calls += 1;
        Ok(())
    }

    /// An item of any size is let in while there is credit, and its debt is waited for: no item is too large for ever.
    fn spend(&self, frames: u32, now: Instant) -> Result<(), ServiceError> {
        let mut state = self.lock();
        let Some(rate) = state.limits.max_frames_per_second else { return Ok(()) };
        let earned = now.saturating_duration_since(state.at).as_secs_f64() * rate;
        state.credit = (state.credit + earned).min(most_credit(state.limits));
        state.at = now;
        if state.credit < 1.0 {
            metrics::key_limited(&self.name, "rate");
            let message = format!("frames per second of API key {}: the limit is {rate}", self.name);
            let retry_after = Duration::from_secs_f64((1.0 - state.credit) / rate).max(MIN_RETRY);
            return Err(ServiceError::Overloaded { message, retry_after });
        }
        state.credit -= f64::from(frames);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn most_credit(limits: KeyLimits) -> f64 {
    limits.max_frames_per_second.unwrap_or(0.0).max(1.0)
}

/// One key of an account.
#[derive(Debug)]
pub(super) struct Pass {
    pub account: Arc<Account>,
    is_revoked: AtomicBool,
}

impl Pass {
    pub fn new(account: Arc<Account>) -> Self {
        Self { account, is_revoked: AtomicBool::new(false) }
    }

    /// The key is no longer in the file.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }
}

/// One call of somebody who was let in. The call counts until the last clone is gone.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Guest(Option<Arc<Visit>>);

#[derive(Debug)]
struct Visit(Arc<Pass>);

impl Guest {
    /// With the key of `pass`.
    pub(super) fn of(pass: &Arc<Pass>) -> Result<Self, ServiceError> {
        pass.account.enter()?;
        Ok(Self(Some(Arc::new(Visit(pass.clone())))))
    }

    /// Takes `frames` from what the key allows, where it is still known: a stream may outlast it. Without a key nothing
    /// is counted.
    pub fn spend(&self, frames: u32) -> Result<(), ServiceError> {
        let Some(visit) = &self.0 else { return Ok(()) };
        if visit.0.is_revoked.load(Ordering::Relaxed) {
            metrics::unauthenticated("unknown");
            return Err(ServiceError::Unauthenticated("authorization: the API key is not known any more"));
        }
        visit.0.account.spend(frames, Instant::now())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.account.lock().calls -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_of(refused: Result<(), ServiceError>) -> Duration {
        match refused {
            Err(ServiceError::Overloaded { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calls_are_counted_until_the_last_clone_is_gone() {
        let account = Account::new("ci".to_owned(), KeyLimits { max_calls: Some(1), ..Default::default() });
        let pass = Arc::new(Pass::new(Arc::new(account)));
        let guest = Guest::of(&pass).unwrap();
        let clone = guest.clone();
        drop(guest);
        retry_of(Guest::of(&pass).map(drop));
        drop(clone);
        Guest::of(&pass).unwrap();
    }

    #[test]
    fn the_wait_that_is_told_is_the_one_that_helps_and_no_shorter_one() {
        let limits = KeyLimits { max_frames_per_second: Some(4.0), ..Default::default() };
        let account = Account::new("ci".to_owned(), limits);
        let start = Instant::now();
        account.spend(16, start).unwrap();
        let wait = retry_of(account.spend(1, start));
        assert!(wait.abs_diff(Duration::from_secs_f64(13.0 / 4.0)) < Duration::from_millis(5), "{wait:?}");
        retry_of(account.spend(1, start + wait - Duration::from_millis(10)));
        account.spend(1, start + wait + Duration::from_millis(10)).unwrap();
    }

    #[test]
    fn a_long_silence_earns_no_more_than_a_second() {
        let limits = KeyLimits { max_frames_per_second: Some(2.0), ..Default::default() };
        let account = Account::new("ci".to_owned(), limits);
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| account.spend(1, later).is_ok()).count(), 2);
    }
}
