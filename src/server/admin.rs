//! The HTTP port for those who watch (HTTP/1.1, `--metrics-listen`):
//!
//! - GET /metrics: every metric, for Prometheus
//! - GET /livez: 200 while the process lives
//! - GET /readyz: 200 while `pcqa.v1.ScoringService` is SERVING, else 503
//!
//! Nobody is asked who they are, so nothing that anybody does here may cost much: a connection is for one request and
//! ends soon, there are few of them, and metrics are written out a few times a second at most.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::health::Health;
use crate::metrics::Exposition;

/// From accept to close.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once. One more ends the oldest: it has had longer than a scrape takes.
const MAX_CONNECTIONS: usize = 32;
/// Most memory for a request's head, in bytes: the least that hyper knows.
const MAX_HEAD_BYTES: usize = 8192;
/// Least time between two expositions.
const PAUSE: Duration = Duration::from_millis(50);
/// How often what was counted is folded together, where nobody reads it.
const TIDY: Duration = Duration::from_secs(5);
/// Wait after a connection could not be accepted: for want of file handles, the next cannot either.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text format.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What is shown.
pub(super) struct Admin {
    pub exposition: Exposition,
    pub health: Health,
    /// Brings those metrics up to date that are not moved by events.
    pub sample: Box<dyn Fn() + Send + Sync>,
}

struct Shown {
    admin: Admin,
    /// When metrics may be written out again; held while they are.
    next: Mutex<Instant>,
}

/// Serves `admin` on `listener`. Does not return.
pub(super) async fn serve(listener: TcpListener, admin: Admin) {
    let shown = Arc::new(Shown { admin, next: Mutex::new(Instant::now()) });
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    let mut tidy = interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stream = tokio::select! {
            _ = tidy.tick() => {
                shown.admin.exposition.tidy();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(connection(shown.clone(), stream)).abort_handle());
    }
}

async fn connection(shown: Arc<Shown>, stream: TcpStream) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let shown = shown.clone();
        async move { Ok::<_, Infallible>(shown.answer(request.method(), request.uri().path()).await) }
    });
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).keep_alive(false).max_buf_size(MAX_HEAD_BYTES);
    match timeout(PATIENCE, builder.serve_connection(TokioIo::new(stream), answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics ended"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

impl Shown {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => answer(StatusCode::OK, METRICS, self.metrics().await),
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" if self.admin.health.is_ready() => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "there is /metrics, /livez and /readyz\n"),
        }
    }

    async fn metrics(&self) -> String {
        let mut next = self.next.lock().await;
        sleep_until(*next).await;
        (self.admin.sample)();
        let text = self.admin.exposition.render();
        *next = Instant::now() + PAUSE;
        text
    }
}

fn answer(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
