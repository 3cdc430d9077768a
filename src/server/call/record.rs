//! What is told of a call: the id that its caller sees, a metric, a line in the log, a span. Each once, when it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::metrics;
use crate::server::config::Sources;
use crate::trace;

const REQUEST_ID: &str = "x-request-id";
/// Longest id that is taken over from a caller, in bytes.
const MAX_REQUEST_ID: usize = 128;
const SOURCE: &str = "x-pcqa-source";

/// The RPCs, as metrics and spans name them.
const RPCS: [(&str, &str); 5] = [
    ("ScoreImage", "pcqa.v1.ScoringService/ScoreImage"),
    ("ScoreVideo", "pcqa.v1.ScoringService/ScoreVideo"),
    ("ScoreStream", "pcqa.v1.ScoringService/ScoreStream"),
    ("RankImages", "pcqa.v1.ScoringService/RankImages"),
    ("GetModel", "pcqa.v1.ScoringService/GetModel"),
];
/// What a caller invents may not become a label.
const OTHER: (&str, &str) = ("other", "pcqa.v1.ScoringService/other");

/// A call from its head to the last byte of its answer. Dropped before that, it was cancelled.
pub(super) struct Record {
    rpc: &'static str,
    source: Arc<str>,
    request_id: HeaderValue,
    arrived: Instant,
    log: tracing::Span,
    span: trace::Span,
    has_ended: bool,
}

impl Record {
    /// A stranger's calls are not traced: else anybody could fill what waits for the collector.
    pub fn begin(rpc: &str, headers: &HeaderMap, sources: &Sources, arrived: Instant, is_stranger: bool) -> Self {
        let (rpc, name) = RPCS.into_iter().find(|(known, _)| *known == rpc).unwrap_or(OTHER);
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let remote = trace::Remote::of(text("traceparent"), text("tracestate"));
        let mut span = if is_stranger { trace::Span::default() } else { trace::Span::of_call(name, &remote, arrived) };
        let trace_id = remote.trace_id().or_else(|| span.parent().trace_id());
        let request_id = headers.get(REQUEST_ID).filter(|id| is_request_id(id)).cloned().unwrap_or_else(new_id);
        let shown = request_id.to_str().unwrap_or_default();
        span.set("rpc.system", "grpc");
        span.set("rpc.service", "pcqa.v1.ScoringService");
        span.set("rpc.method", rpc);
        span.set("pcqa.request_id", shown.to_owned());
        // Shown whatever the level of what happens inside.
        let log = tracing::error_span!("call", request_id = shown, trace_id);
        let source = sources.label(headers.get(SOURCE).map(HeaderValue::as_bytes));
        Self { rpc, source, request_id, arrived, log, span, has_ended: false }
    }

    /// What is logged within belongs to this call.
    pub fn log(&self) -> &tracing::Span {
        &self.log
    }

    /// What spans of this call hang on.
    pub fn span(&self) -> trace::Parent {
        self.span.parent()
    }

    /// `response` with the id, and with this record in it until its last byte.
    pub fn accompany(mut self, mut response: Response<Body>) -> Response<Body> {
        response.headers_mut().insert(REQUEST_ID, self.request_id.clone());
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                self.end(status.code());
                response
            }
            None => response.map(|body| Body::new(Accompanied { body, record: self })),
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let (rpc, elapsed, name) = (self.rpc, self.arrived.elapsed(), name(code));
        metrics::request(rpc, name, self.source.clone(), elapsed);
        self.log.in_scope(|| tracing::debug!(rpc, code = name, ms = elapsed.as_secs_f64() * 1e3, "answered"));
        self.span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
        if code != Code::Ok {
            self.span.fail(name);
        }
        std::mem::take(&mut self.span).end(self.arrived + elapsed);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

struct Accompanied {
    body: Body,
    record: Record,
}

impl http_body::Body for Accompanied {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.end(Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code()));
                }
            }
            Some(Err(status)) => self.record.end(status.code()),
            None => self.record.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Printable ASCII.
fn is_request_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn new_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    // Hexadecimal digits are always a value.
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("0"))
}

/// The code as metrics and spans name it.
pub(in crate::server) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(given: &[u8]) -> String {
        let headers = HeaderMap::from_iter([(REQUEST_ID.parse().unwrap(), HeaderValue::from_bytes(given).unwrap())]);
        let record = Record::begin("ScoreImage", &headers, &Sources::default(), Instant::now(), false);
        record.request_id.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_printable_id_is_kept_and_any_other_is_replaced() {
        let longest = "x".repeat(MAX_REQUEST_ID);
        for id in ["a", "3f2c-1 ~!", &longest] {
            assert_eq!(id_of(id.as_bytes()), id);
        }
        let new: Vec<String> =
            [&b""[..], b"a\tb", "\u{e9}".as_bytes(), format!("{longest}x").as_bytes()].map(id_of).into();
        for (index, id) in new.iter().enumerate() {
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert!(!new[..index].contains(id));
        }
    }

    #[test]
    fn the_names_of_all_codes_are_in_the_table() {
        let labels = metrics::TABLE.iter().flat_map(|metric| metric.labels);
        let codes = labels.into_iter().find(|label| label.name == "code").unwrap().values;
        let names: Vec<&str> = (0..17).map(|number| name(Code::from_i32(number))).collect();
        assert_eq!(names, codes);
    }
}
