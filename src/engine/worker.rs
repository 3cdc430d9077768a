//! The thread that owns a device.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use super::queue::{Queue, Waiting};
use super::{EngineConfig, EngineError, ModelFacts, Scored, Scorer};
use crate::media::{FrameStack, Frames};
use crate::model::{ModelError, Track};
use crate::text::TokenIds;

/// Failures in a row after which a device must score blank frames or counts as lost.
const LOST_AFTER: u32 = 2;

/// Loads, warms up, reports through `started`, then serves `queue` until it ends or the device is lost.
pub(super) fn run<S: Scorer>(
    load: impl FnOnce() -> Result<S, ModelError>,
    config: &EngineConfig,
    queue: &Arc<Queue>,
    started: &SyncSender<Result<ModelFacts, ModelError>>,
) {
    let _closing = CloseOnExit(queue.clone());
    tch::set_num_threads(i32::try_from(config.threads).unwrap_or(i32::MAX));
    let loaded = load().and_then(|device| warm_up(&device, config, queue).map(|()| device));
    let device = match loaded {
        Ok(device) => device,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(device.facts()));
    serve(&device, config, queue);
}

fn serve<S: Scorer>(device: &S, config: &EngineConfig, queue: &Queue) {
    let mut failures = 0;
    while let Some(waiting) = queue.pop() {
        let result = score(device, queue, &waiting);
        failures = if matches!(result, Err(ModelError::Device(_))) { failures + 1 } else { 0 };
        let _ = waiting.answer.send(result.map_err(|error| EngineError::Model(Arc::new(error))));
        if failures < LOST_AFTER {
            continue;
        }
        // The items may be at fault: blank ones are not.
        if let Err(error) = warm_up(device, config, queue) {
            tracing::error!(failures, %error, "the device failed repeatedly and is given up");
            return;
        }
        tracing::warn!(failures, "items failed in a row, the device still works");
        failures = 0;
    }
}

fn score<S: Scorer>(device: &S, queue: &Queue, waiting: &Waiting) -> Result<Scored, ModelError> {
    let begin = Instant::now();
    let item = &waiting.item;
    let scored = score_one(device, item.track, &item.prompt, &item.frames)?;
    queue.record(item.frames.count, begin.elapsed());
    Ok(Scored { queue: begin.duration_since(waiting.since), ..scored })
}

fn score_one<S: Scorer>(device: &S, track: Track, prompt: &TokenIds, frames: &Frames) -> Result<Scored, ModelError> {
    let begin = Instant::now();
    let embedding = device.encode_prompts(&[prompt])?;
    let text = begin.elapsed();
    let (scores, timings) = device.score(track, &[frames], &embedding)?;
    let score =
        scores.into_iter().next().ok_or_else(|| ModelError::Input("the batch came back empty".to_owned()))??;
    Ok(Scored { score, queue: Default::default(), text, vision: timings.vision, head: timings.head })
}

/// Scores blank frames once on every track that the bundle has.
fn warm_up<S: Scorer>(device: &S, config: &EngineConfig, queue: &Queue) -> Result<(), ModelError> {
    let facts = device.facts();
    for (track, count) in [(Track::Image, 1), (Track::Video, facts.manifest.max_frames)] {
        let sides = facts.sides(track);
        if sides.is_empty() {
            continue;
        }
        let begin = Instant::now();
        score_one(device, track, &config.warm_up_prompt, &blank(count, &sides))?;
        queue.record(count, begin.elapsed());
        tracing::debug!(?track, frames = count, ms = begin.elapsed().as_millis(), "warmed up");
    }
    Ok(())
}

fn blank(count: u32, sides: &[u32]) -> Frames {
    let bytes = |side: u32| count as usize * side as usize * side as usize * 3;
    let stacks = sides.iter().map(|&side| FrameStack { side, rgb: vec![0; bytes(side)] }).collect();
    Frames { count, stacks }
}

/// However the thread ends, by a panic too, nobody is left waiting.
struct CloseOnExit(Arc<Queue>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.close();
    }
}
