//! The former between its callers' threads, the devices' threads and the thread that watches deadlines.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::former::{Batch, Former, Limits, Step};
use super::line::Key;
use super::{EngineError, Item, Order, Scored};
use crate::metrics;
use crate::model::Track;
use crate::trace::Parent;

/// One item with the way back to its caller.
pub(super) struct Waiting {
    pub item: Item,
    pub span: Parent,
    pub answer: oneshot::Sender<Result<Scored, EngineError>>,
}

/// What all threads of an engine share.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There may be a batch to form, or nothing more to come.
    work: Condvar,
    /// There may be an earlier deadline, or nothing more to come.
    deadlines: Condvar,
    /// Nothing new is taken.
    ending: watch::Sender<bool>,
    closed: watch::Sender<bool>,
    max_batch_frames: u32,
}

/// Who stands in line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Items that have a place, decoded or not.
    pub items: u64,
    /// Frames that they may have.
    pub frames: u64,
    /// How long the first that came has had its place; 0 where there is none.
    pub oldest: Duration,
}

struct State {
    former: Former<Waiting>,
    phase: Phase,
    /// Devices' threads that run, and of these the ones that wait for a batch.
    devices: u32,
    idle: u32,
}

#[derive(PartialEq)]
enum Phase {
    Open,
    Draining,
    Closed,
}

impl Queue {
    pub fn new(limits: Limits) -> Self {
        let state = State { former: Former::new(limits), phase: Phase::Open, devices: limits.devices, idle: 0 };
        let (work, deadlines) = (Condvar::new(), Condvar::new());
        let max_batch_frames = limits.max_batch_frames;
        let (ending, closed) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { state: Mutex::new(state), work, deadlines, ending, closed, max_batch_frames }
    }

    /// Gives `order` a place in line.
    pub fn reserve(&self, order: Order) -> Result<Key, EngineError> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(EngineError::Stopped);
        }
        let now = Instant::now();
        state.answer_expired(now);
        let earliest = state.former.next_deadline();
        let key = state.former.reserve(order, now).inspect_err(count_refusal)?;
        if state.former.next_deadline() != earliest {
            self.deadlines.notify_one();
        }
        Ok(key)
    }

    /// Lets the item whose place is `key` go to a device.
    pub fn submit(&self, key: &Key, waiting: Waiting) {
        let mut state = self.lock();
        let late = if state.phase == Phase::Closed {
            Some((waiting, EngineError::Stopped))
        } else {
            let frames = waiting.item.frames.count;
            let placed = state.former.make_ready(key, frames, waiting, Instant::now());
            placed.err().map(|waiting| (waiting, EngineError::Deadline))
        };
        drop(state);
        self.work.notify_all();
        if let Some((waiting, error)) = late {
            let _ = waiting.answer.send(Err(error));
        }
    }

    /// Forgets the item whose place is `key`, where it still waits.
    pub fn remove(&self, key: &Key) {
        let mut state = self.lock();
        let before = state.former.frames();
        let removed = state.former.remove(key);
        let has_left = state.former.frames() != before;
        drop(state);
        // Its caller's clock rang before that of the line.
        if removed.is_some() && key.deadline() <= Instant::now() {
            metrics::expired(1);
        }
        if has_left {
            // What it would have joined need not wait for it any longer.
            self.work.notify_all();
        }
        drop(removed);
    }

    /// The next batch, of at most `max_frames`, for a device that is free; waits for one. None when the queue has drained
    /// or closed.
    pub fn next_batch(&self, max_frames: u32) -> Option<Batch<Waiting>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.phase == Phase::Closed {
                return None;
            }
            state.answer_expired(now);
            let step = state.former.next(now, max_frames);
            state = match step {
                Step::Run(batch) => {
                    self.count(&batch);
                    return Some(batch);
                }
                Step::Wait if state.phase == Phase::Draining && state.former.is_empty() => return None,
                Step::Wait => idle(state, |state| self.work.wait(state).unwrap_or_else(PoisonError::into_inner)),
                Step::WaitUntil(due) => idle(state, |state| wait_until(&self.work, state, due, now)),
            };
        }
    }

    /// A full batch, of at most `max_frames`, for a device that will be free at `free`. Waits for none, and leaves it to
    /// another device that is free now.
    pub fn full_batch(&self, max_frames: u32, free: Instant) -> Option<Batch<Waiting>> {
        let mut state = self.lock();
        let now = Instant::now();
        if state.phase == Phase::Closed || state.idle > 0 {
            return None;
        }
        state.answer_expired(now);
        let batch = state.former.full(free.max(now), max_frames)?;
        self.count(&batch);
        Some(batch)
    }

    fn count(&self, batch: &Batch<Waiting>) {
        metrics::batch(batch.track.name(), batch.reason.name(), batch.frames, self.max_batch_frames);
    }

    /// Answers items whose deadlines pass while the devices are busy. Returns when the queue is closed.
    pub fn watch_deadlines(&self) {
        let mut state = self.lock();
        while state.phase != Phase::Closed {
            let now = Instant::now();
            if state.answer_expired(now) {
                self.work.notify_all();
            }
            state = match state.former.next_deadline() {
                Some(deadline) => wait_until(&self.deadlines, state, deadline, now),
                None => self.deadlines.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A device is done with a batch of `frames`, in `elapsed`.
    pub fn finish(&self, track: Track, frames: u32, elapsed: Duration) {
        let mut state = self.lock();
        state.former.finish(track, frames);
        state.former.record(track, frames, elapsed, Instant::now());
    }

    /// Learns from `frames` of `track` that were in no line, scored in `elapsed`.
    pub fn record(&self, track: Track, frames: u32, elapsed: Duration) {
        self.lock().former.record(track, frames, elapsed, Instant::now());
    }

    /// Takes no more items; those that have a place are still scored.
    pub fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        drop(state);
        self.work.notify_all();
        self.ending.send_replace(true);
    }

    /// A device's thread has ended. Where it was lost the others score what has a place, and nothing new is taken; with
    /// the last one the queue is closed.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.devices = state.devices.saturating_sub(1);
        let is_last = state.devices == 0;
        drop(state);
        if is_last { self.close() } else { self.drain() }
    }

    /// Takes and hands out nothing more; whoever waits is answered `Stopped`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        let abandoned = state.former.clear();
        drop(state);
        drop(abandoned);
        self.work.notify_all();
        self.deadlines.notify_all();
        self.ending.send_replace(true);
        self.closed.send_replace(true);
    }

    /// Who stands in line now.
    pub fn standing(&self) -> Standing {
        let state = self.lock();
        let now = Instant::now();
        let oldest = state.former.oldest().map(|since| now.saturating_duration_since(since)).unwrap_or_default();
        Standing { items: state.former.items() as u64, frames: state.former.frames(), oldest }
    }

    /// Resolves once nothing new is taken.
    pub async fn ending(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Resolves once the queue is closed.
    pub async fn closed(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there was one.
    fn answer_expired(&mut self, now: Instant) -> bool {
        let expired = self.former.expire(now);
        let any = !expired.is_empty();
        if any {
            metrics::expired(expired.len());
        }
        for waiting in expired {
            let _ = waiting.answer.send(Err(EngineError::Deadline));
        }
        any
    }
}

fn count_refusal(error: &EngineError) {
    match error {
        EngineError::QueueFull { .. } => metrics::refused("queue_full"),
        EngineError::ShareFull { .. } => metrics::refused("share_full"),
        EngineError::Hopeless { .. } => metrics::refused("hopeless"),
        _ => {}
    }
}

fn wait_until<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    until: Instant,
    now: Instant,
) -> MutexGuard<'a, State> {
    condition.wait_timeout(state, until.saturating_duration_since(now)).unwrap_or_else(PoisonError::into_inner).0
}

/// `state` after a device's thread has waited.
fn idle<'a>(
    mut state: MutexGuard<'a, State>,
    wait: impl FnOnce(MutexGuard<'a, State>) -> MutexGuard<'a, State>,
) -> MutexGuard<'a, State> {
    state.idle += 1;
    let mut state = wait(state);
    state.idle -= 1;
    state
}
