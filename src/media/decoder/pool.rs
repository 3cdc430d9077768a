//! A fixed number of places for workers, and the thread that starts the processes in them.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::process::{Process, START_TIMEOUT, Silence, TICK};
use super::{Cancel, DecoderConfig, MediaError};
use crate::metrics;

/// The free places; an empty one gets a process when it is next used.
#[derive(Debug)]
pub(super) struct Places {
    free: Mutex<Vec<Option<Process>>>,
    freed: Condvar,
    spawner: Sender<Sender<std::io::Result<Process>>>,
}

impl Places {
    /// Starts `config.workers` processes and waits for all of them.
    pub(super) fn start(config: DecoderConfig) -> Result<Self, MediaError> {
        let workers = config.workers;
        if workers == 0 {
            return Err(MediaError::Worker("at least one worker is needed".into()));
        }
        let (spawner, orders) = mpsc::channel();
        thread::Builder::new()
            .name("decoder-spawner".into())
            .spawn(move || spawn_on_order(&config, &orders))
            .map_err(|error| MediaError::Worker(format!("cannot start the spawner thread: {error}")))?;
        let places = Self { free: Mutex::new(Vec::with_capacity(workers)), freed: Condvar::new(), spawner };
        let begun = Instant::now();
        let fault = |silence: Silence| silence.error(begun, MediaError::Worker);
        let mut processes = (0..workers).map(|_| places.spawn()).collect::<Result<Vec<_>, _>>().map_err(fault)?;
        for process in &mut processes {
            process.wait_ready(Instant::now() + START_TIMEOUT, &Cancel::new()).map_err(fault)?;
        }
        places.lock().extend(processes.into_iter().map(Some));
        Ok(places)
    }

    /// A place of one's own until the guard is dropped.
    pub(super) fn take(&self, deadline: Instant, cancel: &Cancel) -> Result<Place<'_>, Silence> {
        let mut free = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::Deadline);
            }
            if cancel.is_cancelled() {
                return Err(Silence::Cancelled);
            }
            if let Some(process) = free.pop() {
                return Ok(Place { places: self, process });
            }
            free = self.freed.wait_timeout(free, left.min(TICK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn spawn(&self) -> Result<Process, Silence> {
        let (answer, process) = mpsc::channel();
        let gone = || Silence::Broken("the spawner thread has ended".into());
        self.spawner.send(answer).map_err(|_| gone())?;
        process
            .recv()
            .map_err(|_| gone())?
            .map_err(|error| Silence::Broken(format!("cannot start the decoder program: {error}")))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Process>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller's place in the pool.
pub(super) struct Place<'a> {
    places: &'a Places,
    process: Option<Process>,
}

impl Place<'_> {
    /// The process of this place, started anew where the last one is gone. One that is still loading when the caller
    /// leaves stays, so that callers who leave early do not keep the pool from ever starting.
    pub(super) fn process(&mut self, deadline: Instant, cancel: &Cancel) -> Result<&mut Process, Silence> {
        if let Some(process) = &mut self.process
            && !process.is_fit()
        {
            let reason = if process.is_worn() { "retired" } else { "broken" };
            self.discard(reason);
        }
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.places.spawn()?,
        };
        let ready = process.wait_ready(deadline, cancel);
        if matches!(ready, Err(Silence::Broken(_))) {
            metrics::decoder_restart("broken");
        } else {
            self.process = Some(process);
        }
        ready?;
        self.process.as_mut().ok_or_else(|| Silence::Broken("the process is gone".into()))
    }

    /// Kills the process for this reason; the next caller gets a new one.
    pub(super) fn discard(&mut self, reason: &'static str) {
        metrics::decoder_restart(reason);
        self.process = None;
    }

    /// Puts a new process in the place of this one; it loads while nobody waits for it.
    pub(super) fn renew(&mut self, reason: &'static str) {
        self.discard(reason);
        // Where it cannot be started, the next caller tries again and is told.
        self.process = self.places.spawn().ok();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.lock().push(self.process.take());
        self.places.freed.notify_one();
    }
}

/// Lives as long as the pool: the kernel ties a worker's life to the thread that started it, and the threads that call
/// the pool come and go.
fn spawn_on_order(config: &DecoderConfig, orders: &Receiver<Sender<std::io::Result<Process>>>) {
    for answer in orders {
        let _ = answer.send(Process::spawn(config));
    }
}
