//! The service from the first log line to the last: listen, load, serve, drain, end.
//!
//! Health (`grpc.health.v1`) is true all the way: `""` says that the process lives, `pcqa.v1.ScoringService` that it
//! scores: not before the warm-up, not while draining, not after the device is lost.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic::service::LayerExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;
use tonic_health::{ServingStatus, pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS};

use super::call::CallLayer;
use super::config::{Config, LogFormat, LogOptions};
use super::load;
use super::scoring::Scoring;
use super::service::Service;
use super::stream::Streams;
use crate::metrics;
use crate::proto;
use crate::proto::scoring_service_server::ScoringServiceServer;

/// A caller that has vanished without a word is noticed after this long, and its places are freed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Calls that one connection may have open at once; more wait at the client. Each costs memory even where it is refused.
const MAX_CONNECTION_CALLS: u32 = 1024;

/// How often a drain looks whether calls are in progress.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// Time for what is written to reach its callers, once no call is in progress.
const LAST_BYTES: Duration = Duration::from_secs(1);

type Transport = JoinHandle<Result<(), tonic::transport::Error>>;

/// How the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A signal asked for it, every call was answered and the device's thread has ended. In every other ending it may
    /// still compute.
    Drained,
    /// A signal asked for it, while the model was loading or with calls that took longer than their grace.
    Asked,
    /// A second signal cut the drain short.
    Cut,
    /// The device was lost.
    DeviceLost,
}

/// Starts logging to standard error.
pub fn log(options: &LogOptions) {
    let to_stderr = tracing_subscriber::fmt()
        .with_env_filter(&options.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match options.log_format {
        LogFormat::Pretty => to_stderr.init(),
        LogFormat::Json => to_stderr.json().init(),
    }
}

/// Serves until a signal or the loss of the device.
pub async fn run(config: Config) -> Result<Ending> {
    let begin = Instant::now();
    let mut signals = Signals::new()?;
    if let Some(listen) = config.metrics_listen {
        metrics::serve(listen).with_context(|| format!("metrics_listen: cannot serve on {listen}"))?;
        tracing::info!(%listen, "serving metrics at /metrics");
    }
    let scoring = Arc::new(OnceLock::new());
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    let (stop, stopped) = oneshot::channel();
    let calls = CallLayer::new(&config.time);
    let mut transport = serve(&config, calls.clone(), scoring.clone(), health_service, stopped).await?;

    let grace = config.time.drain_grace_seconds.duration();
    let loading = tokio::task::spawn_blocking(move || load::load(&config));
    let loaded = tokio::select! {
        loaded = loading => loaded.context("loading panicked")??,
        () = signals.next() => return Ok(Ending::Asked),
    };
    let scoring = scoring.get_or_init(|| Arc::new(loaded));
    set_health(&health, ServingStatus::Serving).await;
    announce_ready(scoring, begin.elapsed());

    let ending = tokio::select! {
        () = signals.next() => Ending::Asked,
        () = scoring.engine.ended() => Ending::DeviceLost,
        ended = &mut transport => {
            ended.context("the transport panicked")?.context("the transport failed")?;
            anyhow::bail!("the transport ended by itself");
        }
    };
    match ending {
        Ending::DeviceLost => tracing::error!("the device is lost, draining"),
        _ => tracing::info!(grace_seconds = grace.as_secs_f64(), "asked to end, draining"),
    }
    set_health(&health, ServingStatus::NotServing).await;
    let _ = stop.send(());
    tokio::select! {
        drained = tokio::time::timeout(grace, drain(transport, &calls, health, scoring)) => match drained {
            Ok(()) => {
                tracing::info!("drained");
                Ok(if ending == Ending::Asked { Ending::Drained } else { ending })
            }
            Err(_) => {
                tracing::warn!(calls = calls.in_progress(), "calls were still in progress after the grace period");
                Ok(ending)
            }
        },
        () = signals.next() => Ok(Ending::Cut),
    }
}

async fn serve(
    config: &Config,
    calls: CallLayer,
    scoring: Arc<OnceLock<Arc<Scoring>>>,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    stopped: oneshot::Receiver<()>,
) -> Result<Transport> {
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listen: cannot bind {}", config.listen))?;
    tracing::info!(listen = %listener.local_addr()?, "listening");
    let max_message_bytes = usize::try_from(config.limits.max_message_bytes.get()).unwrap_or(usize::MAX);
    let service = Service { scoring, streams: Streams::new(&config.time) };
    let service = ScoringServiceServer::new(service).max_decoding_message_size(max_message_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_concurrent_streams(MAX_CONNECTION_CALLS)
        .add_service(calls.named_layer(service))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(tokio::spawn(router.serve_with_incoming_shutdown(incoming, async move {
        // An error means that nobody can ask any more: time to stop as well.
        let _ = stopped.await;
    })))
}

/// Waits until the last call is answered and the device's thread has ended.
async fn drain(transport: Transport, calls: &CallLayer, health: HealthReporter, scoring: &Scoring) {
    while calls.in_progress() > 0 {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    end_watches(health).await;
    // The last answers are on their way. A connection that says nothing never ends by itself.
    match tokio::time::timeout(LAST_BYTES, transport).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the transport failed while draining"),
        Ok(Err(error)) => tracing::warn!(%error, "the transport panicked while draining"),
        Err(_) => tracing::debug!("connections were left open"),
    }
    scoring.engine.stop();
    scoring.engine.ended().await;
}

fn announce_ready(scoring: &Scoring, elapsed: Duration) {
    let options = scoring.engine.facts().options;
    let (device, dtype, tta) = (options.device_name(), options.dtype.name(), options.tta);
    tracing::info!(device, dtype, tta, seconds = elapsed.as_secs_f64(), "ready");
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status(ScoringServiceServer::<Service>::NAME, status).await;
}

/// Watchers have been told NOT_SERVING; a watch has no end of its own and would hold up the drain. Comes last: while
/// calls are finished, health is still true.
async fn end_watches(mut health: HealthReporter) {
    health.clear_service_status("").await;
    health.clear_service_status(ScoringServiceServer::<Service>::NAME).await;
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
