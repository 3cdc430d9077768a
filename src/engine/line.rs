//! Work that waits, in the order in which it goes: what somebody waits for before what can wait; within a priority the
//! callers take turns by what their work costs, so that a flood delays mostly itself; within a caller, and between callers
//! that have had as much, the earliest deadline first. Pure: no threads, no clock.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Caller;

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
    caller: Caller,
}

impl Key {
    /// When the work is of no more use.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Waiting work of both priorities.
#[derive(Debug)]
pub struct Line<T> {
    interactive: Lane<T>,
    bulk: Lane<T>,
    turns: u64,
    /// Cost of the interactive work that has gone ahead of bulk work which was ready.
    owed_to_bulk: u64,
}

/// Work of one priority, by start-time fair queueing (Goyal, Vin and Cheng, 1996): every caller that has work here has
/// an account of what it has had, and the one that has had least is next. Who comes anew starts at what the last one
/// served had had.
#[derive(Debug)]
struct Lane<T> {
    callers: HashMap<Caller, Account<T>>,
    served: u64,
}

#[derive(Debug)]
struct Account<T> {
    work: BTreeMap<Key, Entry<T>>,
    served: u64,
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
        Self { interactive: Lane::default(), bulk: Lane::default(), turns: 0, owed_to_bulk: 0 }
    }
}

impl<T> Line<T> {
    /// Adds work that costs `cost` (frames, or 1 for each piece), at least 1. What is not `ready` keeps its turn until
    /// [`make_ready`](Self::make_ready).
    pub fn insert(
        &mut self,
        caller: Caller,
        priority: Priority,
        deadline: Instant,
        cost: u64,
        ready: bool,
        work: T,
    ) -> Key {
        let key = Key { priority, deadline, turn: self.turns, caller };
        self.turns += 1;
        self.lane_mut(priority).insert(key, Entry { work, cost, ready });
        key
    }

    /// Lets the work at `key` go, at a cost that is known better now. False where it is not in line any more.
    pub fn make_ready(&mut self, key: &Key, cost: u64, update: impl FnOnce(&mut T)) -> bool {
        let account = self.lane_mut(key.priority).callers.get_mut(&key.caller);
        let Some(entry) = account.and_then(|account| account.work.get_mut(key)) else { return false };
        entry.ready = true;
        entry.cost = cost;
        update(&mut entry.work);
        true
    }

    /// The work at `key`.
    pub fn get(&self, key: &Key) -> Option<&T> {
        let account = self.lane(key.priority).callers.get(&key.caller)?;
        account.work.get(key).map(|entry| &entry.work)
    }

    /// What goes next among the ready work that is `wanted`, and its cost.
    pub fn next(&self, wanted: impl Fn(&T) -> bool) -> Option<(Key, u64)> {
        let (interactive, bulk) = (self.interactive.next(&wanted), self.bulk.next(&wanted));
        match (interactive, bulk) {
            (Some(_), Some((_, cost))) if self.owed_to_bulk >= (BULK_SHARE - 1) * cost => bulk,
            (None, bulk) => bulk,
            (interactive, _) => interactive,
        }
    }

    /// Takes the work at `key` to do it.
    pub fn take(&mut self, key: &Key) -> Option<T> {
        let entry = self.lane_mut(key.priority).serve(key)?;
        match key.priority {
            Priority::Interactive if self.bulk.iter().any(|entry| entry.ready) => self.owed_to_bulk += entry.cost,
            Priority::Interactive => self.owed_to_bulk = 0,
            Priority::Bulk => self.owed_to_bulk = self.owed_to_bulk.saturating_sub((BULK_SHARE - 1) * entry.cost),
        }
        Some(entry.work)
    }

    /// Takes the work at `key` out because nobody wants it any more.
    pub fn remove(&mut self, key: &Key) -> Option<T> {
        self.lane_mut(key.priority).remove(key).map(|entry| entry.work)
    }

    /// Takes out the work whose deadline is not after `now`, ready or not.
    pub fn expire(&mut self, now: Instant) -> Vec<(Key, T)> {
        let mut expired = Vec::new();
        for lane in [&mut self.interactive, &mut self.bulk] {
            while let Some(key) = lane.most_urgent().filter(|key| key.deadline <= now)
                && let Some(entry) = lane.remove(&key)
            {
                expired.push((key, entry.work));
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) next finds something.
    pub fn next_deadline(&self) -> Option<Instant> {
        let lanes = [&self.interactive, &self.bulk].into_iter();
        lanes.filter_map(Lane::most_urgent).map(|key| key.deadline).min()
    }

    /// All work with its cost and whether it is ready, in no promised order.
    pub fn iter(&self) -> impl Iterator<Item = (&T, u64, bool)> {
        self.interactive.iter().chain(self.bulk.iter()).map(|entry| (&entry.work, entry.cost, entry.ready))
    }

    /// The work that would go before a newcomer, with its cost, if all of it were ready; for bulk work, all that is
    /// interactive, although some of it may go later.
    pub fn ahead(&self, caller: Caller, priority: Priority, deadline: Instant) -> Vec<(&T, u64)> {
        let newcomer = Key { priority, deadline, turn: self.turns, caller };
        let mut ahead = Vec::new();
        if priority == Priority::Bulk {
            ahead.extend(self.interactive.iter().map(|entry| (&entry.work, entry.cost)));
        }
        self.lane(priority).ahead(newcomer, &mut ahead);
        ahead
    }

    /// Whether nothing waits, ready or not.
    pub fn is_empty(&self) -> bool {
        self.interactive.callers.is_empty() && self.bulk.callers.is_empty()
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> Vec<T> {
        let lanes = [std::mem::take(&mut self.interactive), std::mem::take(&mut self.bulk)];
        let accounts = lanes.into_iter().flat_map(|lane| lane.callers.into_values());
        accounts.flat_map(|account| account.work.into_values()).map(|entry| entry.work).collect()
    }

    fn lane(&self, priority: Priority) -> &Lane<T> {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
        }
    }

    fn lane_mut(&mut self, priority: Priority) -> &mut Lane<T> {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { callers: HashMap::new(), served: 0 }
    }
}

impl<T> Lane<T> {
    fn insert(&mut self, key: Key, entry: Entry<T>) {
        let served = self.served;
        let account = self.callers.entry(key.caller).or_insert_with(|| Account { work: BTreeMap::new(), served });
        account.work.insert(key, entry);
    }

    fn next(&self, wanted: impl Fn(&T) -> bool) -> Option<(Key, u64)> {
        let goes = |(_, entry): &(&Key, &Entry<T>)| entry.ready && wanted(&entry.work);
        let first = |account: &Account<T>| account.work.iter().find(goes).map(|(key, entry)| (*key, entry.cost));
        let candidates = self.callers.values().filter_map(|account| Some((account.served, first(account)?)));
        candidates.min_by_key(|(served, (key, _))| (*served, *key)).map(|(_, candidate)| candidate)
    }

    fn serve(&mut self, key: &Key) -> Option<Entry<T>> {
        let account = self.callers.get_mut(&key.caller)?;
        let had = account.served;
        account.served += account.work.get(key)?.cost;
        self.served = self.served.max(had);
        self.remove(key)
    }

    fn remove(&mut self, key: &Key) -> Option<Entry<T>> {
        let account = self.callers.get_mut(&key.caller)?;
        let entry = account.work.remove(key);
        if account.work.is_empty() {
            self.callers.remove(&key.caller);
        }
        entry
    }

    fn most_urgent(&self) -> Option<Key> {
        self.callers.values().filter_map(|account| account.work.keys().next().copied()).min()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.callers.values().flat_map(|account| account.work.values())
    }

    /// Adds what goes before `newcomer`: of its caller what is more urgent, and of every other caller what begins before
    /// that caller has had as much as the newcomer's will have had.
    fn ahead<'a>(&'a self, newcomer: Key, ahead: &mut Vec<(&'a T, u64)>) {
        let mut turn = self.served;
        if let Some(own) = self.callers.get(&newcomer.caller) {
            let before = own.work.range(..newcomer);
            turn = own.served + before.clone().map(|(_, entry)| entry.cost).sum::<u64>();
            ahead.extend(before.map(|(_, entry)| (&entry.work, entry.cost)));
        }
        for (_, other) in self.callers.iter().filter(|(caller, _)| **caller != newcomer.caller) {
            let mut served = other.served;
            for (key, entry) in &other.work {
                if (served, *key) >= (turn, newcomer) {
                    break;
                }
                served += entry.cost;
                ahead.push((&entry.work, entry.cost));
            }
        }
    }
}
