//! The way of one item: its checks, its place on a device, its frames, its token ids, its turn, its answer.
//!
//! The place is taken before anything is decoded, so that whoever must be refused is refused at once.

use std::time::Instant;

use futures_util::future;

use super::call::Terms;
use super::config::LimitOptions;
use super::convert::{self, Circumstances};
use super::decode::{Decoded, Decoding, Media, Pending};
use super::error::ServiceError;
use crate::engine::{Engine, Order, Reservation, Scored, Ticket};
use crate::metrics;
use crate::model::Track;
use crate::proto;
use crate::text::{TokenIds, Tokenizer};

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
    /// Most frames of one batch.
    pub max_batch_frames: u32,
}

/// An item on its way to a device, with what its answer will say.
struct Submitted {
    ticket: Ticket,
    circumstances: Circumstances,
    terms: Terms,
}

impl Scoring {
    /// What is served.
    pub fn model(&self) -> proto::ModelInfo {
        convert::model_info(self.engine.facts(), &self.digest, &self.limits, self.max_batch_frames)
    }

    /// Scores the media of `track` in the request's `field`.
    pub async fn score(
        &self,
        track: Track,
        field: &str,
        prompt: &str,
        media: Media,
        terms: Terms,
    ) -> Result<proto::Score, ServiceError> {
        self.check(prompt)?;
        let sides = self.sides(track, field)?;
        let reservation = self.reserve(track, terms)?;
        let prompt = self.tokenizer.encode(prompt);
        let begin = Instant::now();
        let decoded = self.decoding.enter(track, field, media, sides, terms)?.finished().await?;
        self.submit(track, reservation, prompt, decoded, begin, terms).answer().await
    }

    /// Scores `images` for one prompt, best first. Nothing is decoded before every image has its place, and nothing is
    /// scored before every image has been decoded.
    pub async fn rank(
        &self,
        prompt: &str,
        images: Vec<Media>,
        terms: Terms,
    ) -> Result<Vec<proto::RankedImage>, ServiceError> {
        self.check(prompt)?;
        let (count, limit) = (images.len(), self.limits.max_rank_images.get());
        if images.is_empty() {
            return Err(ServiceError::invalid("images", "is empty; at least one image is needed"));
        }
        if count > limit as usize {
            return Err(ServiceError::invalid("images", format!("has {count} elements, the limit is {limit}")));
        }
        let sides = self.sides(Track::Image, "images")?;
        let reservations =
            (0..count).map(|_| self.reserve(Track::Image, terms)).collect::<Result<Vec<_>, ServiceError>>()?;
        let prompt = self.tokenizer.encode(prompt);
        let begin = Instant::now();
        let enter =
            |(index, image)| self.decoding.enter(Track::Image, &format!("images[{index}]"), image, sides, terms);
        let pending = images.into_iter().enumerate().map(enter).collect::<Result<Vec<_>, _>>()?;
        let decoded = all_or_every_violation(future::join_all(pending.into_iter().map(Pending::finished)).await)?;
        let submitted = reservations.into_iter().zip(decoded).map(|(reservation, decoded)| {
            self.submit(Track::Image, reservation, prompt.clone(), decoded, begin, terms).answer()
        });
        Ok(best_first(future::try_join_all(submitted).await?))
    }

    fn check(&self, prompt: &str) -> Result<(), ServiceError> {
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
        Ok(())
    }

    fn sides(&self, track: Track, field: &str) -> Result<&[u32], ServiceError> {
        let sides = match track {
            Track::Image => &self.image_sides,
            Track::Video => &self.video_sides,
        };
        if sides.is_empty() {
            return Err(ServiceError::invalid(field, "cannot be scored: the bundle has no experts for it"));
        }
        Ok(sides)
    }

    /// Frames of an item of `track`, before it is decoded: so many at most.
    pub fn most_frames(&self, track: Track) -> u32 {
        match track {
            Track::Image => 1,
            Track::Video => self.engine.facts().manifest.max_frames,
        }
    }

    /// A place on a device, for as many frames as the item can have.
    fn reserve(&self, track: Track, terms: Terms) -> Result<Reservation, ServiceError> {
        let frames = self.most_frames(track);
        let Terms { caller, priority, deadline, .. } = terms;
        let order = Order { caller, track, priority, frames, deadline };
        Ok(self.engine.reserve(order)?)
    }

    /// `begin` is when decoding was asked for; until now is its time, whatever it waited for.
    fn submit(
        &self,
        track: Track,
        reservation: Reservation,
        prompt: TokenIds,
        decoded: Decoded,
        begin: Instant,
        terms: Terms,
    ) -> Submitted {
        let Decoded { frames, resize } = decoded;
        let circumstances = Circumstances {
            track,
            model_version: self.engine.facts().manifest.version.clone(),
            prompt_truncated: prompt.truncated,
            frames_used: frames.count,
            receive: begin.saturating_duration_since(terms.arrived),
            decode: begin.elapsed().saturating_sub(resize),
            resize,
        };
        Submitted { ticket: reservation.submit(prompt, frames), circumstances, terms }
    }
}

impl Submitted {
    async fn answer(self) -> Result<proto::Score, ServiceError> {
        let Self { ticket, circumstances, terms } = self;
        let scored = ticket.await?;
        let total = terms.arrived.elapsed();
        count_stages(&circumstances, &scored);
        tracing::debug!(
            frames = circumstances.frames_used,
            batch_frames = scored.batch_frames,
            decode_ms = circumstances.decode.as_millis(),
            resize_ms = circumstances.resize.as_millis(),
            queue_ms = scored.queue.as_millis(),
            total_ms = total.as_millis(),
            "scored"
        );
        Ok(convert::score(scored, circumstances, total))
    }
}

fn count_stages(circumstances: &Circumstances, scored: &Scored) {
    let Circumstances { track, receive, decode, resize, .. } = *circumstances;
    let Scored { queue, text, vision, head, .. } = *scored;
    let of_server = [("receive", receive), ("decode", decode), ("resize", resize)];
    let of_engine = [("queue", queue), ("text", text), ("vision", vision), ("head", head)];
    for (stage, elapsed) in of_server.into_iter().chain(of_engine) {
        metrics::stage(track.name(), stage, elapsed);
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
