//! The way of one item: its checks, its place on a device, its frames, its token ids, its turn, its answer.
//!
//! The place is taken before anything is decoded, so that whoever must be refused is refused at once.

use std::time::Instant;

use futures_util::future;

use super::asked::{Asked, item_span};
use super::call::{Terms, code_name};
use super::config::LimitOptions;
use super::convert::{self, Circumstances};
use super::decode::{Decoded, Decoding, Media, Pending};
use super::error::ServiceError;
use crate::engine::{Engine, Order, Reservation, Scored, Ticket};
use crate::model::Track;
use crate::text::{TokenIds, Tokenizer};
use crate::{metrics, proto, trace};

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
    /// When decoding was asked for.
    begin: Instant,
}

impl Scoring {
    /// What is served.
    pub fn model(&self) -> proto::ModelInfo {
        convert::model_info(self.engine.facts(), &self.digest, &self.limits, self.max_batch_frames)
    }

    /// Tells metrics whether this is what is served.
    pub fn name_to_metrics(&self, is_served: bool) {
        let manifest = &self.engine.facts().manifest;
        metrics::model(&manifest.name, &manifest.version, &self.digest, is_served);
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
        let asked = Asked::for_items(1, terms.deadline);
        let mut span = item_span(track, terms);
        let answer = self.score_item(track, field, prompt, media, terms, &mut span).await;
        asked.answered();
        if let Err(error) = &answer {
            span.fail(code_name(error.code()));
        }
        answer
    }

    async fn score_item(
        &self,
        track: Track,
        field: &str,
        prompt: &str,
        media: Media,
        terms: Terms,
        span: &mut trace::Span,
    ) -> Result<proto::Score, ServiceError> {
        self.check(prompt)?;
        let sides = self.sides(track, field)?;
        let reservation = self.reserve(track, terms, span.parent())?;
        let prompt = self.tokenizer.encode(prompt);
        let begin = Instant::now();
        let decode = trace::Span::of(span.parent(), "decode", begin);
        let decoded = self.decoding.enter(track, field, media, sides, terms)?.finished().await?;
        let submitted = self.submit(track, reservation, prompt, decoded, begin, terms);
        decode.end(begin + submitted.circumstances.decode);
        submitted.answer(span).await
    }

    /// Scores `images` for one prompt, best first. Nothing is decoded before every image has its place, and nothing is
    /// scored before every image has been decoded.
    pub async fn rank(
        &self,
        prompt: &str,
        images: Vec<Media>,
        terms: Terms,
    ) -> Result<Vec<proto::RankedImage>, ServiceError> {
        let asked = Asked::for_items(images.len(), terms.deadline);
        // With more images than that the request is refused: millions of empty ones fit into a message.
        let most = self.limits.max_rank_images.get() as usize;
        let mut spans: Vec<trace::Span> = images.iter().take(most).map(|_| item_span(Track::Image, terms)).collect();
        let answer = self.rank_items(prompt, images, terms, &mut spans).await;
        asked.answered();
        if let Err(error) = &answer {
            spans.iter_mut().for_each(|span| span.fail(code_name(error.code())));
        }
        answer
    }

    async fn rank_items(
        &self,
        prompt: &str,
        images: Vec<Media>,
        terms: Terms,
        spans: &mut [trace::Span],
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
        let reserve = |span: &trace::Span| self.reserve(Track::Image, terms, span.parent());
        let reservations = spans.iter().map(reserve).collect::<Result<Vec<_>, ServiceError>>()?;
        let prompt = self.tokenizer.encode(prompt);
        let begin = Instant::now();
        let enter =
            |(index, image)| self.decoding.enter(Track::Image, &format!("images[{index}]"), image, sides, terms);
        let pending = images.into_iter().enumerate().map(enter).collect::<Result<Vec<_>, _>>()?;
        let decoded = all_or_every_violation(future::join_all(pending.into_iter().map(Pending::finished)).await)?;
        let submitted = reservations.into_iter().zip(decoded).zip(spans).map(|((reservation, decoded), span)| {
            let submitted = self.submit(Track::Image, reservation, prompt.clone(), decoded, begin, terms);
            trace::Span::of(span.parent(), "decode", begin).end(begin + submitted.circumstances.decode);
            submitted.answer(span)
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
    fn reserve(&self, track: Track, terms: Terms, span: trace::Parent) -> Result<Reservation, ServiceError> {
        let frames = self.most_frames(track);
        let Terms { caller, priority, deadline, .. } = terms;
        let order = Order { caller, track, priority, frames, deadline, span };
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
        Submitted { ticket: reservation.submit(prompt, frames), circumstances, terms, begin }
    }
}

impl Submitted {
    async fn answer(self, span: &mut trace::Span) -> Result<proto::Score, ServiceError> {
        let Self { ticket, circumstances, terms, begin } = self;
        let scored = ticket.await?;
        let total = terms.arrived.elapsed();
        count_score(&circumstances, &scored);
        trace_stages(span, &circumstances, &scored, terms.arrived, begin);
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

fn count_score(circumstances: &Circumstances, scored: &Scored) {
    let Circumstances { track, receive, decode, resize, .. } = *circumstances;
    let Scored { queue, text, vision, head, .. } = *scored;
    let of_server = [("receive", receive), ("decode", decode), ("resize", resize)];
    let of_engine = [("queue", queue), ("text", text), ("vision", vision), ("head", head)];
    for (stage, elapsed) in of_server.into_iter().chain(of_engine) {
        metrics::stage(track.name(), stage, elapsed);
    }
    metrics::score(track.name(), scored.score.z, scored.score.disagreement);
}

/// All stages but decode, which has its span while it lasts.
fn trace_stages(
    span: &mut trace::Span,
    circumstances: &Circumstances,
    scored: &Scored,
    arrived: Instant,
    begin: Instant,
) {
    let Circumstances { decode, resize, frames_used, .. } = *circumstances;
    let Scored { queue, begun, text, vision, head, batch_frames, batch, .. } = *scored;
    span.set("pcqa.frames", i64::from(frames_used));
    span.set("pcqa.batch_frames", i64::from(batch_frames));
    span.link(batch);
    let stage = |name, from: Instant, to: Instant| trace::Span::of(span.parent(), name, from).end(to);
    stage("receive", arrived, begin);
    stage("resize", begin + decode, begin + decode + resize);
    stage("queue", begun - queue, begun);
    stage("text", begun, begun + text);
    stage("vision", begun + text, begun + text + vision);
    stage("head", begun + text + vision, begun + text + vision + head);
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
