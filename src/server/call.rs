//! What holds for every call of the scoring service, before and after its handler: who calls and may they, a place, the
//! bytes that are sent, a clock, a deadline, and what is told of it.
//!
//! The clock starts when the request's head arrives, so that it covers the upload, decoding, the queue and the device.
//! Running out of time drops the handler, and with it everything that the call holds.

mod fault;
mod receive;
mod record;
mod timeout;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};
use tracing::Instrument;

pub(super) use self::fault::fault_named;
pub(super) use self::receive::Received;
use self::record::Record;
pub(super) use self::record::name as code_name;
use super::config::{Sources, TimeOptions};
use super::error::ServiceError;
use super::shares::{Share, Shares};
use super::trust::{Door, Guest};
use crate::engine::{Caller, Priority};
use crate::{metrics, trace};

/// A call's answer must be there before the caller's own timer rings: many clients say CANCELLED then.
const BEFORE_TONIC: Duration = Duration::from_millis(2);

/// What holds no media and tells callers the limits is answered however busy the service is.
const WITHOUT_PLACE: &str = "GetModel";

/// One call in progress; its handler finds it in the request's extensions. The call's place is free again when the last
/// clone is gone.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Who calls.
    pub caller: Caller,
    /// By whose key.
    pub guest: Guest,
    /// What has been sent.
    pub received: Received,
    /// When the request's head arrived.
    pub arrived: Instant,
    /// How long the caller waits, where it said so.
    pub client_timeout: Option<Duration>,
    /// How long the call may take until its handler answers: the caller's wish or the default, within the longest
    /// allowed.
    pub timeout: Duration,
    /// When the handler must have answered.
    pub deadline: Instant,
    /// What spans of this call hang on.
    pub span: trace::Parent,
    /// GetModel needs none.
    _place: Option<Arc<Share>>,
}

/// Who asks for a score, how urgently, since when and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub caller: Caller,
    pub priority: Priority,
    /// When the request's head arrived; for an item of a stream, when it was read.
    pub arrived: Instant,
    /// When the answer must be there: for the queue, the decoder and the device.
    pub deadline: Instant,
    /// What spans of this item hang on.
    pub span: trace::Parent,
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
    sources: Sources,
    door: Door,
    callers: RandomState,
    places: Shares,
    bytes: Shares,
}

impl CallLayer {
    /// `sources` are the callers that metrics tell apart.
    pub fn new(options: &TimeOptions, sources: Sources, door: Door) -> Self {
        Self {
            options: options.clone(),
            sources,
            door,
            callers: RandomState::new(),
            places: Shares::new(options.max_calls.get(), "calls in progress"),
            bytes: Shares::new(options.max_in_flight_bytes.get(), "bytes of requests held"),
        }
    }

    /// Calls that hold a place.
    pub fn in_progress(&self) -> u64 {
        self.places.used()
    }

    /// Tells metrics what is asked for now.
    pub fn sample(&self) {
        metrics::load(self.places.used(), self.bytes.used());
    }

    fn admit(
        &self,
        rpc: &str,
        request: &Request<Body>,
        arrived: Instant,
        guest: Guest,
        span: trace::Parent,
    ) -> Result<Call, ServiceError> {
        let client_timeout = request.headers().get("grpc-timeout").map(|value| timeout::parse(value.as_bytes()));
        let client_timeout = match client_timeout {
            Some(None) => {
                return Err(ServiceError::invalid("grpc-timeout", "expected 1 to 8 digits and a unit of HMSmun"));
            }
            Some(parsed) => parsed,
            None => None,
        };
        let asked = client_timeout.unwrap_or(self.options.default_timeout_seconds.duration());
        let timeout = asked.min(self.options.max_timeout_seconds.duration());
        let in_time = client_timeout.map_or(timeout, |asked| timeout.min(asked.saturating_sub(BEFORE_TONIC)));
        if in_time.is_zero() {
            return Err(out_of_time(timeout));
        }
        let caller = self.caller(request);
        let place = if rpc == WITHOUT_PLACE { None } else { Some(Arc::new(self.places.one(caller)?)) };
        let received = Received::new(self.bytes.none(caller));
        Ok(Call {
            caller,
            guest,
            received,
            arrived,
            client_timeout,
            timeout,
            deadline: arrived + in_time,
            span,
            _place: place,
        })
    }

    /// One caller per connection.
    fn caller(&self, request: &Request<Body>) -> Caller {
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Caller(self.callers.hash_one(peer))
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
        let arrived = Instant::now();
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let guest = self.layer.door.admit(request.headers());
        let is_stranger = matches!(guest, Err(ServiceError::Unauthenticated(_)));
        let record = Record::begin(&rpc, request.headers(), &self.layer.sources, arrived, is_stranger);
        let log = record.log().clone();
        let admit = |guest| self.layer.admit(&rpc, &request, arrived, guest, record.span());
        let call = match log.in_scope(|| guest.and_then(admit)) {
            Ok(call) => call,
            Err(error) => return Box::pin(async move { Ok(record.accompany(refusal(error))) }),
        };
        request.extensions_mut().insert(call.clone());
        let handler = self.inner.call(request.map(|body| call.received.count(body)));
        let answer = async move {
            // All of it, for its place: a handler that takes its request apart drops the other clone.
            let call = call;
            let response = match tokio::time::timeout_at(call.deadline.into(), handler).await {
                Ok(response) => fault::with_faults_named(response?),
                Err(_) => refusal(out_of_time(call.timeout)),
            };
            Ok::<_, Infallible>(record.accompany(response))
        };
        Box::pin(answer.instrument(log))
    }
}

/// The deadline passed `timeout` after the request's arrival.
pub(super) fn out_of_time(timeout: Duration) -> ServiceError {
    ServiceError::Deadline(format!("no score within the deadline of {:.3} s", timeout.as_secs_f64()))
}

fn refusal(error: ServiceError) -> Response<Body> {
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::server::config::with_defaults;

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
        let response = CallLayer::new(&options(0.05, 0.07), Sources::default(), Door::open())
            .layer(sleeper)
            .call(request)
            .await
            .unwrap_or_else(|never| match never {});
        Status::from_header_map(response.headers()).unwrap()
    }

    fn options(default_timeout: f64, max_timeout: f64) -> TimeOptions {
        with_defaults(&[
            "--max-calls=1",
            &format!("--default-timeout-seconds={default_timeout}"),
            &format!("--max-timeout-seconds={max_timeout}"),
        ])
        .time
    }

    #[tokio::test]
    async fn a_call_keeps_its_place_until_its_answer_whatever_its_handler_drops() {
        let forgetful = tower::service_fn(|mut request: Request<Body>| {
            drop(request.extensions_mut().remove::<Call>());
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let layer = CallLayer::new(&options(60.0, 60.0), Sources::default(), Door::open());
        let mut service = layer.layer(forgetful);
        let first = service.call(Request::new(Body::empty()));
        assert_eq!(layer.in_progress(), 1);
        let second = service.call(Request::new(Body::empty())).await.unwrap_or_else(|never| match never {});
        let status = Status::from_header_map(second.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        drop(first);
        assert_eq!(layer.in_progress(), 0);
    }
}
