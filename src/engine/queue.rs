//! Items waiting for the device, by earliest deadline, counted in frames.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::{EngineError, Item, Scored};

/// Where an item stands: its deadline, then its turn.
pub(super) type Place = (Instant, u64);

type Answer = Result<Scored, EngineError>;

/// The shortest and longest wait that a refused caller is told.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// One item with the way back to its caller.
pub(super) struct Waiting {
    pub item: Item,
    pub since: Instant,
    pub answer: oneshot::Sender<Answer>,
}

/// The queue between callers and one device's thread.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit: u64,
    closed: watch::Sender<bool>,
}

struct State {
    waiting: BTreeMap<Place, Waiting>,
    frames: u64,
    turns: u64,
    phase: Phase,
    seconds_per_frame: Option<f64>,
}

#[derive(PartialEq)]
enum Phase {
    Open,
    Draining,
    Closed,
}

impl Queue {
    pub fn new(limit: u64) -> Self {
        let state =
            State { waiting: BTreeMap::new(), frames: 0, turns: 0, phase: Phase::Open, seconds_per_frame: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit, closed: watch::Sender::new(false) }
    }

    /// Adds `item` where the frame budget allows it.
    pub fn push(&self, item: Item) -> Result<(Place, oneshot::Receiver<Answer>), EngineError> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(EngineError::Stopped);
        }
        let frames = u64::from(item.frames.count);
        if state.frames + frames > self.limit {
            state.answer_expired(Instant::now());
        }
        if state.frames + frames > self.limit {
            let excess = state.frames + frames - self.limit;
            let retry_after = state.time_for(excess);
            return Err(EngineError::QueueFull { queued: state.frames, limit: self.limit, retry_after });
        }
        let (answer, receiver) = oneshot::channel();
        let place = (item.deadline, state.turns);
        state.turns += 1;
        state.frames += frames;
        state.waiting.insert(place, Waiting { item, since: Instant::now(), answer });
        drop(state);
        self.changed.notify_one();
        Ok((place, receiver))
    }

    /// Takes the most urgent item that is still worth its device time; waits for one. None when the queue has drained
    /// or closed.
    pub fn pop(&self) -> Option<Waiting> {
        let mut state = self.lock();
        loop {
            if state.phase == Phase::Closed {
                return None;
            }
            state.answer_expired(Instant::now());
            if let Some(waiting) = state.take_first() {
                return Some(waiting);
            }
            if state.phase == Phase::Draining {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Forgets the item at `place` where it still waits.
    pub fn remove(&self, place: Place) {
        let mut state = self.lock();
        let removed = state.take(place);
        drop(state);
        // Its frames are freed outside the lock.
        drop(removed);
    }

    /// Learns from `frames` scored in `elapsed`.
    pub fn record(&self, frames: u32, elapsed: Duration) {
        let measured = elapsed.as_secs_f64() / f64::from(frames.max(1));
        let mut state = self.lock();
        // A moving average over about the last five items.
        state.seconds_per_frame = Some(match state.seconds_per_frame {
            Some(known) => 0.8 * known + 0.2 * measured,
            None => measured,
        });
    }

    /// Takes no more items; those waiting are still handed out.
    pub fn drain(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Takes and hands out nothing more; whoever waits is answered `Stopped`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.frames = 0;
        let abandoned = std::mem::take(&mut state.waiting);
        drop(state);
        drop(abandoned);
        self.changed.notify_all();
        self.closed.send_replace(true);
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
    fn take(&mut self, place: Place) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        self.frames -= u64::from(waiting.item.frames.count);
        Some(waiting)
    }

    fn take_first(&mut self) -> Option<Waiting> {
        let place = *self.waiting.first_key_value()?.0;
        self.take(place)
    }

    fn answer_expired(&mut self, now: Instant) {
        while self.waiting.first_key_value().is_some_and(|((deadline, _), _)| *deadline <= now) {
            if let Some(expired) = self.take_first() {
                let _ = expired.answer.send(Err(EngineError::Deadline));
            }
        }
    }

    fn time_for(&self, frames: u64) -> Duration {
        let seconds = self.seconds_per_frame.unwrap_or(0.0) * frames as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER.1).clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }
}
