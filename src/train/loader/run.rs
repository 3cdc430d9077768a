//! One pass over a list of batches: who does what next, and handing over in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::nice;

use super::{Loaded, Loader};
use crate::media::{Cancel, Frames};

/// By how much loading yields to what computes. The threads of an operation of libtorch wait for each other: one that is
/// kept off its core keeps all of them, while a decoder has time until the next batch.
const NICENESS: i32 = 10;

/// Batches as they are loaded, in order. Dropping it stops what is under way and waits for the threads.
pub struct Run {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    loader: Loader,
    batches: Vec<Vec<usize>>,
    seed: u64,
    cancel: Cancel,
    state: Mutex<State>,
    /// There may be something to do, or the end has come.
    work: Condvar,
    /// A batch may be complete.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    /// The batch that is handed over next.
    head: usize,
    /// The batch and the place in it that is begun next.
    next: (usize, usize),
    /// Batches that are begun, from `head` on. Empty batches are never among them.
    begun: VecDeque<Begun>,
    stopped: bool,
}

struct Begun {
    batch: usize,
    missing: usize,
    items: Vec<Option<Result<Frames, String>>>,
}

/// An item to load: its batch and its place there.
struct Job {
    batch: usize,
    place: usize,
    index: usize,
}

enum Claim {
    Job(Job),
    /// As much is prefetched as may be.
    Wait,
    Finished,
}

impl Run {
    pub(super) fn start(loader: Loader, batches: Vec<Vec<usize>>, seed: u64) -> Self {
        let threads = loader.threads;
        let shared = Arc::new(Shared {
            loader,
            batches,
            seed,
            cancel: Cancel::new(),
            state: Mutex::default(),
            work: Condvar::new(),
            ready: Condvar::new(),
        });
        let spawn = |number| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("loader-{number}")).spawn(move || shared.work_off())
        };
        // Where no thread can be started, the caller does the work.
        let threads = (0..threads).map_while(|number| spawn(number).ok()).collect();
        Self { shared, threads }
    }
}

impl Iterator for Run {
    type Item = Loaded;

    fn next(&mut self) -> Option<Loaded> {
        let begin = Instant::now();
        let shared = &*self.shared;
        let mut state = shared.lock();
        let head = state.head;
        let batch = shared.batches.get(head)?;
        while !batch.is_empty() && !state.is_complete(head) {
            if self.threads.is_empty() {
                drop(state);
                shared.work_once();
                state = shared.lock();
            } else {
                state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let items = match batch.is_empty() {
            true => Vec::new(),
            false => state.begun.pop_front().map_or_else(Vec::new, |begun| begun.items),
        };
        state.head += 1;
        drop(state);
        shared.work.notify_all();

        let mut loaded =
            Loaded { indices: Vec::new(), frames: Vec::new(), failed: Vec::new(), waited: begin.elapsed() };
        for (&index, item) in batch.iter().zip(items) {
            match item {
                Some(Ok(frames)) => {
                    loaded.indices.push(index);
                    loaded.frames.push(frames);
                }
                Some(Err(reason)) => loaded.failed.push((index, reason)),
                None => loaded.failed.push((index, "was not loaded".to_owned())),
            }
        }
        Some(loaded)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.shared.batches.len() - self.shared.lock().head;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Run {}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.cancel.cancel();
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of its own has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work_off(&self) {
        // Of this thread alone, on Linux. Where it is refused, loading is as urgent as the rest.
        let _ = nice(NICENESS);
        while let Some(job) = self.wait_for_job() {
            self.work_on(&job);
        }
    }

    /// Does one piece of work on the caller's thread.
    fn work_once(&self) {
        let claim = self.lock().claim(&self.batches, self.loader.prefetch);
        if let Claim::Job(job) = claim {
            self.work_on(&job);
        }
    }

    fn wait_for_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            match state.claim(&self.batches, self.loader.prefetch) {
                Claim::Job(job) => return Some(job),
                Claim::Finished => return None,
                Claim::Wait => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn work_on(&self, job: &Job) {
        let load = || self.loader.load(job.index, self.seed, &self.cancel);
        let result = catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_| Err(format!("item {}: the loader panicked", job.index)));
        self.lock().finish(job, result);
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What to do next, where no more than `window` batches are begun and not handed over.
    fn claim(&mut self, batches: &[Vec<usize>], window: usize) -> Claim {
        loop {
            let (number, place) = self.next;
            let Some(batch) = batches.get(number) else {
                return Claim::Finished;
            };
            let Some(&index) = batch.get(place) else {
                self.next = (number + 1, 0);
                continue;
            };
            if number >= self.head + window {
                return Claim::Wait;
            }
            if place == 0 {
                let items = batch.iter().map(|_| None).collect();
                self.begun.push_back(Begun { batch: number, missing: batch.len(), items });
            }
            self.next = (number, place + 1);
            return Claim::Job(Job { batch: number, place, index });
        }
    }

    fn finish(&mut self, job: &Job, result: Result<Frames, String>) {
        if let Some(begun) = self.begun.iter_mut().find(|begun| begun.batch == job.batch)
            && let Some(item) = begun.items.get_mut(job.place)
        {
            *item = Some(result);
            begun.missing -= 1;
        }
    }

    fn is_complete(&self, batch: usize) -> bool {
        self.begun.front().is_some_and(|begun| begun.batch == batch && begun.missing == 0)
    }
}
