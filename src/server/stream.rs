//! ScoreStream: many items at once on one call, each answered as it finishes.
//!
//! A task of its own reads the items, so that its timers ring for a caller that reads nothing too. It ends with the
//! response's stream: a caller that goes away takes every item in progress with it. A caller that does not read its
//! answers, or has enough items in progress, is not read either.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

use super::call::{Call, Terms, fault_named, out_of_time};
use super::config::TimeOptions;
use super::convert;
use super::decode::Media;
use super::error::{ServiceError, prefix};
use super::served::Served;
use super::shares::Share;
use super::trust::Guest;
use crate::engine::Caller;
use crate::model::Track;
use crate::proto::score_stream_request::Media as Encoded;
use crate::proto::score_stream_response::Outcome;
use crate::proto::{ScoreStreamRequest, ScoreStreamResponse};
use crate::trace;

/// Longest `item_id` in bytes.
const MAX_ITEM_ID_BYTES: usize = 256;

/// How streams are served.
#[derive(Clone)]
pub(super) struct Streams {
    options: TimeOptions,
}

/// An item that has been read.
struct Arrived {
    item: ScoreStreamRequest,
    /// Of the bytes in flight.
    share: Share,
    caller: Caller,
    guest: Guest,
    arrived: Instant,
    deadline: Instant,
    span: trace::Parent,
}

impl Streams {
    pub fn new(options: &TimeOptions) -> Self {
        Self { options: options.clone() }
    }

    /// The answers to `requests`, in the order in which they finish. Ends after the last item, or with the status of
    /// what ended the call: the deadline that the caller set for all of it, a caller that neither sent an item nor took
    /// an answer for too long, or a message that could not be read. Items in progress are answered first in the last
    /// case and dropped in the others.
    pub fn answers(
        self,
        served: Served,
        call: Call,
        requests: impl Stream<Item = Result<ScoreStreamRequest, Status>> + Send + 'static,
    ) -> ReceiverStream<Result<ScoreStreamResponse, Status>> {
        let (answers, receiver) = mpsc::channel(1);
        let work = async move {
            let end = tokio::select! {
                end = self.serve(served, &call, requests, &answers) => end,
                error = expiry(&call) => Err(error.into()),
                // The caller has gone away.
                () = answers.closed() => return,
            };
            // The call's place is not kept for a caller that does not take its last word.
            drop(call);
            if let Err(status) = end {
                let _ = answers.send(Err(status)).await;
            }
        };
        tokio::spawn(work.in_current_span());
        ReceiverStream::new(receiver)
    }

    async fn serve(
        &self,
        served: Served,
        call: &Call,
        requests: impl Stream<Item = Result<ScoreStreamRequest, Status>>,
        answers: &mpsc::Sender<Result<ScoreStreamResponse, Status>>,
    ) -> Result<(), Status> {
        let (in_flight, patience) =
            (self.options.max_stream_in_flight.get(), self.options.max_timeout_seconds.duration());
        let mut items = pin!(requests);
        let mut in_progress = JoinSet::new();
        let mut last = None;
        while last.is_none() || !in_progress.is_empty() {
            tokio::select! {
                item = items.next(), if last.is_none() && in_progress.len() < in_flight => match item {
                    Some(Ok(item)) => {
                        in_progress.spawn(answer(served.clone(), self.arrived(item, call)).in_current_span());
                    }
                    Some(Err(status)) => last = Some(Err(fault_named(status))),
                    None => last = Some(Ok(())),
                },
                Some(answer) = in_progress.join_next() => {
                    let answer = answer.map_err(ServiceError::internal)?;
                    let taken = tokio::time::timeout(patience, answers.send(Ok(answer))).await;
                    let _ = taken.map_err(|_| silent("no answer was taken", patience))?;
                }
                () = tokio::time::sleep(patience) => return Err(silent("no item came", patience).into()),
            }
        }
        last.unwrap_or(Ok(()))
    }

    fn arrived(&self, item: ScoreStreamRequest, call: &Call) -> Arrived {
        let arrived = Instant::now();
        let deadline = arrived + self.options.default_timeout_seconds.duration();
        let deadline = call.caller_deadline().map_or(deadline, |call_deadline| deadline.min(call_deadline));
        Arrived {
            item,
            share: call.received.take_message(),
            caller: call.caller,
            guest: call.guest.clone(),
            arrived,
            deadline,
            span: call.span,
        }
    }
}

async fn answer(served: Served, arrived: Arrived) -> ScoreStreamResponse {
    let item_id = prefix(&arrived.item.item_id, MAX_ITEM_ID_BYTES).to_owned();
    let timeout = arrived.deadline.saturating_duration_since(arrived.arrived);
    let scored = tokio::time::timeout_at(arrived.deadline.into(), score(&served, arrived)).await;
    let outcome = match scored.unwrap_or_else(|_| Err(out_of_time(timeout))) {
        Ok(score) => Outcome::Score(score),
        Err(error) => Outcome::Error(error.into()),
    };
    ScoreStreamResponse { item_id, outcome: Some(outcome) }
}

async fn score(served: &Served, arrived: Arrived) -> Result<crate::proto::Score, ServiceError> {
    let Arrived { item, share, caller, guest, arrived, deadline, span } = arrived;
    let bytes = item.item_id.len();
    if bytes > MAX_ITEM_ID_BYTES {
        return Err(ServiceError::invalid("item_id", format!("has {bytes} bytes, the limit is {MAX_ITEM_ID_BYTES}")));
    }
    let (track, field, media) = match item.media {
        Some(Encoded::Image(image)) => (Track::Image, "image", image),
        Some(Encoded::Video(video)) => (Track::Video, "video", video),
        None => return Err(ServiceError::invalid("media", "is missing; set image or video")),
    };
    let terms = Terms { caller, priority: convert::priority(item.priority)?, arrived, deadline, span };
    // Each item is scored by what is served when it comes: a call may outlast a bundle.
    let scoring = served.ready()?;
    guest.spend(scoring.most_frames(track))?;
    scoring.score(track, field, &item.prompt, Media::new(media, Arc::new(share)), terms).await
}

/// Resolves when the deadline of the whole call has passed.
async fn expiry(call: &Call) -> ServiceError {
    match (call.client_timeout, call.caller_deadline()) {
        (Some(timeout), Some(deadline)) => {
            tokio::time::sleep_until(deadline.into()).await;
            out_of_time(timeout)
        }
        _ => std::future::pending().await,
    }
}

fn silent(what: &str, patience: Duration) -> ServiceError {
    ServiceError::Deadline(format!("{what} for {:.3} s", patience.as_secs_f64()))
}
