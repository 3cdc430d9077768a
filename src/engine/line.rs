//! Work that waits, in the order in which it goes: what somebody waits for before what can wait, and within a priority
//! the earliest deadline, then the earliest turn. Pure: no threads, no clock.

use std::collections::BTreeMap;
use std::time::Instant;

/// What goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for the answer.
    Interactive,
    /// Can wait, but never starves: see [`BULK_SHARE`].
    Bulk,
}

/// While bulk work is ready to go, at least one part in this many of the cost that goes is bulk.
pub const BULK_SHARE: u64 = 8;

/// Names work in a [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    priority: Priority,
    deadline: Instant,
    turn: u64,
}

/// Waiting work of both priorities.
#[derive(Debug)]
pub struct Line<T> {
    interactive: BTreeMap<Key, Entry<T>>,
    bulk: BTreeMap<Key, Entry<T>>,
    turns: u64,
    /// Cost of the interactive work that has gone ahead of bulk work which was ready.
    owed_to_bulk: u64,
}

#[derive(Debug)]
struct Entry<T> {
    work: T,
    cost: u64,
    /// Whether it may go; until then it keeps its turn.
    ready: bool,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { interactive: BTreeMap::new(), bulk: BTreeMap::new(), turns: 0, owed_to_bulk: 0 }
    }
}

impl<T> Line<T> {
    /// Adds work that costs `cost` (frames, or 1 for each piece), at least 1. What is not `ready` keeps its turn until
    /// [`make_ready`](Self::make_ready).
    pub fn insert(&mut self, priority: Priority, deadline: Instant, cost: u64, ready: bool, work: T) -> Key {
        let key = Key { priority, deadline, turn: self.turns };
        self.turns += 1;
        self.of_mut(priority).insert(key, Entry { work, cost, ready });
        key
    }

    /// Lets the work at `key` go, at a cost that is known better now. False where it is not in line any more.
    pub fn make_ready(&mut self, key: &Key, cost: u64, update: impl FnOnce(&mut T)) -> bool {
        let Some(entry) = self.of_mut(key.priority).get_mut(key) else { return false };
        entry.ready = true;
        entry.cost = cost;
        update(&mut entry.work);
        true
    }

    /// The work at `key`.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.of(key.priority).get(key).map(|entry| &entry.work)
    }

    /// What goes next among the ready work that is `wanted`, and its cost.
    pub fn next(&self, wanted: impl Fn(&T) -> bool) -> Option<(Key, u64)> {
        let first = |line: &BTreeMap<Key, Entry<T>>| {
            line.iter().find(|(_, entry)| entry.ready && wanted(&entry.work)).map(|(key, entry)| (*key, entry.cost))
        };
        let (interactive, bulk) = (first(&self.interactive), first(&self.bulk));
        match (interactive, bulk) {
            (Some(_), Some((_, cost))) if self.owed_to_bulk >= (BULK_SHARE - 1) * cost => bulk,
            (None, bulk) => bulk,
            (interactive, _) => interactive,
        }
    }

    /// Takes the work at `key` to do it.
    pub fn take(&mut self, key: &Key) -> Option<T> {
        let entry = self.of_mut(key.priority).remove(key)?;
        match key.priority {
            Priority::Interactive if self.bulk.values().any(|entry| entry.ready) => self.owed_to_bulk += entry.cost,
            Priority::Interactive => self.owed_to_bulk = 0,
            Priority::Bulk => self.owed_to_bulk = self.owed_to_bulk.saturating_sub((BULK_SHARE - 1) * entry.cost),
        }
        Some(entry.work)
    }

    /// Takes the work at `key` out because nobody wants it any more.
    pub fn remove(&mut self, key: &Key) -> Option<T> {
        self.of_mut(key.priority).remove(key).map(|entry| entry.work)
    }

    /// Takes out the work whose deadline is not after `now`, ready or not.
    pub fn expire(&mut self, now: Instant) -> Vec<(Key, T)> {
        let mut expired = Vec::new();
        for line in [&mut self.interactive, &mut self.bulk] {
            while let Some(first) = line.first_entry()
                && first.key().deadline <= now
            {
                let (key, entry) = first.remove_entry();
                expired.push((key, entry.work));
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) next finds something.
    pub fn next_deadline(&self) -> Option<Instant> {
        let first = |line: &BTreeMap<Key, Entry<T>>| line.first_key_value().map(|(key, _)| key.deadline);
        [first(&self.interactive), first(&self.bulk)].into_iter().flatten().min()
    }

    /// All work with its cost and whether it is ready, in no promised order.
    pub fn iter(&self) -> impl Iterator<Item = (&T, u64, bool)> {
        self.interactive.values().chain(self.bulk.values()).map(|entry| (&entry.work, entry.cost, entry.ready))
    }

    /// The work that would go before a newcomer of `priority` and `deadline`, with its cost; for bulk work, all that is
    /// interactive, although some of it may go later.
    pub fn ahead(&self, priority: Priority, deadline: Instant) -> impl Iterator<Item = (&T, u64)> {
        let newcomer = Key { priority, deadline, turn: self.turns };
        self.interactive
            .range(..newcomer)
            .chain(self.bulk.range(..newcomer))
            .map(|(_, entry)| (&entry.work, entry.cost))
    }

    /// Whether nothing waits, ready or not.
    pub fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty()
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> Vec<T> {
        let all =
            std::mem::take(&mut self.interactive).into_values().chain(std::mem::take(&mut self.bulk).into_values());
        all.map(|entry| entry.work).collect()
    }

    fn of(&self, priority: Priority) -> &BTreeMap<Key, Entry<T>> {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }

    fn of_mut(&mut self, priority: Priority) -> &mut BTreeMap<Key, Entry<T>> {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::Priority::{Bulk, Interactive};
    use super::*;

    fn take_next(line: &mut Line<u32>) -> Option<u32> {
        let (key, _) = line.next(|_| true)?;
        line.take(&key)
    }

    #[test]
    fn the_order_is_priority_then_deadline_then_turn() {
        let (now, mut line) = (Instant::now(), Line::default());
        let at = |seconds| now + Duration::from_secs(seconds);
        for (priority, deadline, name) in [
            (Bulk, at(1), 5),
            (Interactive, at(9), 3),
            (Interactive, at(2), 1),
            (Interactive, at(9), 4),
            (Interactive, at(3), 2),
        ] {
            line.insert(priority, deadline, 1, true, name);
        }
        let order: Vec<u32> = std::iter::from_fn(|| take_next(&mut line)).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_not_ready_keeps_its_turn() {
        let (now, mut line) = (Instant::now(), Line::default());
        let first = line.insert(Interactive, now, 16, false, 1);
        line.insert(Interactive, now, 1, true, 2);
        line.insert(Interactive, now, 1, true, 3);
        assert_eq!(take_next(&mut line), Some(2));
        assert!(line.make_ready(&first, 4, |work| *work = 10));
        assert_eq!(line.next(|_| true).map(|(_, cost)| cost), Some(4));
        assert_eq!(take_next(&mut line), Some(10));
        assert_eq!(take_next(&mut line), Some(3));
        assert!(!line.make_ready(&first, 4, |_| ()));
    }

    #[test]
    fn what_would_go_before_a_newcomer_is_ahead() {
        let (now, mut line) = (Instant::now(), Line::default());
        let at = |seconds| now + Duration::from_secs(seconds);
        for (priority, deadline, cost) in
            [(Interactive, at(1), 1), (Interactive, at(5), 10), (Bulk, at(1), 100), (Bulk, at(5), 1000)]
        {
            line.insert(priority, deadline, cost, true, ());
        }
        let cost = |priority, deadline| line.ahead(priority, deadline).map(|(_, cost)| cost).sum::<u64>();
        assert_eq!(cost(Interactive, at(0)), 0);
        assert_eq!(cost(Interactive, at(1)), 1);
        assert_eq!(cost(Interactive, at(9)), 11);
        assert_eq!(cost(Bulk, at(0)), 11);
        assert_eq!(cost(Bulk, at(5)), 1111);
    }

    #[test]
    fn idle_time_of_bulk_work_is_no_credit() {
        let (now, mut line) = (Instant::now(), Line::default());
        for _ in 0..1000 {
            line.insert(Interactive, now, 1, true, Interactive);
        }
        for _ in 0..500 {
            let (key, _) = line.next(|_| true).unwrap();
            line.take(&key);
        }
        for _ in 0..10 {
            line.insert(Bulk, now, 1, true, Bulk);
        }
        let first: Vec<Priority> = (0..7)
            .map(|_| {
                let (key, _) = line.next(|_| true).unwrap();
                line.take(&key).unwrap()
            })
            .collect();
        assert_eq!(first, [Interactive; 7]);
    }

    proptest! {
        /// However interactive work floods in, bulk work gets its share of the cost, and no more.
        #[test]
        fn bulk_gets_its_share_under_a_flood(costs in proptest::collection::vec((1u64..=16, 1u64..=16), 400)) {
            let (now, mut line) = (Instant::now(), Line::default());
            for &(interactive, bulk) in &costs {
                line.insert(Interactive, now, interactive, true, ());
                line.insert(Bulk, now, bulk, true, ());
            }
            let (mut gone, mut bulk_gone) = (0, 0);
            for _ in 0..300 {
                let Some((key, cost)) = line.next(|_| true) else { break };
                line.take(&key);
                gone += cost;
                bulk_gone += if key.priority == Bulk { cost } else { 0 };
            }
            // One item more or less than the exact share.
            prop_assert!((bulk_gone + 16) * BULK_SHARE >= gone, "{bulk_gone} of {gone}");
            prop_assert!(bulk_gone.saturating_sub(16) * BULK_SHARE <= gone, "{bulk_gone} of {gone}");
        }
    }
}
