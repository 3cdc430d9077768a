//! Connections from accept to close: TLS, the limits of HTTP/2, an end by age or by the drain. In either end the client
//! is told (GOAWAY) and what it has begun is finished. What is asked on a connection may not enter.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::Service;

use super::config::ConnectionOptions;
use super::shares::{Share, Shares};
use super::trust::Tls;
use crate::engine::Caller;
use crate::metrics;

/// Longest time for a TLS handshake, and for the client's first words of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of these words: `PRI * HTTP/2.0` and what follows.
const PREFACE_BYTES: usize = 24;
/// Wait after a connection could not be accepted: for want of file handles, the next cannot either.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Files for other things than connections: metrics, decoders, bundles, keys.
const OTHER_FILES: u64 = 256;
/// The log hears of connections that cannot be taken no more often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Streams that were reset by the client before they were looked at ("rapid reset"); with more, the connection ends.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that had to be reset for what the client did; with more, the connection ends.
const MAX_ERROR_RESETS: usize = 1024;

/// Each connection's own age differs from the option by up to this part, so that those that came together do not go
/// together.
const AGE_JITTER: f64 = 0.1;

/// Everything that a connection needs.
#[derive(Clone)]
struct Host {
    routes: Routes,
    builder: Builder<TokioExecutor>,
    options: Arc<ConnectionOptions>,
    stop: watch::Receiver<bool>,
}

/// Serves `routes` on `listener` until `stop` turns true, then until the last connection has closed.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Routes,
    options: ConnectionOptions,
    mut stop: watch::Receiver<bool>,
) {
    let places = Shares::new(most_connections(options.max_connections), "connections");
    let addresses = RandomState::new();
    let mut complaint = Complaint::default();
    let host = Host { routes, builder: builder(&options), options: Arc::new(options), stop: stop.clone() };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match places.one(Caller(addresses.hash_one(peer.ip()))) {
                    Ok(place) => {
                        connections.spawn(connection(host.clone(), stream, peer, tls.clone(), place));
                    }
                    Err(_) if complaint.is_due() => {
                        tracing::warn!(open = places.used(), "max_connections: somebody is hung up on");
                    }
                    Err(_) => {}
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if complaint.is_due() {
                        tracing::warn!(%error, "no connection can be accepted");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    // Who comes now is refused by the kernel and can go elsewhere at once.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn builder(options: &ConnectionOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval_seconds.duration())
        .keep_alive_timeout(options.keepalive_timeout_seconds.duration())
        .max_concurrent_streams(options.max_concurrent_streams.get())
        .max_header_list_size(options.max_header_bytes.get())
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS);
    builder
}

/// As many as are wanted and as there can be open files for, which are raised as far as this process may.
fn most_connections(wanted: NonZeroU32) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let (wanted, possible) = (u64::from(wanted.get()), files.saturating_sub(OTHER_FILES).max(1));
    if wanted > possible {
        tracing::warn!(wanted, possible, files, "max_connections: is lowered, for want of open files");
    }
    wanted.min(possible)
}

/// What nobody may fill the log with.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() > COMPLAIN_EVERY);
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

async fn connection(host: Host, stream: TcpStream, peer: SocketAddr, tls: Option<Tls>, _place: Share) {
    let _counted = Counted::new();
    // Answers are small and whole: nothing is won by waiting for more.
    let _ = stream.set_nodelay(true);
    let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
    let Some(tls) = tls else { return host.serve(stream, info).await };
    match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => host.serve(stream, info).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// `stream`, once its client has begun to speak HTTP/2: before that, hyper waits for ever and asks for no sign of life.
async fn greeted(stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<impl AsyncRead + AsyncWrite + Unpin> {
    let (mut reader, writer) = tokio::io::split(stream);
    let mut preface = [0; PREFACE_BYTES];
    match tokio::time::timeout(HANDSHAKE, reader.read_exact(&mut preface)).await {
        Ok(Ok(_)) => Some(tokio::io::join(Cursor::new(preface).chain(reader), writer)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection ended before it spoke HTTP/2");
            None
        }
        Err(_) => {
            tracing::debug!("a connection took too long to speak HTTP/2");
            None
        }
    }
}

/// One connection, for metrics, however it ends.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::connection_opened();
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::connection_closed();
    }
}

impl Host {
    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, info: TcpConnectInfo) {
        let Some(stream) = greeted(stream).await else { return };
        let routes = self.routes;
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            routes.clone().call(request)
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), answer));
        let age = self.options.max_connection_age_seconds.map(|age| jittered(age.duration()));
        let most_after = tokio::select! {
            ended = connection.as_mut() => return said(ended),
            () = after(age) => Some(self.options.max_connection_age_grace_seconds.duration()),
            // The drain has a cap of its own.
            () = told(&mut self.stop) => None,
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => said(ended),
            () = after(most_after) => tracing::debug!("a connection was cut after its age's grace"),
        }
    }
}

fn said(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Resolves when the service stops.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can tell any more: time to stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// For ever without a duration.
async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER))
}

/// Whether `accept` failed because of the connection that it was about: the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
