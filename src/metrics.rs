//! The one table of metric names, and one function per event that moves them. Below every room, so that code and
//! documentation have one source. No prompt, file name or address may become a label.
//!
//! Without [`serve`] nothing is collected and every function here costs a few nanoseconds (`cargo bench --bench engine`).

use std::net::SocketAddr;
use std::time::Duration;

use metrics::{Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus names it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Base unit of the value.
    pub unit: Unit,
    /// The help text.
    pub help: &'static str,
}

/// Kind of a metric.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values up to each of these bounds.
    Histogram(&'static [f64]),
}

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const FRAMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const fn metric(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind, unit, help }
}

const REQUESTS: Metric =
    metric("pcqa_requests_total", Kind::Counter, Unit::Count, "calls answered, by rpc and gRPC code");
const REQUEST_SECONDS: Metric = metric(
    "pcqa_request_seconds",
    Kind::Histogram(SECONDS),
    Unit::Seconds,
    "time from the arrival of a call's head to its answer, by rpc",
);
const STAGE_SECONDS: Metric = metric(
    "pcqa_stage_seconds",
    Kind::Histogram(SECONDS),
    Unit::Seconds,
    "time of each stage of a scored item, by stage and track; text, vision and head are those of its batch",
);
const QUEUE_FRAMES: Metric =
    metric("pcqa_queue_frames", Kind::Gauge, Unit::Count, "frames that have a place in line, decoded or not");
const REFUSED: Metric = metric(
    "pcqa_items_refused_total",
    Kind::Counter,
    Unit::Count,
    "items that got no place in line, by reason: queue_full, share_full, hopeless",
);
const EXPIRED: Metric =
    metric("pcqa_items_expired_total", Kind::Counter, Unit::Count, "items whose deadline passed in line");
const BATCHES: Metric = metric(
    "pcqa_batches_total",
    Kind::Counter,
    Unit::Count,
    "batches that devices took, by track and reason: full, delay (its first item had waited long enough), alone \
     (nothing could join)",
);
const BATCH_FRAMES: Metric =
    metric("pcqa_batch_frames", Kind::Histogram(FRAMES), Unit::Count, "frames of a batch, by track");
const TEXT_CACHE: Metric = metric(
    "pcqa_text_cache_requests_total",
    Kind::Counter,
    Unit::Count,
    "distinct prompts of batches, by outcome: hit (the embedding was kept) or miss (the text towers ran)",
);
const TEXT_CACHE_BYTES: Metric =
    metric("pcqa_text_cache_bytes", Kind::Gauge, Unit::Bytes, "prompt embeddings that are kept on a device, by device");
const TEXT_CACHE_ENTRIES: Metric =
    metric("pcqa_text_cache_entries", Kind::Gauge, Unit::Count, "prompts whose embeddings are kept, by device");
const UNAUTHENTICATED: Metric = metric(
    "pcqa_unauthenticated_total",
    Kind::Counter,
    Unit::Count,
    "calls without a valid API key, by reason: missing, malformed, unknown",
);
const KEY_LIMITED: Metric = metric(
    "pcqa_key_limited_total",
    Kind::Counter,
    Unit::Count,
    "calls and items over a limit of their API key, by the key's name and reason: calls, rate",
);
const CERTIFICATE_EXPIRY: Metric = metric(
    "pcqa_tls_certificate_expiry_timestamp_seconds",
    Kind::Gauge,
    Unit::Seconds,
    "when the server's certificate ends, in seconds since 1970",
);
const RELOADS: Metric = metric(
    "pcqa_bundle_reloads_total",
    Kind::Counter,
    Unit::Count,
    "attempts to load the bundle again, by outcome: loaded, unchanged, failed (the old one is still served)",
);

/// Every metric that there is.
pub const TABLE: &[Metric] = &[
    REQUESTS,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    QUEUE_FRAMES,
    REFUSED,
    EXPIRED,
    BATCHES,
    BATCH_FRAMES,
    TEXT_CACHE,
    TEXT_CACHE_BYTES,
    TEXT_CACHE_ENTRIES,
    UNAUTHENTICATED,
    KEY_LIMITED,
    CERTIFICATE_EXPIRY,
    RELOADS,
];

/// Collects metrics from now on and serves them at `http://listen/metrics`. Needs a tokio runtime around it; once per
/// process.
pub fn serve(listen: SocketAddr) -> Result<(), BuildError> {
    let mut builder = PrometheusBuilder::new().with_http_listener(listen);
    for metric in TABLE {
        if let Kind::Histogram(bounds) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
        }
    }
    builder.install()?;
    TABLE.iter().for_each(describe);
    Ok(())
}

fn describe(metric: &Metric) {
    let Metric { name, kind, unit, help } = *metric;
    match kind {
        Kind::Counter => metrics::describe_counter!(name, unit, help),
        Kind::Gauge => metrics::describe_gauge!(name, unit, help),
        Kind::Histogram(_) => metrics::describe_histogram!(name, unit, help),
    }
}

/// A call of `rpc` was answered with `code`.
pub fn request(rpc: &'static str, code: String, elapsed: Duration) {
    counter!(REQUESTS.name, "rpc" => rpc, "code" => code).increment(1);
    histogram!(REQUEST_SECONDS.name, "rpc" => rpc).record(elapsed);
}

/// An item of `track` was scored and spent `elapsed` in `stage`.
pub fn stage(track: &'static str, stage: &'static str, elapsed: Duration) {
    histogram!(STAGE_SECONDS.name, "track" => track, "stage" => stage).record(elapsed);
}

/// So many frames have a place in line.
pub fn queue_frames(frames: u64) {
    gauge!(QUEUE_FRAMES.name).set(frames as f64);
}

/// An item got no place in line.
pub fn refused(reason: &'static str) {
    counter!(REFUSED.name, "reason" => reason).increment(1);
}

/// The deadline of so many items passed in line.
pub fn expired(items: usize) {
    counter!(EXPIRED.name).increment(items as u64);
}

/// A device took a batch.
pub fn batch(track: &'static str, reason: &'static str, frames: u32) {
    counter!(BATCHES.name, "track" => track, "reason" => reason).increment(1);
    histogram!(BATCH_FRAMES.name, "track" => track).record(frames);
}

/// Of a batch's distinct prompts, so many embeddings were kept and so many were not; `device` now keeps `entries` of
/// `bytes`.
pub fn text_cache(device: &str, hits: usize, misses: usize, entries: usize, bytes: u64) {
    counter!(TEXT_CACHE.name, "outcome" => "hit").increment(hits as u64);
    counter!(TEXT_CACHE.name, "outcome" => "miss").increment(misses as u64);
    gauge!(TEXT_CACHE_ENTRIES.name, "device" => device.to_owned()).set(entries as f64);
    gauge!(TEXT_CACHE_BYTES.name, "device" => device.to_owned()).set(bytes as f64);
}

/// A call brought no valid key.
pub fn unauthenticated(reason: &'static str) {
    counter!(UNAUTHENTICATED.name, "reason" => reason).increment(1);
}

/// A call or an item was over a limit of the key's holder.
pub fn key_limited(holder: &str, reason: &'static str) {
    counter!(KEY_LIMITED.name, "key" => holder.to_owned(), "reason" => reason).increment(1);
}

/// The certificate that is shown from now on ends then, since 1970.
pub fn certificate_expiry(end: Duration) {
    gauge!(CERTIFICATE_EXPIRY.name).set(end.as_secs_f64());
}

/// The bundle was loaded again, or not.
pub fn reload(outcome: &'static str) {
    counter!(RELOADS.name, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_in_prometheus_s_style() {
        for (position, metric) in TABLE.iter().enumerate() {
            let name = metric.name;
            assert!(TABLE[..position].iter().all(|other| other.name != name), "{name} twice");
            assert!(name.starts_with("pcqa_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(metric.kind, Kind::Counter), "{name}");
            assert_eq!(name.ends_with("_seconds"), matches!(metric.unit, Unit::Seconds), "{name}");
            assert_eq!(name.ends_with("_bytes"), matches!(metric.unit, Unit::Bytes), "{name}");
        }
    }
}
