//! Items in, scores out: the queue before the devices and the threads that own them. No gRPC types, no HTTP, no file
//! formats.
//!
//! One operating-system thread owns every tensor of its device: libtorch's memory grows with each thread that computes,
//! and tensors are not to be shared. Callers reach it through a queue that is counted in frames and served by earliest
//! deadline; what is cancelled or too late leaves the queue and never costs device time.

mod queue;
mod scorer;
mod worker;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::media::Frames;
use crate::model::{EnsembleScore, ModelError, Track};
use crate::text::TokenIds;
use queue::{Place, Queue};
pub use scorer::{ModelFacts, Scorer};

/// What the engine scores.
#[derive(Debug)]
pub struct Item {
    /// Which experts.
    pub track: Track,
    /// The prompt.
    pub prompt: TokenIds,
    /// The frames at every side that the track's experts take.
    pub frames: Frames,
    /// When the answer is of no more use.
    pub deadline: Instant,
}

/// A scored item.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The score.
    pub score: EnsembleScore,
    /// Waiting for the device.
    pub queue: Duration,
    /// Prompt embedding.
    pub text: Duration,
    /// Backbones.
    pub vision: Duration,
    /// Heads and Eq. 4.
    pub head: Duration,
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
    /// The item does not fit into one batch.
    #[error("the item has {frames} frames, a batch holds {limit}")]
    TooLarge {
        /// Frames of the item.
        frames: u32,
        /// Frames of the largest batch.
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
    /// Most frames that may wait for the device.
    pub max_queue_frames: u64,
    /// Most frames that the device takes at once.
    pub max_batch_frames: u32,
    /// CPU threads of one operation.
    pub threads: usize,
    /// Any prompt of the bundle's tokenizer: the warm-up scores blank frames for it.
    pub warm_up_prompt: TokenIds,
}

/// The queue and the device behind it.
pub struct Engine {
    queue: Arc<Queue>,
    facts: ModelFacts,
    max_batch_frames: u32,
}

impl Engine {
    /// Loads the model on the device's own thread, scores one blank item of every track so that the first request is
    /// as fast as the thousandth, and starts to serve. Blocks until ready.
    pub fn start<S: Scorer>(
        load: impl FnOnce() -> Result<S, ModelError> + Send + 'static,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        let max_batch_frames = config.max_batch_frames;
        let max_queue_frames = config.max_queue_frames;
        let queue = Arc::new(Queue::new(max_queue_frames));
        let (started, start) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("device".to_owned()).spawn({
            let queue = queue.clone();
            move || worker::run(load, &config, &queue, &started)
        })?;
        let facts = start.recv().map_err(|_| StartError::Panicked)??;
        let engine = Self { queue, facts, max_batch_frames };
        engine.check_budget("max_batch_frames", max_batch_frames.into())?;
        engine.check_budget("max_queue_frames", max_queue_frames)?;
        Ok(engine)
    }

    /// What is served.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Puts `item` into the queue. The ticket resolves to its score; dropping the ticket cancels the item.
    pub fn submit(&self, item: Item) -> Result<Ticket, EngineError> {
        if item.frames.count > self.max_batch_frames {
            return Err(EngineError::TooLarge { frames: item.frames.count, limit: self.max_batch_frames });
        }
        let (place, answer) = self.queue.push(item)?;
        Ok(Ticket { queue: self.queue.clone(), place, answer })
    }

    /// Resolves when the device's thread has ended: after [`stop`](Self::stop), or because it panicked or its device
    /// failed repeatedly.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Takes no more items; those in the queue are still answered, then the device's thread ends.
    pub fn stop(&self) {
        self.queue.drain();
    }

    fn check_budget(&self, setting: &'static str, limit: u64) -> Result<(), StartError> {
        let frames = self.facts.manifest.max_frames;
        if u64::from(frames) > limit {
            return Err(StartError::Budget { frames, setting, limit });
        }
        Ok(())
    }
}

impl Drop for Engine {
    /// Lets the thread end after the item that it is working on; everybody else is answered `Stopped`.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// A place in the queue: resolves to the item's score.
#[must_use = "dropping a ticket cancels its item"]
pub struct Ticket {
    queue: Arc<Queue>,
    place: Place,
    answer: oneshot::Receiver<Result<Scored, EngineError>>,
}

impl Future for Ticket {
    type Output = Result<Scored, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(EngineError::Stopped)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.remove(self.place);
    }
}
