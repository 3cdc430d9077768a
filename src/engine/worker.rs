//! The thread that owns a device.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::former::Batch;
use super::queue::{Queue, Waiting};
use super::text_cache::TextCache;
use super::{EngineConfig, EngineError, Item, ModelFacts, Scored, Scorer};
use crate::media::{FrameStack, Frames};
use crate::metrics;
use crate::model::{Fault, ModelError, Track};
use crate::native::InferenceMode;
use crate::text::TokenIds;
use crate::trace::{Parent, Span};

/// Batches in a row of which nothing was scored, after which a device must score blank frames or counts as lost.
const LOST_AFTER: u32 = 2;

/// Loads, warms up, reports through `started`, then serves `queue` until it ends or the device is lost.
pub(super) fn run<S: Scorer>(
    load: impl FnOnce() -> Result<S, ModelError>,
    config: &EngineConfig,
    queue: &Arc<Queue>,
    started: &SyncSender<Result<ModelFacts, ModelError>>,
) {
    let _leaving = LeaveOnExit(queue.clone());
    tch::set_num_threads(i32::try_from(config.threads).unwrap_or(i32::MAX));
    let _mode = InferenceMode::enter().inspect_err(|error| tracing::warn!(%error, "autograd stays on")).ok();
    let loaded = load().and_then(|scorer| {
        let mut device = Device::new(scorer, config, queue);
        device.warm_up().map(|()| device)
    });
    match loaded {
        Ok(mut device) => {
            metrics::device_known(&device.name);
            let _ = started.send(Ok(device.scorer.facts()));
            device.serve();
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

struct Device<'a, S: Scorer> {
    /// As metrics name it.
    name: Arc<str>,
    scorer: S,
    texts: TextCache<S::Text>,
    config: &'a EngineConfig,
    queue: &'a Queue,
    /// Most frames of a batch: as many as are asked for, fewer once memory did not suffice.
    max_frames: u32,
    /// It will never answer again.
    is_lost: bool,
}

type Answers = Vec<Result<Scored, EngineError>>;

impl<'a, S: Scorer> Device<'a, S> {
    fn new(scorer: S, config: &'a EngineConfig, queue: &'a Queue) -> Self {
        let facts = scorer.facts();
        let texts = TextCache::new(config.text_cache_bytes, facts.embedding_bytes());
        let (name, max_frames) = (facts.options.device_name().into(), config.max_batch_frames);
        Self { name, scorer, texts, config, queue, max_frames, is_lost: false }
    }

    fn serve(&mut self) {
        let mut failures = 0;
        while let Some(batch) = self.queue.next_batch(self.max_frames) {
            let has_failed = self.answer(batch);
            if self.is_lost {
                return;
            }
            failures = if has_failed { failures + 1 } else { 0 };
            if failures < LOST_AFTER {
                continue;
            }
            // The items may be at fault: blank ones are not.
            if let Err(error) = self.warm_up() {
                tracing::error!(failures, %error, "the device failed repeatedly and is given up");
                return;
            }
            tracing::warn!(failures, "batches failed in a row, the device still works");
            failures = 0;
        }
    }

    /// Scores `batch` and answers its items; whether the device failed on every one of them.
    fn answer(&mut self, batch: Batch<Waiting>) -> bool {
        let Batch { track, frames, items, reason } = batch;
        let begin = Instant::now();
        let mut span = Span::of_all(items.iter().map(|(_, waiting)| waiting.span), "batch", begin);
        span.set("pcqa.track", track.name());
        span.set("pcqa.reason", reason.name());
        span.set("pcqa.items", items.len() as i64);
        span.set("pcqa.frames", i64::from(frames));
        span.set("pcqa.device", self.name.clone());
        let parts: Vec<&Item> = items.iter().map(|(_, waiting)| &waiting.item).collect();
        let answers = self.score(track, &parts, begin);
        let elapsed = begin.elapsed();
        self.queue.record(track, frames, elapsed);
        metrics::device_busy(&self.name, elapsed);
        let batch = span.parent();
        let is_fault = |answer: &Result<_, _>| matches!(answer, Err(EngineError::Model(error)) if matches!(**error, ModelError::Device(_)));
        let has_failed = answers.iter().all(is_fault);
        if has_failed {
            span.fail("Internal");
        }
        span.end(begin + elapsed);
        for ((since, waiting), answer) in items.into_iter().zip(answers) {
            let answer = answer.map(|scored| Scored { queue: scored.queue + (begin - since), batch, ..scored });
            let _ = waiting.answer.send(answer);
        }
        has_failed
    }

    /// One answer per item. A batch that fails is tried again in halves: it may have been too large for the device's
    /// memory, which later ones then spare, or one of its items may be at fault, which then fails alone.
    fn score(&mut self, track: Track, items: &[&Item], begin: Instant) -> Answers {
        let stopped = || items.iter().map(|_| Err(EngineError::Stopped)).collect();
        if self.is_lost {
            return stopped();
        }
        let error = match self.score_batch(track, items, begin.elapsed()) {
            Ok(answers) => return answers,
            Err(error) => error,
        };
        match self.scorer.diagnose(&error) {
            Fault::Batch => {}
            Fault::Memory => self.spare_memory(items.iter().map(|item| item.frames.count).sum()),
            Fault::Lost => {
                tracing::error!(device = &*self.name, %error, "the device is lost");
                self.is_lost = true;
                return stopped();
            }
        }
        if items.len() < 2 {
            let error = Arc::new(error);
            return items.iter().map(|_| Err(EngineError::Model(error.clone()))).collect();
        }
        tracing::warn!(items = items.len(), %error, "a batch failed and is tried again in halves");
        let (first, second) = items.split_at(items.len() / 2);
        let mut answers = self.score(track, first, begin);
        answers.extend(self.score(track, second, begin));
        answers
    }

    /// `queue` is the time that the items have waited since their batch was taken.
    fn score_batch(&mut self, track: Track, items: &[&Item], queue: Duration) -> Result<Answers, ModelError> {
        let begin = Instant::now();
        let prompts: Vec<&TokenIds> = items.iter().map(|item| &item.prompt).collect();
        let texts = self.embeddings(&prompts)?;
        let text = begin.elapsed();
        let frames: Vec<&Frames> = items.iter().map(|item| &item.frames).collect();
        let texts: Vec<&S::Text> = texts.iter().map(Rc::as_ref).collect();
        let (scores, timings) = self.scorer.score(track, &frames, &texts)?;
        if scores.len() != items.len() {
            return Err(ModelError::Input(format!("{} items came back as {} scores", items.len(), scores.len())));
        }
        let batch_frames = frames.iter().map(|frames| frames.count).sum();
        let (vision, head) = (timings.vision, timings.head);
        let answer = |score| match score {
            Ok(score) => {
                Ok(Scored { score, queue, begun: begin, text, vision, head, batch_frames, batch: Parent::default() })
            }
            Err(error) => Err(EngineError::Model(Arc::new(error))),
        };
        Ok(scores.into_iter().map(answer).collect())
    }

    /// The embedding of every one of `prompts`; the towers see each distinct one that is not in the cache once.
    fn embeddings(&mut self, prompts: &[&TokenIds]) -> Result<Vec<Rc<S::Text>>, ModelError> {
        let mut found: Vec<Option<Rc<S::Text>>> = prompts.iter().map(|prompt| self.texts.get(&prompt.ids)).collect();
        let mut distinct: Vec<&TokenIds> = Vec::new();
        let mut missing: Vec<&TokenIds> = Vec::new();
        for (prompt, found) in prompts.iter().zip(&found) {
            if !distinct.iter().any(|known| known.ids == prompt.ids) {
                distinct.push(prompt);
                missing.extend(found.is_none().then_some(*prompt));
            }
        }
        let hits = distinct.len() - missing.len();
        if !missing.is_empty() {
            let new: Vec<Rc<S::Text>> = self.scorer.encode_prompts(&missing)?.into_iter().map(Rc::new).collect();
            for (prompt, slot) in prompts.iter().zip(&mut found).filter(|(_, slot)| slot.is_none()) {
                let position = missing.iter().position(|known| known.ids == prompt.ids);
                *slot = position.and_then(|position| new.get(position).cloned());
            }
            for (prompt, embedding) in missing.iter().zip(new) {
                self.texts.insert(&prompt.ids, embedding);
            }
        }
        metrics::text_cache(&self.name, hits, missing.len(), self.texts.len(), self.texts.bytes());
        let all: Option<Vec<_>> = found.into_iter().collect();
        all.ok_or_else(|| ModelError::Input("the text towers gave too few embeddings".to_owned()))
    }

    /// From now on no batch is more than half as large as one of `frames`, for which memory did not suffice. Never
    /// smaller than the largest item, which has to fit.
    fn spare_memory(&mut self, frames: u32) {
        metrics::device_out_of_memory(&self.name);
        let least = self.scorer.facts().manifest.max_frames.max(1);
        self.max_frames = self.max_frames.min((frames / 2).max(least));
        tracing::warn!(device = &*self.name, frames, max_frames = self.max_frames, "out of device memory");
    }

    /// Scores blank frames on every track that the bundle has, in every size that the device wants to have seen.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        let facts = self.scorer.facts();
        for track in [Track::Image, Track::Video] {
            let sides = facts.sides(track);
            if sides.is_empty() {
                continue;
            }
            let longest = if track == Track::Image { 1 } else { facts.manifest.max_frames };
            let mut sizes = self.scorer.warm_up_frames(track);
            sizes.truncate(1 + sizes.partition_point(|&frames| frames < self.max_frames));
            for &frames in &sizes {
                match self.warm_up_batch(track, frames, longest, &sides) {
                    Ok(()) => {}
                    // Rather smaller batches than none.
                    Err(error) if frames > longest && self.scorer.diagnose(&error) == Fault::Memory => {
                        self.spare_memory(frames);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            // The first of its size takes longer than all others.
            if let [_, .., last] = sizes.as_slice() {
                self.warm_up_batch(track, self.max_frames.min(*last), longest, &sides)?;
            }
        }
        Ok(())
    }

    fn warm_up_batch(&mut self, track: Track, count: u32, longest: u32, sides: &[u32]) -> Result<(), ModelError> {
        let begin = Instant::now();
        // Not through the cache: the towers have to run.
        let prompt = &self.config.warm_up_prompt;
        let text = self.scorer.encode_prompts(&[prompt])?;
        let items: Vec<Frames> =
            (0..count.div_ceil(longest)).map(|item| blank(item, longest.min(count - item * longest), sides)).collect();
        let texts: Vec<&S::Text> = items.iter().flat_map(|_| &text).collect();
        let (scores, _) = self.scorer.score(track, &items.iter().collect::<Vec<_>>(), &texts)?;
        scores.into_iter().try_for_each(|score| score.map(drop))?;
        self.queue.record(track, count, begin.elapsed());
        tracing::debug!(?track, frames = count, ms = begin.elapsed().as_millis(), "warmed up");
        Ok(())
    }
}

/// Frames that are blank but for the number of their item: equal ones would be looked at once.
fn blank(item: u32, count: u32, sides: &[u32]) -> Frames {
    let bytes = |side: u32| count as usize * side as usize * side as usize * 3;
    let stack = |&side: &u32| {
        let mut rgb = vec![0; bytes(side)];
        rgb.iter_mut().zip(item.to_le_bytes()).for_each(|(byte, of_number)| *byte = of_number);
        FrameStack { side, rgb }
    };
    Frames { count, stacks: sides.iter().map(stack).collect() }
}

/// However the thread ends, by a panic too, nobody is left waiting.
struct LeaveOnExit(Arc<Queue>);

impl Drop for LeaveOnExit {
    fn drop(&mut self) {
        self.0.leave();
    }
}
