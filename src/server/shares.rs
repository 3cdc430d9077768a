//! Limits that all connections draw on, each at most as much as it leaves free: calls in progress, bytes in flight; and
//! connections, of which an address has as many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ServiceError;
use crate::engine::{Budget, Caller, Refusal};

/// What a caller is told who is refused: places and bytes come back as fast as requests are answered.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A [`Budget`] of requests on many threads.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    budget: Arc<Mutex<Budget>>,
    /// What is counted, as in "calls in progress: 7, the limit is 8".
    what: &'static str,
}

/// An amount that its caller holds until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Shares,
    caller: Caller,
    amount: u64,
}

impl Shares {
    pub fn new(limit: u64, what: &'static str) -> Self {
        Self { budget: Arc::new(Mutex::new(Budget::new(limit))), what }
    }

    /// Nothing yet.
    pub fn none(&self, caller: Caller) -> Share {
        Share { of: self.clone(), caller, amount: 0 }
    }

    /// One piece.
    pub fn one(&self, caller: Caller) -> Result<Share, ServiceError> {
        let mut share = self.none(caller);
        share.grow(1)?;
        Ok(share)
    }

    /// Amount in use, of all callers.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    fn refusal(&self, refusal: Refusal) -> ServiceError {
        let what = self.what;
        let message = match refusal {
            Refusal::Spent { used, limit, .. } => format!("{what}: {used}, the limit is {limit}"),
            Refusal::Share { held, free, .. } => {
                format!("{what}: {held} on this connection, which may hold at most what is free for others, now {free}")
            }
        };
        ServiceError::Overloaded { message, retry_after: RETRY_AFTER }
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes `amount` more, or nothing.
    pub fn grow(&mut self, amount: u64) -> Result<(), ServiceError> {
        // Nothing is always there, even for a caller who has more than its share by now.
        if amount > 0 {
            let taken = self.of.lock().take(self.caller, amount);
            taken.map_err(|refusal| self.of.refusal(refusal))?;
            self.amount += amount;
        }
        Ok(())
    }

    /// A share of its own from `amount` of this one, or from all of it where it is less.
    pub fn split(&mut self, amount: u64) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { of: self.of.clone(), caller: self.caller, amount }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.of.lock().give_back(self.caller, self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let shares = Shares::new(10, "bytes held");
        let mut whole = shares.none(Caller(1));
        whole.grow(5).unwrap();
        let part = whole.split(3);
        let rest = whole.split(100);
        drop(whole);
        assert_eq!(shares.used(), 5);
        drop(part);
        assert_eq!(shares.used(), 2);
        drop(rest);
        assert_eq!(shares.used(), 0);
    }

    #[test]
    fn who_has_as_much_as_is_free_is_told_when_to_come_back_and_the_next_is_served() {
        let shares = Shares::new(4, "calls in progress");
        let _held: Vec<_> = (0..2).map(|_| shares.one(Caller(1)).unwrap()).collect();
        let status = Status::from(shares.one(Caller(1)).unwrap_err());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().starts_with("calls in progress: 2 on this connection"), "{status:?}");
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        let _other = shares.one(Caller(2)).unwrap();
        shares.none(Caller(1)).grow(0).unwrap();
    }
}
