//! ScoreStream: many items at once on one call, each answered as it finishes.
//!
//! Everything runs inside the response's stream. A caller that goes away drops it, and with it every item in progress;
//! a caller that does not read its answers, or has enough items in progress, is not read either.

use std::future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tonic::Status;

use super::call::{Call, fault_named, out_of_time};
use super::config::TimeOptions;
use super::error::ServiceError;
use super::scoring::{Clock, Scoring};
use crate::model::Track;
use crate::proto::score_stream_request::Media;
use crate::proto::score_stream_response::Outcome;
use crate::proto::{ScoreStreamRequest, ScoreStreamResponse};

/// Longest `item_id` in bytes.
const MAX_ITEM_ID_BYTES: usize = 256;

/// The answers to `requests`, in the order in which they finish. Ends after the last item, or with the status of what
/// ended the call: the deadline that the caller set for all of it, or a message that could not be read.
pub(super) fn answers(
    scoring: Arc<Scoring>,
    options: TimeOptions,
    call: Call,
    requests: impl Stream<Item = Result<ScoreStreamRequest, Status>> + Send + 'static,
) -> BoxStream<'static, Result<ScoreStreamResponse, Status>> {
    let end = Arc::new(End::default());
    let deadline = call.caller_deadline();
    let in_flight = options.max_stream_in_flight.get();
    let items = requests.scan(end.clone(), |end, request| future::ready(end.note(request)));
    let item_timeout = options.default_timeout_seconds.duration();
    let answers = items
        .map(move |item| answer(scoring.clone(), item, item_timeout, deadline))
        .buffer_unordered(in_flight)
        .map(Ok)
        .take_until(expiry(call.clone(), end.clone()));
    // The call keeps its place until its last answer is out.
    let last = stream::once(async move {
        let _call = call;
        end.take()
    });
    answers.chain(last.filter_map(|status| future::ready(status.map(Err)))).boxed()
}

async fn answer(
    scoring: Arc<Scoring>,
    item: ScoreStreamRequest,
    timeout: Duration,
    call_deadline: Option<Instant>,
) -> ScoreStreamResponse {
    let arrived = Instant::now();
    let deadline = call_deadline.map_or(arrived + timeout, |deadline| deadline.min(arrived + timeout));
    let clock = Clock { arrived, deadline };
    let item_id = item.item_id.clone();
    let outcome = match tokio::time::timeout_at(deadline.into(), score(&scoring, item, clock)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(out_of_time(deadline.saturating_duration_since(arrived))),
    };
    let outcome = match outcome {
        Ok(score) => Outcome::Score(score),
        Err(error) => Outcome::Error(error.into()),
    };
    ScoreStreamResponse { item_id, outcome: Some(outcome) }
}

async fn score(scoring: &Scoring, item: ScoreStreamRequest, clock: Clock) -> Result<crate::proto::Score, ServiceError> {
    let bytes = item.item_id.len();
    if bytes > MAX_ITEM_ID_BYTES {
        return Err(ServiceError::invalid("item_id", format!("has {bytes} bytes, the limit is {MAX_ITEM_ID_BYTES}")));
    }
    let (track, field, media) = match item.media {
        Some(Media::Image(image)) => (Track::Image, "image", image),
        Some(Media::Video(video)) => (Track::Video, "video", video),
        None => return Err(ServiceError::invalid("media", "is missing; set image or video")),
    };
    scoring.score(track, field, &item.prompt, media, clock).await
}

/// Resolves when the deadline of the whole call has passed.
async fn expiry(call: Call, end: Arc<End>) {
    let Some(timeout) = call.client_timeout else { return future::pending().await };
    tokio::time::sleep_until((call.arrived + timeout).into()).await;
    end.set(out_of_time(timeout).into());
}

/// Why a call ends before its caller has finished: said after the items that are in progress have been answered.
#[derive(Default)]
struct End(Mutex<Option<Status>>);

impl End {
    /// The next item; none after a message that could not be read.
    fn note(&self, request: Result<ScoreStreamRequest, Status>) -> Option<ScoreStreamRequest> {
        request.map_err(|status| self.set(fault_named(status))).ok()
    }

    fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    fn take(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
