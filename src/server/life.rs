//! The service from the first log line to the last: listen, load, serve, drain, end. [`Health`] is true all the way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::{LayerExt, Routes};
use tonic_health::pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS;
use tonic_health::pb::health_server::{Health as HealthRpcs, HealthServer};

use super::admin::{self, Admin};
use super::call::CallLayer;
use super::config::{Collector, Config};
use super::connections;
use super::health::Health;
use super::load;
use super::reload::Reloads;
use super::served::Served;
use super::service::Service;
use super::stream::Streams;
use super::trust::Trust;
use crate::metrics::{self, Exposition};
use crate::model::LoadOptions;
use crate::proto::scoring_service_server::ScoringServiceServer;
use crate::{proto, trace};

/// How often a drain looks whether calls are in progress.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// Time for what is written to reach its callers, once no call is in progress.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Time for the last traces to reach their collector.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// How the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A signal asked for it and every call was answered.
    Drained,
    /// A signal asked for it, while the model was loading or with calls that took longer than their grace.
    Asked,
    /// A second signal cut the drain short.
    Cut,
    /// The device was lost.
    DeviceLost,
}

/// SIGTERM and SIGINT from the first moment of the process. The kernel ignores a signal to the first process of a
/// container that is not handled: whoever stops the container then waits out its patience.
pub struct EarlySignals(Arc<AtomicBool>);

impl EarlySignals {
    /// To be called first in `main`.
    ///
    /// # Errors
    /// Those of `sigaction`.
    pub fn listen() -> io::Result<Self> {
        let has_come = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, has_come.clone())?;
        }
        Ok(Self(has_come))
    }

    fn have_come(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Serves until a signal or the loss of the device.
pub async fn run(config: Config, early: &EarlySignals) -> Result<Ending> {
    let exporter = match &config.observe.otlp_endpoint {
        Some(Collector(endpoint)) => {
            let ratio = config.observe.trace_sample_ratio;
            let exporter = trace::export(endpoint, ratio).context("otlp_endpoint")?;
            tracing::info!(endpoint, ratio, "exporting traces");
            Some(exporter)
        }
        None => None,
    };
    let ending = serve(config, early).await;
    if let Some(exporter) = exporter.filter(|_| !matches!(ending, Ok(Ending::Cut))) {
        let mut signals = Signals::new()?;
        let finished = tokio::select! {
            finished = tokio::task::spawn_blocking(|| exporter.finish(LAST_SPANS)) => finished,
            () = signals.next() => return ending.and(Ok(Ending::Cut)),
        };
        match finished.context("panicked") {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the last traces may be lost"),
            Err(error) => tracing::warn!("the last traces may be lost: {error:#}"),
        }
    }
    ending
}

async fn serve(config: Config, early: &EarlySignals) -> Result<Ending> {
    let begin = Instant::now();
    let config = Arc::new(config);
    let mut signals = Signals::new()?;
    if early.have_come() {
        tracing::info!("asked to end while starting");
        return Ok(Ending::Asked);
    }
    let admin = match config.observe.metrics_listen {
        Some(listen) => Some(collect_metrics(listen).await?),
        None => None,
    };
    let trust = Trust::load(&config.trust)?;
    let reloads = Reloads::new(config.clone())?;
    let served = Served::nothing();
    let (health, health_rpcs) = Health::start().await;
    let (stop, stopped) = watch::channel(false);
    let sources = config.observe.metrics_sources.clone().unwrap_or_default();
    let calls = CallLayer::new(&config.time, sources, trust.door.clone());
    if let Some((listener, exposition)) = admin {
        let (calls, served) = (calls.clone(), served.clone());
        let sample = Box::new(move || {
            calls.sample();
            served.sample();
        });
        tokio::spawn(admin::serve(listener, Admin { exposition, health: health.clone(), sample }));
    }
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listen: cannot bind {}", config.listen))?;
    announce_listening(&config, &listener)?;
    let routes = routes(&config, &calls, served.clone(), health_rpcs)?;
    let options = config.connections.clone();
    let mut transport = tokio::spawn(connections::serve(listener, trust.tls.clone(), routes, options, stopped));
    tokio::spawn(trust.follow());

    let loading = tokio::task::spawn_blocking({
        let config = config.clone();
        move || load::load(&config, load::open(&config)?)
    });
    let loaded = tokio::select! {
        loaded = loading => loaded.context("loading panicked")??,
        () = signals.next() => {
            tracing::info!("asked to end while loading");
            return Ok(Ending::Asked);
        }
    };
    let options = loaded.engine.facts().options;
    served.put(loaded);
    health.set_ready(true).await;
    announce_ready(&options, begin.elapsed());
    let reloads = tokio::spawn(reloads.follow(served.clone()));

    let ending = tokio::select! {
        () = signals.next() => Ending::Asked,
        () = served.ending() => Ending::DeviceLost,
        ended = &mut transport => {
            ended.context("the transport panicked")?;
            anyhow::bail!("the transport ended by itself");
        }
    };
    health.set_ready(false).await;
    reloads.abort();
    let (wait, grace) = (config.time.drain_wait_seconds.duration(), config.time.drain_grace_seconds.duration());
    let (wait_seconds, grace_seconds) = (wait.as_secs_f64(), grace.as_secs_f64());
    if ending == Ending::DeviceLost {
        tracing::error!("the device is lost, draining");
    } else {
        tracing::info!(wait_seconds, grace_seconds, "asked to end, draining");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = signals.next() => return Ok(Ending::Cut),
        }
    }
    stop.send_replace(true);
    let begin = Instant::now();
    tokio::select! {
        drained = tokio::time::timeout(grace, drain(transport, &calls, health, &served)) => match drained {
            Ok(()) => {
                tracing::info!(seconds = begin.elapsed().as_secs_f64(), "drained");
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

/// From here on: what happens before is not counted.
async fn collect_metrics(listen: SocketAddr) -> Result<(TcpListener, Exposition)> {
    let cannot = || format!("metrics_listen: cannot serve on {listen}");
    let listener = TcpListener::bind(listen).await.with_context(cannot)?;
    let exposition = metrics::collect().with_context(cannot)?;
    metrics::build(env!("CARGO_PKG_VERSION"), env!("PCQA_LIBTORCH_VERSION"));
    tracing::info!(address = %listener.local_addr()?, "serving metrics at /metrics, with /livez and /readyz");
    Ok((listener, exposition))
}

/// Everything that can be asked. Health and reflection say nothing that is not public and need no key.
fn routes(config: &Config, calls: &CallLayer, served: Served, health: HealthServer<impl HealthRpcs>) -> Result<Routes> {
    let max_message_bytes = usize::try_from(config.limits.max_message_bytes.get()).unwrap_or(usize::MAX);
    let service = Service { served, streams: Streams::new(&config.time) };
    let service = ScoringServiceServer::new(service).max_decoding_message_size(max_message_bytes);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
    };
    let routes = Routes::new(calls.named_layer(service))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare())
}

/// Waits until the last call is answered and the device's thread has ended.
async fn drain(mut transport: JoinHandle<()>, calls: &CallLayer, mut health: Health, served: &Served) {
    loop {
        while calls.in_progress() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        health.end_watches().await;
        // The last answers are on their way. A connection that says nothing never ends by itself.
        match tokio::time::timeout(LAST_BYTES, &mut transport).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the transport panicked while draining");
                break;
            }
            // A client calls until it has read that it shall go: what it has begun by then is finished too.
            Err(_) if calls.in_progress() > 0 => {}
            Err(_) => {
                tracing::debug!("connections were left open");
                break;
            }
        }
    }
    if let Ok(scoring) = served.ready() {
        scoring.engine.stop();
        scoring.engine.ended().await;
    }
}

fn announce_listening(config: &Config, listener: &TcpListener) -> Result<()> {
    let trust = &config.trust;
    let (tls, keys) = (trust.tls_certificate.is_some(), trust.keys_file.is_some());
    let client_certificates = trust.tls_client_ca.is_some();
    tracing::info!(tls, client_certificates, keys, listen = %listener.local_addr()?, "listening");
    let is_exposed = !config.listen.ip().to_canonical().is_loopback();
    if is_exposed && keys && !tls {
        tracing::warn!("keys and media travel in the clear: set tls_certificate, or let nobody listen on the way");
    }
    if is_exposed && !keys && !client_certificates {
        tracing::warn!("everybody who reaches this port is let in, as asked for");
    }
    Ok(())
}

fn announce_ready(options: &LoadOptions, elapsed: Duration) {
    let (device, dtype, tta) = (options.device_name(), options.dtype.name(), options.tta);
    tracing::info!(device, dtype, tta, seconds = elapsed.as_secs_f64(), "ready");
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
