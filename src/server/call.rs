//! What holds for every call of the scoring service, before and after its handler: a place, a clock, a deadline, and
//! one line in the log.
//!
//! The clock starts when the request's head arrives, so that it covers the upload, decoding, the queue and the device.
//! Running out of time drops the handler, and with it everything that the call holds.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::config::TimeOptions;
use super::error::ServiceError;

/// A call's answer must reach tonic's own timer, which runs on the caller's deadline and says CANCELLED, before it
/// rings.
const BEFORE_TONIC: Duration = Duration::from_millis(2);

/// What a caller is told who finds every place taken.
const PLACE_RETRY: Duration = Duration::from_millis(500);

/// What holds no media and tells callers the limits is answered however busy the service is.
const WITHOUT_PLACE: &str = "GetModel";

/// One call in progress; its handler finds it in the request's extensions. The call's place is free again when the last
/// clone is gone.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// When the request's head arrived.
    pub arrived: Instant,
    /// How long the caller waits, where it said so.
    pub client_timeout: Option<Duration>,
    /// How long the call may take until its handler answers: the caller's wish or the default, within the longest
    /// allowed.
    pub timeout: Duration,
    /// When the handler must have answered.
    pub deadline: Instant,
    /// GetModel needs none.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Call {
    /// When the caller stops waiting, where it said so.
    pub fn caller_deadline(&self) -> Option<Instant> {
        self.client_timeout.map(|timeout| self.arrived + timeout)
    }
}

/// Puts [`CallService`] around the scoring service.
#[derive(Clone)]
pub(super) struct CallLayer {
    options: TimeOptions,
    places: Arc<Semaphore>,
}

impl CallLayer {
    pub fn new(options: &TimeOptions) -> Self {
        Self { options: options.clone(), places: Arc::new(Semaphore::new(options.max_calls.get())) }
    }

    /// Calls that hold a place.
    pub fn in_progress(&self) -> usize {
        self.options.max_calls.get().saturating_sub(self.places.available_permits())
    }

    fn admit(&self, rpc: &str, headers: &HeaderMap) -> Result<Call, ServiceError> {
        let arrived = Instant::now();
        let client_timeout = headers.get("grpc-timeout").map(|value| parse_timeout(value.as_bytes()));
        let client_timeout = match client_timeout {
            Some(None) => {
                return Err(ServiceError::invalid("grpc-timeout", "expected 1 to 8 digits and a unit of HMSmun"));
            }
            Some(parsed) => parsed,
            None => None,
        };
        let place = if rpc == WITHOUT_PLACE { None } else { Some(Arc::new(self.place()?)) };
        let asked = client_timeout.unwrap_or(self.options.default_timeout_seconds.duration());
        let timeout = asked.min(self.options.max_timeout_seconds.duration());
        let in_time = client_timeout.map_or(timeout, |asked| timeout.min(asked.saturating_sub(BEFORE_TONIC)));
        Ok(Call { arrived, client_timeout, timeout, deadline: arrived + in_time, _place: place })
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        self.places.clone().try_acquire_owned().map_err(|_| ServiceError::Overloaded {
            message: format!("{0} calls are in progress, the limit is {0}", self.options.max_calls),
            retry_after: PLACE_RETRY,
        })
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService { inner, layer: self.clone() }
    }
}

/// The scoring service with admission and deadlines.
#[derive(Clone)]
pub(super) struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let call = match self.layer.admit(&rpc, request.headers()) {
            Ok(call) => call,
            Err(error) => return Box::pin(async move { Ok(answered(&rpc, Instant::now(), refusal(error))) }),
        };
        request.extensions_mut().insert(call.clone());
        let handler = self.inner.call(request);
        Box::pin(async move {
            // All of it, for its place: a handler that takes its request apart drops the other clone.
            let call = call;
            let response = match tokio::time::timeout_at(call.deadline.into(), handler).await {
                Ok(response) => with_faults_named(response?),
                Err(_) => refusal(out_of_time(call.timeout)),
            };
            Ok(answered(&rpc, call.arrived, response))
        })
    }
}

/// The deadline passed `timeout` after the request's arrival.
pub(super) fn out_of_time(timeout: Duration) -> ServiceError {
    ServiceError::Deadline(format!("no score within the deadline of {:.3} s", timeout.as_secs_f64()))
}

/// tonic says OUT_OF_RANGE to a message over its limit, and INTERNAL to a request without a message or with half of one.
/// Here each is an invalid argument.
pub(super) fn fault_named(status: Status) -> Status {
    let problem = match (status.code(), status.message()) {
        (Code::OutOfRange, message) => {
            let digits = message.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            match digits.collect::<Vec<_>>()[..] {
                [found, limit] => format!("has {found} bytes, the limit is {limit}"),
                _ => message.to_owned(),
            }
        }
        (Code::Internal, "Missing request message.") => "is missing".to_owned(),
        (Code::Internal, "Unexpected EOF decoding stream.") => "ends before its announced length".to_owned(),
        _ => return status,
    };
    ServiceError::invalid("message", problem).into()
}

fn with_faults_named(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if matches!(status.code(), Code::OutOfRange | Code::Internal) => fault_named(status).into_http(),
        _ => response,
    }
}

fn refusal(error: ServiceError) -> Response<Body> {
    Status::from(error).into_http()
}

fn answered(rpc: &str, arrived: Instant, response: Response<Body>) -> Response<Body> {
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    tracing::debug!(rpc, ?code, ms = arrived.elapsed().as_millis(), "answered");
    response
}

/// The value of `grpc-timeout`: 1 to 8 digits and a unit.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};

    use tonic_types::StatusExt;

    use super::*;
    use crate::server::config::Seconds;

    #[test]
    fn every_unit_of_a_timeout_is_known() {
        let expected = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-5S", None),
            ("5s", None),
        ];
        for (text, timeout) in expected {
            assert_eq!(parse_timeout(text.as_bytes()), timeout, "{text}");
        }
    }

    #[tokio::test]
    async fn time_runs_out_by_the_caller_s_wish_the_default_or_the_longest_allowed() {
        for (asked, used) in [(None, "0.050 s"), (Some("1H"), "0.070 s"), (Some("60m"), "0.060 s")] {
            let status = status_of_a_handler_that_sleeps(asked).await;
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert!(status.message().contains(used), "{asked:?}: {status:?}");
        }
        assert_eq!(status_of_a_handler_that_sleeps(Some("soon")).await.code(), Code::InvalidArgument);
    }

    async fn status_of_a_handler_that_sleeps(timeout: Option<&'static str>) -> Status {
        let sleeper =
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let mut request = Request::new(Body::empty());
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(timeout));
        }
        let response = CallLayer::new(&options(0.05, 0.07))
            .layer(sleeper)
            .call(request)
            .await
            .unwrap_or_else(|never| match never {});
        Status::from_header_map(response.headers()).unwrap()
    }

    fn options(default_timeout: f64, max_timeout: f64) -> TimeOptions {
        TimeOptions {
            max_calls: NonZeroUsize::MIN,
            max_stream_in_flight: NonZeroUsize::MIN,
            max_queue_frames: NonZeroU64::MIN,
            default_timeout_seconds: Seconds(default_timeout),
            max_timeout_seconds: Seconds(max_timeout),
            drain_grace_seconds: Seconds(1.0),
        }
    }

    #[tokio::test]
    async fn a_call_keeps_its_place_until_its_answer_whatever_its_handler_drops() {
        let forgetful = tower::service_fn(|mut request: Request<Body>| {
            drop(request.extensions_mut().remove::<Call>());
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let layer = CallLayer::new(&options(60.0, 60.0));
        let mut service = layer.layer(forgetful);
        let first = service.call(Request::new(Body::empty()));
        assert_eq!(layer.in_progress(), 1);
        let second = service.call(Request::new(Body::empty())).await.unwrap_or_else(|never| match never {});
        let status = Status::from_header_map(second.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(PLACE_RETRY));
        drop(first);
        assert_eq!(layer.in_progress(), 0);
    }

    #[test]
    fn requests_without_a_whole_message_are_invalid_arguments() {
        for tonic in ["Missing request message.", "Unexpected EOF decoding stream."] {
            assert_eq!(fault_named(Status::internal(tonic)).code(), Code::InvalidArgument);
        }
        assert_eq!(fault_named(Status::internal("internal error 0")).code(), Code::Internal);
    }

    #[test]
    fn a_message_over_the_limit_is_an_invalid_argument_with_both_numbers() {
        let tonic = "Error, decoded message length too large: found 123 bytes, the limit is: 100 bytes";
        let status = fault_named(Status::out_of_range(tonic));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "message: has 123 bytes, the limit is 100");
    }
}
