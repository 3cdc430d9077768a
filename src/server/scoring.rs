//! The way of one item: its checks, its frames, its token ids, its turn on the device, its answer.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future;

use super::config::LimitOptions;
use super::convert::{self, Circumstances};
use super::decode::{Decoded, Decoding};
use super::error::ServiceError;
use crate::engine::{Caller, Engine, Order, Priority, Ticket};
use crate::model::Track;
use crate::proto;
use crate::text::{TokenIds, Tokenizer};

/// When a request came and when its answer must be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub arrived: Instant,
    pub deadline: Instant,
}

/// Everything that scoring takes, once the model is loaded.
pub(super) struct Scoring {
    pub engine: Engine,
    pub tokenizer: Tokenizer,
    pub decoding: Decoding,
    pub limits: LimitOptions,
    pub digest: String,
    /// Sides in pixels that the image experts and the video experts take.
    pub image_sides: Vec<u32>,
    pub video_sides: Vec<u32>,
}

/// An item in the engine's queue, with what its answer will say.
struct Queued {
    ticket: Ticket,
    circumstances: Circumstances,
    clock: Clock,
}

impl Scoring {
    /// What is served.
    pub fn model(&self) -> proto::ModelInfo {
        convert::model_info(self.engine.facts(), &self.digest, &self.limits)
    }

    /// Scores the media of `track` in the request's `field`.
    pub async fn score(
        &self,
        track: Track,
        field: &str,
        prompt: &str,
        media: Bytes,
        clock: Clock,
    ) -> Result<proto::Score, ServiceError> {
        let prompt = self.tokenise(prompt)?;
        let decoded = self.decode(track, field, media, clock).await?;
        self.enqueue(track, prompt, decoded, clock)?.answer().await
    }

    /// Scores `images` for one prompt, best first. Nothing is queued before every image has been decoded.
    pub async fn rank(
        &self,
        prompt: &str,
        images: Vec<Bytes>,
        clock: Clock,
    ) -> Result<Vec<proto::RankedImage>, ServiceError> {
        let prompt = self.tokenise(prompt)?;
        let (count, limit) = (images.len(), self.limits.max_rank_images.get());
        if images.is_empty() {
            return Err(ServiceError::invalid("images", "is empty; at least one image is needed"));
        }
        if count > limit as usize {
            return Err(ServiceError::invalid("images", format!("has {count} elements, the limit is {limit}")));
        }
        let decoding = images.into_iter().enumerate().map(|(index, image)| async move {
            self.decode(Track::Image, &format!("images[{index}]"), image, clock).await
        });
        let decoded = all_or_every_violation(future::join_all(decoding).await)?;
        let queued = decoded
            .into_iter()
            .map(|decoded| self.enqueue(Track::Image, prompt.clone(), decoded, clock))
            .collect::<Result<Vec<_>, _>>()?;
        let scores = future::try_join_all(queued.into_iter().map(Queued::answer)).await?;
        Ok(best_first(scores))
    }

    fn tokenise(&self, prompt: &str) -> Result<TokenIds, ServiceError> {
        let (bytes, limit) = (prompt.len(), self.limits.max_prompt_bytes.get());
        if bytes as u64 > limit {
            return Err(ServiceError::invalid("prompt", format!("has {bytes} bytes, the limit is {limit}")));
        }
        if prompt.is_empty() {
            return Err(ServiceError::invalid("prompt", "is empty"));
        }
        if prompt.trim().is_empty() {
            return Err(ServiceError::invalid("prompt", "is only white space"));
        }
        Ok(self.tokenizer.encode(prompt))
    }

    async fn decode(&self, track: Track, field: &str, media: Bytes, clock: Clock) -> Result<Decoded, ServiceError> {
        let sides = match track {
            Track::Image => &self.image_sides,
            Track::Video => &self.video_sides,
        };
        if sides.is_empty() {
            return Err(ServiceError::invalid(field, "cannot be scored: the bundle has no experts for it"));
        }
        match track {
            Track::Image => self.decoding.image(field, media, sides).await,
            Track::Video => self.decoding.video(field, media, sides, clock.deadline).await,
        }
    }

    fn enqueue(&self, track: Track, prompt: TokenIds, decoded: Decoded, clock: Clock) -> Result<Queued, ServiceError> {
        let circumstances = Circumstances {
            model_version: self.engine.facts().manifest.version.clone(),
            prompt_truncated: prompt.truncated,
            frames_used: decoded.frames.count,
            decode: decoded.decode,
            resize: decoded.resize,
        };
        let (caller, priority) = (Caller(0), Priority::Interactive);
        let order = Order { caller, track, priority, frames: decoded.frames.count, deadline: clock.deadline };
        let ticket = self.engine.reserve(order)?.submit(prompt, decoded.frames);
        Ok(Queued { ticket, circumstances, clock })
    }
}

impl Queued {
    async fn answer(self) -> Result<proto::Score, ServiceError> {
        let scored = self.ticket.await?;
        let total = self.clock.arrived.elapsed();
        tracing::debug!(
            frames = self.circumstances.frames_used,
            decode_ms = self.circumstances.decode.as_millis(),
            resize_ms = self.circumstances.resize.as_millis(),
            queue_ms = scored.queue.as_millis(),
            total_ms = total.as_millis(),
            "scored"
        );
        Ok(convert::score(scored, self.circumstances, total))
    }
}

/// All decoded images, or the violations of all that are at fault, or the first other failure.
fn all_or_every_violation(decoded: Vec<Result<Decoded, ServiceError>>) -> Result<Vec<Decoded>, ServiceError> {
    let mut images = Vec::with_capacity(decoded.len());
    let mut violations = Vec::new();
    for image in decoded {
        match image {
            Ok(image) => images.push(image),
            Err(ServiceError::Invalid(found)) => violations.extend(found),
            Err(other) => return Err(other),
        }
    }
    if violations.is_empty() { Ok(images) } else { Err(ServiceError::Invalid(violations)) }
}

/// By descending mos; equal scores keep the order of the request.
fn best_first(scores: Vec<proto::Score>) -> Vec<proto::RankedImage> {
    let numbered = (0..).zip(scores);
    let mut ranked: Vec<_> = numbered.map(|(index, score)| proto::RankedImage { index, score: Some(score) }).collect();
    let mos = |image: &proto::RankedImage| image.score.as_ref().map_or(f64::NEG_INFINITY, |score| score.mos);
    ranked.sort_by(|a, b| mos(b).total_cmp(&mos(a)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_keep_their_order() {
        let scores = [1.0, 3.0, 1.0, 3.0, 2.0].map(|mos| proto::Score { mos, ..Default::default() });
        let order: Vec<u32> = best_first(scores.to_vec()).iter().map(|image| image.index).collect();
        assert_eq!(order, [1, 3, 4, 0, 2]);
    }
}
