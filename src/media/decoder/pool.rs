//! A fixed number of places for workers, and the thread that starts the processes in them.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::process::{Process, START_TIMEOUT, Silence};
use super::{DecoderConfig, MediaError};

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
        let mut processes = (0..workers).map(|_| places.spawn()).collect::<Result<Vec<_>, _>>()?;
        for process in &mut processes {
            make_ready(process, Instant::now() + START_TIMEOUT)?;
        }
        places.lock().extend(processes.into_iter().map(Some));
        Ok(places)
    }

    /// A place of one's own until the guard is dropped, or nothing when the deadline passes first.
    pub(super) fn take(&self, deadline: Instant) -> Option<Place<'_>> {
        let mut free = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if let Some(process) = free.pop() {
                return Some(Place { places: self, process });
            }
            free = self.freed.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn spawn(&self) -> Result<Process, MediaError> {
        let (answer, process) = mpsc::channel();
        let gone = || MediaError::Worker("the spawner thread has ended".into());
        self.spawner.send(answer).map_err(|_| gone())?;
        process
            .recv()
            .map_err(|_| gone())?
            .map_err(|error| MediaError::Worker(format!("cannot start the decoder program: {error}")))
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
    /// The process of this place, started anew where the last one is gone; `None` when the deadline comes first. A
    /// process that is still loading then stays, so that short deadlines do not keep the pool from ever starting.
    pub(super) fn process(&mut self, deadline: Instant) -> Result<Option<&mut Process>, MediaError> {
        if !self.process.as_mut().is_some_and(Process::is_fit) {
            self.process = None;
            self.process = Some(self.places.spawn()?);
        }
        let outcome = self.process.as_mut().map(|process| make_ready(process, deadline));
        match outcome {
            Some(Ok(())) => Ok(self.process.as_mut()),
            Some(Err(MediaError::Deadline { .. })) | None => Ok(None),
            Some(Err(error)) => {
                self.process = None;
                Err(error)
            }
        }
    }

    /// Kills the process; the next caller gets a new one.
    pub(super) fn discard(&mut self) {
        self.process = None;
    }

    /// Puts a new process in the place of this one; it loads while nobody waits for it.
    pub(super) fn renew(&mut self) {
        self.process = None;
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

fn make_ready(process: &mut Process, deadline: Instant) -> Result<(), MediaError> {
    let begun = Instant::now();
    process.wait_ready(deadline).map_err(|silence| match silence {
        Silence::Deadline => MediaError::Deadline { waited: begun.elapsed() },
        Silence::Broken(reason) => MediaError::Worker(reason),
    })
}

/// Lives as long as the pool: the kernel ties a worker's life to the thread that started it, and the threads that call
/// the pool come and go.
fn spawn_on_order(config: &DecoderConfig, orders: &Receiver<Sender<std::io::Result<Process>>>) {
    for answer in orders {
        let _ = answer.send(Process::spawn(config));
    }
}
