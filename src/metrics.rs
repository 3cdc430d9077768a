//! The one table of metric names, and one function per event that moves them. Below every room, so that code and
//! documentation have one source. No prompt, file name or address may become a label.
//!
//! Without [`collect`] nothing is collected and every function here costs a few nanoseconds (`cargo bench --bench
//! engine`).

mod exposition;
mod table;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

pub use self::exposition::Exposition;
use self::table::*;
pub use self::table::{Kind, Label, Metric, TABLE, markdown};

/// Collects metrics from now on. Once per process.
pub fn collect() -> Result<Exposition, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in TABLE {
        if let Kind::Histogram(bounds) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
        }
    }
    let handle = builder.install_recorder()?;
    for metric in TABLE {
        describe(metric);
        begin_at_zero(metric);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!(START_TIME.name).set(now.as_secs_f64());
    Ok(Exposition::new(handle))
}

fn describe(metric: &Metric) {
    let Metric { name, kind, unit, help, .. } = *metric;
    match kind {
        Kind::Counter => metrics::describe_counter!(name, unit, help),
        Kind::Gauge => metrics::describe_gauge!(name, unit, help),
        Kind::Histogram(_) => metrics::describe_histogram!(name, unit, help),
    }
}

/// A counter is there before its first event: otherwise no rate would show that one. Not where labels have values that
/// are not known beforehand.
fn begin_at_zero(metric: &Metric) {
    if !matches!(metric.kind, Kind::Counter) || metric.labels.iter().any(|label| label.values.is_empty()) {
        return;
    }
    let mut series = vec![Vec::new()];
    for label in metric.labels {
        let with = |labels: &Vec<_>| {
            let labels = labels.clone();
            label.values.iter().map(move |value| [labels.clone(), vec![(label.name, *value)]].concat())
        };
        series = series.iter().flat_map(with).collect();
    }
    series.iter().for_each(|labels| counter!(metric.name, labels).increment(0));
}

/// A call of `rpc` ended with `code`; `source` is one of those that the configuration lists, or other, or none.
pub fn request(rpc: &'static str, code: &'static str, source: Arc<str>, elapsed: Duration) {
    counter!(REQUESTS.name, "rpc" => rpc, "code" => code, "source" => source).increment(1);
    histogram!(REQUEST_SECONDS.name, "rpc" => rpc).record(elapsed);
}

/// An item of `track` was scored and spent `elapsed` in `stage`.
pub fn stage(track: &'static str, stage: &'static str, elapsed: Duration) {
    histogram!(STAGE_SECONDS.name, "track" => track, "stage" => stage).record(elapsed);
}

/// An item of `track` was given this score.
pub fn score(track: &'static str, z: f64, disagreement: f64) {
    histogram!(SCORE_Z.name, "track" => track).record(z);
    histogram!(SCORE_DISAGREEMENT.name, "track" => track).record(disagreement);
}

/// So much is asked for now.
pub fn load(calls: u64, in_flight_bytes: u64) {
    gauge!(CALLS.name).set(calls as f64);
    gauge!(IN_FLIGHT_BYTES.name).set(in_flight_bytes as f64);
}

/// A connection was opened.
pub fn connection_opened() {
    gauge!(CONNECTIONS.name).increment(1.0);
}

/// A connection was closed.
pub fn connection_closed() {
    gauge!(CONNECTIONS.name).decrement(1.0);
}

/// So many items of so many frames stand in line now; the oldest has its place for so long.
pub fn queue(items: u64, frames: u64, oldest: Duration) {
    gauge!(QUEUE_ITEMS.name).set(items as f64);
    gauge!(QUEUE_FRAMES.name).set(frames as f64);
    gauge!(QUEUE_AGE.name).set(oldest.as_secs_f64());
}

/// An item got no place in line.
pub fn refused(reason: &'static str) {
    counter!(REFUSED.name, "reason" => reason).increment(1);
}

/// The deadline of so many items passed in line.
pub fn expired(items: usize) {
    counter!(EXPIRED.name).increment(items as u64);
}

/// So many items lost their caller before they had their answer.
pub fn cancelled(items: usize) {
    counter!(CANCELLED.name).increment(items as u64);
}

/// A device took a batch, which may have `max_frames`.
pub fn batch(track: &'static str, reason: &'static str, frames: u32, max_frames: u32) {
    counter!(BATCHES.name, "track" => track, "reason" => reason).increment(1);
    histogram!(BATCH_FRAMES.name, "track" => track).record(frames);
    histogram!(BATCH_FILL.name, "track" => track).record(f64::from(frames) / f64::from(max_frames));
}

/// `device` is there, and keeps no embeddings yet.
pub fn device_known(device: &str) {
    counter!(DEVICE_BUSY.name, "device" => device.to_owned()).increment(0);
    counter!(DEVICE_OUT_OF_MEMORY.name, "device" => device.to_owned()).increment(0);
    text_cache(device, 0, 0, 0, 0);
}

/// `device` has worked for `elapsed` on a batch.
pub fn device_busy(device: &str, elapsed: Duration) {
    let microseconds = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    counter!(DEVICE_BUSY.name, "device" => device.to_owned()).increment(microseconds);
}

/// Bytes of memory of `device` that are used now, and that there are.
pub fn device_memory(device: &str, used: u64, total: u64) {
    gauge!(DEVICE_MEMORY.name, "device" => device.to_owned(), "state" => "used").set(used as f64);
    gauge!(DEVICE_MEMORY.name, "device" => device.to_owned(), "state" => "total").set(total as f64);
}

/// The memory of `device` did not suffice for a batch.
pub fn device_out_of_memory(device: &str) {
    counter!(DEVICE_OUT_OF_MEMORY.name, "device" => device.to_owned()).increment(1);
}

/// Of a batch's distinct prompts, so many embeddings were kept and so many were not; `device` now keeps `entries` of
/// `bytes`.
pub fn text_cache(device: &str, hits: usize, misses: usize, entries: usize, bytes: u64) {
    counter!(TEXT_CACHE.name, "outcome" => "hit").increment(hits as u64);
    counter!(TEXT_CACHE.name, "outcome" => "miss").increment(misses as u64);
    gauge!(TEXT_CACHE_ENTRIES.name, "device" => device.to_owned()).set(entries as f64);
    gauge!(TEXT_CACHE_BYTES.name, "device" => device.to_owned()).set(bytes as f64);
}

/// The media of an item gave no frames.
pub fn decode_failure(track: &'static str, kind: &'static str) {
    counter!(DECODE_FAILURES.name, "track" => track, "kind" => kind).increment(1);
}

/// A process of the video decoder was replaced, or will be when it is next needed.
pub fn decoder_restart(reason: &'static str) {
    counter!(DECODER_RESTARTS.name, "reason" => reason).increment(1);
}

/// A call brought no valid key.
pub fn unauthenticated(reason: &'static str) {
    counter!(UNAUTHENTICATED.name, "reason" => reason).increment(1);
}

/// Calls may come with a key of this holder.
pub fn key_known(holder: &str) {
    for reason in KEY_LIMITS.values {
        counter!(KEY_LIMITED.name, "key" => holder.to_owned(), KEY_LIMITS.name => *reason).increment(0);
    }
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

/// Changed files of keys or certificates were taken over, or not.
pub fn trust_reload(files: &'static str, outcome: &'static str) {
    counter!(TRUST_RELOADS.name, "files" => files, "outcome" => outcome).increment(1);
}

/// Whether the service is ready now.
pub fn ready(is_ready: bool) {
    gauge!(READY.name).set(f64::from(u8::from(is_ready)));
}

/// Whether this bundle is the one that is served now.
pub fn model(name: &str, version: &str, digest: &str, is_served: bool) {
    let labels = [("name", name.to_owned()), ("version", version.to_owned()), ("digest", digest.to_owned())];
    gauge!(MODEL_INFO.name, &labels).set(f64::from(u8::from(is_served)));
}

/// What this program was built from.
pub fn build(version: &'static str, libtorch: &'static str) {
    gauge!(BUILD_INFO.name, "version" => version, "libtorch" => libtorch).set(1.0);
}
