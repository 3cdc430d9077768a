//! Threads of our own that work off one line: by priority, callers in turn, then by deadline; bulk work has its share.
//!
//! Guarantees: what nobody waits for any more leaves the line at once, or is told to stop where it has begun; what is
//! too late is never begun; a panic costs the work that panicked, not its thread.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ahead::Ahead;
use crate::engine::{Key, Line, Pace};
use crate::media::Cancel;
use crate::server::call::Terms;

/// A fixed number of threads and the line before them. Dropping it lets the threads end after what they have begun.
pub(super) struct Pool<T> {
    shared: Arc<Shared<T>>,
}

/// A piece of work in line or begun: resolves to its result. Dropping it takes the work out of line, or cancels it.
#[must_use = "dropping a turn cancels its work"]
pub(super) struct Turn<T> {
    shared: Arc<Shared<T>>,
    key: Key,
    cancel: Cancel,
    answer: oneshot::Receiver<Result<T, Lost>>,
}

/// The line is so long that the work would not be done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong {
    /// Time until the work would be done.
    pub takes: Duration,
    /// Time until its deadline.
    pub left: Duration,
}

/// Why work has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// Its deadline passed before its turn came.
    #[error("the deadline passed before its turn came")]
    Late,
    /// It panicked with these words.
    #[error("panicked: {0}")]
    Panicked(String),
    /// The pool has ended.
    #[error("the pool has ended")]
    Ended,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    threads: usize,
}

struct State<T> {
    line: Line<Job<T>>,
    running: usize,
    pace: Pace,
    ended: bool,
}

struct Job<T> {
    work: Box<dyn FnOnce(&Cancel) -> T + Send>,
    cancel: Cancel,
    answer: oneshot::Sender<Result<T, Lost>>,
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `threads` threads called `name`.
    pub fn start(name: &str, threads: usize) -> io::Result<Self> {
        let state = State { line: Line::default(), running: 0, pace: Pace::default(), ended: false };
        let pool = Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), threads }) };
        for _ in 0..threads {
            let shared = pool.shared.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || shared.work_off())?;
        }
        Ok(pool)
    }

    /// Puts `work` in line, unless by what has been measured it could not be done by its deadline.
    pub fn enter(&self, terms: Terms, work: impl FnOnce(&Cancel) -> T + Send + 'static) -> Result<Turn<T>, TooLong> {
        let Terms { caller, priority, deadline, .. } = terms;
        let cancel = Cancel::new();
        let (answer, receiver) = oneshot::channel();
        let job = Job { work: Box::new(work), cancel: cancel.clone(), answer };
        let mut state = self.shared.lock();
        let waiting = state.line.ahead(caller, priority, deadline).len();
        let ahead = Ahead { waiting, running: state.running, threads: self.shared.threads };
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if let Some(takes) = state.pace.seconds(now).and_then(|seconds| ahead.time_to_finish(seconds))
            && takes > left
        {
            return Err(TooLong { takes, left });
        }
        let key = state.line.insert(caller, priority, deadline, 1, true, job);
        drop(state);
        self.shared.changed.notify_one();
        Ok(Turn { shared: self.shared.clone(), key, cancel, answer: receiver })
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let abandoned = state.line.clear();
        drop(state);
        drop(abandoned);
        self.shared.changed.notify_all();
    }
}

impl<T> Shared<T> {
    fn work_off(&self) {
        while let Some(Job { work, cancel, answer }) = self.next() {
            let begin = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| work(&cancel)));
            self.finished(begin.elapsed(), &cancel);
            // Whoever has gone away gets no answer.
            let _ = answer.send(result.map_err(|panic| Lost::Panicked(words_of(&*panic))));
        }
    }

    /// What to work on next; waits for it. None when the pool has ended.
    fn next(&self) -> Option<Job<T>> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            let late = state.line.expire(Instant::now());
            if !late.is_empty() {
                drop(state);
                late.into_iter().for_each(|(_, job)| drop(job.answer.send(Err(Lost::Late))));
                state = self.lock();
                continue;
            }
            if let Some((key, _)) = state.line.next(|_| true)
                && let Some(job) = state.line.take(&key)
            {
                state.running += 1;
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, elapsed: Duration, cancel: &Cancel) {
        let mut state = self.lock();
        state.running -= 1;
        if !cancel.is_cancelled() {
            state.pace.record(1, elapsed, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Future for Turn<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(Lost::Ended)))
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        self.cancel.cancel();
        let job = self.shared.lock().line.remove(&self.key);
        // What it holds is freed outside the lock.
        drop(job);
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no words").to_owned()
}

#[cfg(test)]
mod tests;
