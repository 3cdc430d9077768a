//! A limit that many callers share without any of them filling it up. Pure: no threads, no clock.

use std::collections::HashMap;

/// Who asks. What one caller has waiting is counted together; the room above says what a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u64);

/// An amount (frames, calls, bytes) of which each caller may hold as much as it leaves free.
///
/// A caller alone so gets half of the limit, and however much one holds, the next finds as much free: the "dynamic
/// thresholds" of Choudhury and Hahne (1998) with α = 1.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: u64,
    held: HashMap<Caller, u64>,
}

/// Why an amount was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All callers together would hold more than the limit.
    Spent {
        /// Amount in use.
        used: u64,
        /// Amount to give.
        limit: u64,
        /// Amount that must come back first.
        excess: u64,
    },
    /// The caller would hold more than is free.
    Share {
        /// Amount that this caller holds.
        held: u64,
        /// Amount that is free.
        free: u64,
        /// Amount that the caller must give back first.
        excess: u64,
    },
}

impl Budget {
    /// Nothing in use of `limit`.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: 0, held: HashMap::new() }
    }

    /// Gives `amount` to `caller`.
    pub fn take(&mut self, caller: Caller, amount: u64) -> Result<(), Refusal> {
        let held = self.held.get(&caller).copied().unwrap_or(0);
        let free = self.limit.saturating_sub(self.used);
        if amount > free {
            return Err(Refusal::Spent { used: self.used, limit: self.limit, excess: amount - free });
        }
        if held + amount > free {
            // What the caller gives back makes its own amount smaller and the free one larger.
            return Err(Refusal::Share { held, free, excess: (held + amount - free).div_ceil(2) });
        }
        if amount > 0 {
            self.used += amount;
            *self.held.entry(caller).or_default() += amount;
        }
        Ok(())
    }

    /// Takes back `amount`, which `caller` holds.
    pub fn give_back(&mut self, caller: Caller, amount: u64) {
        self.used = self.used.saturating_sub(amount);
        if let Some(held) = self.held.get_mut(&caller) {
            *held = held.saturating_sub(amount);
            if *held == 0 {
                self.held.remove(&caller);
            }
        }
    }

    /// Amount in use, of all callers.
    pub fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_caller_alone_gets_half_and_the_next_half_of_the_rest() {
        let mut budget = Budget::new(128);
        let take_all = |budget: &mut Budget, caller| (0..).take_while(|_| budget.take(caller, 1).is_ok()).count();
        assert_eq!(take_all(&mut budget, Caller(1)), 64);
        assert_eq!(budget.take(Caller(1), 1), Err(Refusal::Share { held: 64, free: 64, excess: 1 }));
        assert_eq!(take_all(&mut budget, Caller(2)), 32);
        assert_eq!(take_all(&mut budget, Caller(3)), 16);
        assert_eq!(budget.take(Caller(4), 100), Err(Refusal::Spent { used: 112, limit: 128, excess: 84 }));
        budget.give_back(Caller(2), 32);
        assert_eq!(budget.used(), 80);
        assert_eq!(take_all(&mut budget, Caller(1)), 0);
    }

    #[test]
    fn one_piece_may_be_as_large_as_the_limit() {
        let mut budget = Budget::new(16);
        budget.take(Caller(1), 16).unwrap();
        assert!(budget.take(Caller(2), 1).is_err());
        budget.give_back(Caller(1), 16);
        budget.take(Caller(2), 16).unwrap();
    }

    proptest! {
        /// What is used is what is held, never over the limit; who holds nothing is refused only what is not free; what
        /// is said to be in excess is enough.
        #[test]
        fn the_account_is_true(limit in 1u64..200, steps in proptest::collection::vec((0u64..5, 0u64..40, any::<bool>()), 1..200)) {
            let mut budget = Budget::new(limit);
            let mut held = [0u64; 5];
            for (caller, amount, gives) in steps {
                let mine = &mut held[caller as usize];
                let caller = Caller(caller);
                if gives {
                    let amount = amount.min(*mine);
                    budget.give_back(caller, amount);
                    *mine -= amount;
                } else {
                    let free = limit - budget.used();
                    match budget.take(caller, amount) {
                        Ok(()) => *mine += amount,
                        Err(Refusal::Spent { excess, .. }) => prop_assert_eq!(amount, free + excess),
                        Err(Refusal::Share { held, excess, .. }) => {
                            prop_assert!(*mine > 0 && *mine == held && excess > 0);
                            if excess <= held {
                                prop_assert!(held - excess + amount <= free + excess);
                            }
                        }
                    }
                }
                prop_assert_eq!(budget.used(), held.iter().sum::<u64>());
                prop_assert!(budget.used() <= limit);
                prop_assert!(budget.held.len() <= held.iter().filter(|held| **held > 0).count());
            }
        }
    }
}
