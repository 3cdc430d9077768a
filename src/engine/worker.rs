//! The thread that owns a device.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::ahead::Ahead;
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

/// How often a device that is busy is asked whether it still is, where it is too early for the next batch.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Loads, warms up, reports through `started`, then serves `queue` until it ends or the device is lost.
pub(super) fn run<S: Scorer>(
    load: impl FnOnce() -> Result<S, ModelError>,
    config: &EngineConfig,
    queue: &Arc<Queue>,
    started: &SyncSender<Result<ModelFacts, ModelError>>,
) {
    let leaving = LeaveOnExit(queue.clone());
    // Loading shares what takes long among threads by itself. libtorch's would spin between its many short steps, and keep
    // cores from the check of the bundle's files.
    tch::set_num_threads(1);
    let _mode = InferenceMode::enter().inspect_err(|error| tracing::warn!(%error, "autograd stays on")).ok();
    let loaded = load().and_then(|scorer| {
        tch::set_num_threads(i32::try_from(config.threads).unwrap_or(i32::MAX));
        let mut device = Device::new(scorer, config, queue);
        device.warm_up().map(|()| device)
    });
    match loaded {
        Ok(mut device) => {
            metrics::device_known(&device.name);
            let _ = started.send(Ok(device.scorer.facts()));
            device.serve();
            if device.is_lost {
                // To let go of what is on it may take long, or fail: nobody should wait for that.
                drop(leaving);
            }
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
    ahead: Ahead,
}

/// A batch that the device was asked to score.
struct Underway<A> {
    batch: Batch<Waiting>,
    since: Instant,
    asked: Result<Asked<A>, ModelError>,
}

/// What the device was asked, and when it had been asked for the embeddings of its prompts.
type Asked<A> = (A, Instant);

type Answers = Vec<Result<Scored, EngineError>>;

impl<'a, S: Scorer> Device<'a, S> {
    fn new(scorer: S, config: &'a EngineConfig, queue: &'a Queue) -> Self {
        let facts = scorer.facts();
        let texts = TextCache::new(config.text_cache_bytes, facts.embedding_bytes());
        let (name, max_frames) = (facts.options.device_name().into(), config.max_batch_frames);
        Self { name, scorer, texts, config, queue, max_frames, is_lost: false, ahead: Ahead::default() }
    }

    fn serve(&mut self) {
        let mut failures = 0;
        let mut next = None;
        while let Some(underway) = next.take().or_else(|| self.next()) {
            next = self.ask_ahead(&underway);
            let has_failed = self.answer(underway);
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

    fn next(&mut self) -> Option<Underway<S::Asked>> {
        let batch = self.queue.next_batch(self.max_frames)?;
        Some(self.ask(batch))
    }

    /// The batch after `underway`, where a full one waits shortly before that is done: it is brought to the device
    /// meanwhile. Every other may still grow, or give way to what is more urgent.
    fn ask_ahead(&mut self, underway: &Underway<S::Asked>) -> Option<Underway<S::Asked>> {
        let Ok((asked, _)) = &underway.asked else { return None };
        if !self.scorer.asks_at_once(self.max_frames) {
            return None;
        }
        let ends = self.ahead.ends(underway.batch.track, underway.batch.frames, underway.since)?;
        while !self.scorer.has_answer(asked) {
            let early = self.ahead.early(ends, Instant::now());
            if early.is_zero() {
                let batch = self.queue.full_batch(self.max_frames, ends)?;
                return Some(self.ask(batch));
            }
            std::thread::sleep(early.min(A_MOMENT));
        }
        None
    }

    /// Asks the device to score `batch`.
    fn ask(&mut self, batch: Batch<Waiting>) -> Underway<S::Asked> {
        let since = Instant::now();
        let items: Vec<&Item> = batch.items.iter().map(|(_, waiting)| &waiting.item).collect();
        let asked = self.ask_for(batch.track, &items);
        self.ahead.asked(since.elapsed());
        Underway { batch, since, asked }
    }

    fn ask_for(&mut self, track: Track, items: &[&Item]) -> Result<Asked<S::Asked>, ModelError> {
        let prompts: Vec<&TokenIds> = items.iter().map(|item| &item.prompt).collect();
        let embeddings = self.embeddings(&prompts)?;
        let texts = Instant::now();
        let embeddings: Vec<&S::Text> = embeddings.iter().map(Rc::as_ref).collect();
        let frames: Vec<&Frames> = items.iter().map(|item| &item.frames).collect();
        Ok((self.scorer.ask(track, &frames, &embeddings)?, texts))
    }

    /// Waits for the scores of a batch and answers its items; whether the device failed on every one of them.
    fn answer(&mut self, underway: Underway<S::Asked>) -> bool {
        let Underway { batch: Batch { track, frames, items, reason }, since, asked } = underway;
        // What was asked for while another batch was computed has waited until that was done.
        let begin = self.ahead.begin(since);
        let mut span = Span::of_all(items.iter().map(|(_, waiting)| waiting.span), "batch", begin);
        span.set("pcqa.track", track.name());
        span.set("pcqa.reason", reason.name());
        span.set("pcqa.items", items.len() as i64);
        span.set("pcqa.frames", i64::from(frames));
        span.set("pcqa.device", self.name.clone());
        let parts: Vec<&Item> = items.iter().map(|(_, waiting)| &waiting.item).collect();
        let answers = asked.and_then(|asked| self.scored(&asked, &parts, begin, Duration::ZERO));
        let answers = answers.unwrap_or_else(|error| self.score_parts(track, &parts, begin, error));
        let elapsed = begin.elapsed();
        self.ahead.answered(track, frames, begin + elapsed, elapsed);
        self.queue.finish(track, frames, elapsed);
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

    /// One answer per item, of which a batch was taken at `begin`.
    fn score(&mut self, track: Track, items: &[&Item], begin: Instant) -> Answers {
        if self.is_lost {
            return stopped(items);
        }
        let since = Instant::now();
        let asked = self.ask_for(track, items);
        let answers = asked.and_then(|asked| self.scored(&asked, items, since, since - begin));
        answers.unwrap_or_else(|error| self.score_parts(track, items, begin, error))
    }

    /// After `error`, a batch is tried again in halves: it may have been too large for the device's memory, which later
    /// ones then spare, or one of its items may be at fault, which then fails alone.
    fn score_parts(&mut self, track: Track, items: &[&Item], begin: Instant, error: ModelError) -> Answers {
        match self.scorer.diagnose(&error) {
            Fault::Batch => {}
            Fault::Memory => self.spare_memory(items.iter().map(|item| item.frames.count).sum()),
            Fault::Lost => {
                tracing::error!(device = &*self.name, %error, "the device is lost");
                self.is_lost = true;
                return stopped(items);
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

    /// The scores of `items`, for which the device was asked. It began with them at `begun`, and they had waited for
    /// `queue` since their batch was taken.
    fn scored(
        &self,
        (asked, texts): &Asked<S::Asked>,
        items: &[&Item],
        begun: Instant,
        queue: Duration,
    ) -> Result<Answers, ModelError> {
        let (scores, timings) = self.scorer.answer(asked)?;
        if scores.len() != items.len() {
            return Err(ModelError::Input(format!("{} items came back as {} scores", items.len(), scores.len())));
        }
        let batch_frames = items.iter().map(|item| item.frames.count).sum();
        let text = texts.saturating_duration_since(begun);
        let (vision, head) = (timings.vision, timings.head);
        let answer = |score| match score {
            Ok(score) => Ok(Scored { score, queue, begun, text, vision, head, batch_frames, batch: Parent::default() }),
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
            let are_several = sizes.len() > 1;
            let mut largest = 0;
            // The largest first: smaller ones find room in what it leaves, and larger ones would not.
            while let Some(frames) = sizes.pop() {
                if sizes.last().is_some_and(|&smaller| smaller >= self.max_frames) {
                    continue;
                }
                match self.warm_up_batch(track, frames, longest, &sides) {
                    Ok(()) => largest = largest.max(frames),
                    // Rather smaller batches than none.
                    Err(error) if frames > longest && self.scorer.diagnose(&error) == Fault::Memory => {
                        self.spare_memory(frames);
                    }
                    Err(error) => return Err(error),
                }
            }
            // The first of its size takes longer than all others.
            if are_several {
                self.warm_up_batch(track, self.max_frames.min(largest), longest, &sides)?;
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
        let asked = self.scorer.ask(track, &items.iter().collect::<Vec<_>>(), &texts)?;
        let (scores, _) = self.scorer.answer(&asked)?;
        scores.into_iter().try_for_each(|score| score.map(drop))?;
        self.queue.record(track, count, begin.elapsed());
        tracing::debug!(?track, frames = count, ms = begin.elapsed().as_millis(), "warmed up");
        Ok(())
    }
}

fn stopped(items: &[&Item]) -> Answers {
    items.iter().map(|_| Err(EngineError::Stopped)).collect()
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
