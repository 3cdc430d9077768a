//! Items in, scores out: the line before the devices and the threads that own them. No gRPC types, no HTTP, no file
//! formats.
//!
//! One operating-system thread owns every tensor of its device: libtorch's memory grows with each thread that computes,
//! and tensors are not to be shared. Several devices take their batches from one line. It is counted in frames and
//! ordered by priority, callers in turn, and deadline (`line`); a batch is formed when a device is free (`former`), or a
//! full one shortly before that (`ahead`); what is cancelled or too late leaves the line at once and never costs device
//! time.

mod ahead;
mod budget;
mod former;
mod line;
mod memory;
mod pace;
mod queue;
mod scorer;
mod text_cache;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use self::budget::{Budget, Caller, Refusal};
use self::former::Limits;
pub use self::line::{BULK_SHARE, Key, Line, Priority};
pub use self::memory::Memory;
pub use self::pace::Pace;
pub use self::queue::Standing;
use self::queue::{Queue, Waiting};
pub use self::scorer::{ModelFacts, Scorer};
use crate::media::Frames;
use crate::model::{EnsembleScore, LoadOptions, ModelError, Track};
use crate::text::TokenIds;
use crate::trace::Parent;

/// An item as it stands in line, before its frames are known.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Who asks.
    pub caller: Caller,
    /// Which experts.
    pub track: Track,
    /// What goes first.
    pub priority: Priority,
    /// Most frames that it may have.
    pub frames: u32,
    /// When the answer is of no more use.
    pub deadline: Instant,
    /// What the span of its batch points at.
    pub span: Parent,
}

/// What goes to a device.
#[derive(Debug)]
struct Item {
    prompt: TokenIds,
    /// The frames at every side that the track's experts take.
    frames: Frames,
}

/// A scored item.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The score.
    pub score: EnsembleScore,
    /// From submission to the start of its batch.
    pub queue: Duration,
    /// When its batch started.
    pub begun: Instant,
    /// Prompt embedding, of the whole batch.
    pub text: Duration,
    /// Backbones, of the whole batch.
    pub vision: Duration,
    /// Heads and Eq. 4, of the whole batch.
    pub head: Duration,
    /// Frames of the batch.
    pub batch_frames: u32,
    /// The batch's span.
    pub batch: Parent,
}

/// Why there is no score.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The queue's frame budget is spent.
    #[error("{queued} frames are queued, the limit is {limit}")]
    QueueFull {
        /// Frames waiting.
        queued: u64,
        /// Frames allowed.
        limit: u64,
        /// When there will be room, from the measured rate.
        retry_after: Duration,
    },
    /// The caller has as many frames waiting as it leaves free.
    #[error("{held} frames of this caller are queued, it may have as many as are free, {free}")]
    ShareFull {
        /// Frames of this caller that wait.
        held: u64,
        /// Frames that are free.
        free: u64,
        /// When there will be room, from the measured rate.
        retry_after: Duration,
    },
    /// With what is ahead it takes longer than the deadline allows.
    #[error("after what is ahead it would take {:.3} s, the deadline is in {:.3} s", wait.as_secs_f64(), left.as_secs_f64())]
    Hopeless {
        /// Expected time until it is scored, from the measured rate.
        wait: Duration,
        /// Time to the deadline.
        left: Duration,
    },
    /// The item does not fit into one batch, or has more frames than it reserved.
    #[error("the item has {frames} frames, the limit is {limit}")]
    TooLarge {
        /// Frames of the item.
        frames: u32,
        /// Frames allowed.
        limit: u32,
    },
    /// The deadline passed before the item reached the device.
    #[error("the deadline passed while waiting for the device")]
    Deadline,
    /// The engine is shutting down or its device is lost.
    #[error("the engine has stopped")]
    Stopped,
    /// The network failed on this item.
    #[error("{0}")]
    Model(Arc<ModelError>),
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bundle could not be loaded or the warm-up failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The bundle scores more frames of a video than the engine takes.
    #[error("the bundle scores up to {frames} frames of a video, {setting} is {limit}")]
    Budget {
        /// Frames of the bundle's largest item.
        frames: u32,
        /// The setting that is too small.
        setting: &'static str,
        /// Its value.
        limit: u64,
    },
    /// There is nothing to score on.
    #[error("no device was given")]
    NoDevice,
    /// The operating system gave no thread.
    #[error("the device's thread did not start: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread panicked before it was ready.
    #[error("the device's thread panicked while loading")]
    Panicked,
}

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most frames that may have a place in line.
    pub max_queue_frames: u64,
    /// Most frames that a device takes at once.
    pub max_batch_frames: u32,
    /// How long a free device waits at most for a batch to fill. It waits only while something that has a place could
    /// join.
    pub max_queue_delay: Duration,
    /// Most bytes of prompt embeddings that are kept on each device.
    pub text_cache_bytes: u64,
    /// CPU threads of one operation.
    pub threads: usize,
    /// Any prompt of the bundle's tokenizer: the warm-up scores blank frames for it.
    pub warm_up_prompt: TokenIds,
}

/// The line and the devices behind it.
pub struct Engine {
    queue: Closing,
    facts: ModelFacts,
    devices: Vec<LoadOptions>,
}

impl Engine {
    /// Loads the model on every device's own thread, scores one blank item of every track so that the first request is
    /// as fast as the thousandth, and starts to serve. `loads` has one loader per device. Blocks until all are ready.
    pub fn start<S: Scorer, L>(loads: Vec<L>, config: EngineConfig) -> Result<Self, StartError>
    where
        L: FnOnce() -> Result<S, ModelError> + Send + 'static,
    {
        let EngineConfig { max_queue_frames, max_batch_frames, max_queue_delay, .. } = config;
        let devices = u32::try_from(loads.len()).unwrap_or(u32::MAX);
        let limits = Limits { max_queue_frames, max_batch_frames, max_queue_delay, devices };
        let queue = Arc::new(Queue::new(limits));
        let closing = Closing(queue.clone());
        let mut starts = Vec::with_capacity(loads.len());
        for (index, load) in loads.into_iter().enumerate() {
            let (started, start) = mpsc::sync_channel(1);
            let (queue, config) = (queue.clone(), config.clone());
            let run = move || worker::run(load, &config, &queue, &started);
            thread::Builder::new().name(format!("device-{index}")).spawn(run)?;
            starts.push(start);
        }
        let ready: Result<Vec<ModelFacts>, StartError> =
            starts.into_iter().map(|start| Ok(start.recv().map_err(|_| StartError::Panicked)??)).collect();
        let mut ready = ready?;
        let devices = ready.iter().map(|facts| facts.options).collect();
        let facts = ready.pop().ok_or(StartError::NoDevice)?;
        thread::Builder::new().name("deadlines".to_owned()).spawn(move || queue.watch_deadlines())?;
        let engine = Self { queue: closing, facts, devices };
        engine.check_budget("max_batch_frames", max_batch_frames.into())?;
        engine.check_budget("max_queue_frames", max_queue_frames)?;
        Ok(engine)
    }

    /// What is served.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Gives `order` its place in line, before its media is decoded. Dropping the reservation gives it back.
    pub fn reserve(&self, order: Order) -> Result<Reservation, EngineError> {
        let key = self.queue.0.reserve(order)?;
        let place = Place { queue: self.queue.0.clone(), key };
        Ok(Reservation { place, frames: order.frames, span: order.span })
    }

    /// Who stands in line now.
    pub fn standing(&self) -> Standing {
        self.queue.0.standing()
    }

    /// Memory of the devices by name, each once, where it can be found out.
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        let of = |options: &LoadOptions| Some((options.device_name(), Memory::of(options.device)?));
        self.devices.iter().filter_map(of).collect()
    }

    /// Resolves when no more items are taken: after [`stop`](Self::stop), or because a device was lost, of which the
    /// others still score what has a place.
    pub async fn ending(&self) {
        self.queue.0.ending().await;
    }

    /// Resolves when the devices' threads have ended: after [`stop`](Self::stop), or because one panicked or its device
    /// failed repeatedly.
    pub async fn ended(&self) {
        self.queue.0.closed().await;
    }

    /// Takes no more items; those that have a place are still answered, then the devices' threads end.
    pub fn stop(&self) {
        self.queue.0.drain();
    }

    fn check_budget(&self, setting: &'static str, limit: u64) -> Result<(), StartError> {
        let frames = self.facts.manifest.max_frames;
        if u64::from(frames) > limit {
            return Err(StartError::Budget { frames, setting, limit });
        }
        Ok(())
    }
}

/// Lets the threads end after the batches that they are working on; everybody else is answered `Stopped`.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A place in line for frames that are being decoded.
#[must_use = "dropping a reservation gives its place back"]
pub struct Reservation {
    place: Place,
    frames: u32,
    span: Parent,
}

impl Reservation {
    /// Lets the item go to a device, with at most as many frames as were reserved.
    pub fn submit(self, prompt: TokenIds, frames: Frames) -> Ticket {
        let (sender, answer) = oneshot::channel();
        if frames.count > self.frames {
            let _ = sender.send(Err(EngineError::TooLarge { frames: frames.count, limit: self.frames }));
        } else {
            let waiting = Waiting { item: Item { prompt, frames }, span: self.span, answer: sender };
            self.place.queue.submit(&self.place.key, waiting);
        }
        Ticket { _place: self.place, answer }
    }
}

/// An item that waits for its score; resolves to it. Dropping the ticket cancels the item.
#[must_use = "dropping a ticket cancels its item"]
pub struct Ticket {
    _place: Place,
    answer: oneshot::Receiver<Result<Scored, EngineError>>,
}

impl Future for Ticket {
    type Output = Result<Scored, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(EngineError::Stopped)))
    }
}

/// A place in line, free again when dropped.
struct Place {
    queue: Arc<Queue>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.remove(&self.key);
    }
}
