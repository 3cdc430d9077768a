//! Every metric: name, kind, unit, labels, help. Dashboards, alerts and documentation are made from this.

use std::fmt::Write;

use metrics::Unit;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus names it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Base unit of the value.
    pub unit: Unit,
    /// What tells its series apart.
    pub labels: &'static [Label],
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

impl Kind {
    /// As Prometheus names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label and all values that it may have; without values, those that the configuration or the bundle names.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// In the order of documentation.
    pub values: &'static [&'static str],
}

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const FRAMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
const RATIO: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const Z: &[f64] = &[-4.0, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0];
const DISAGREEMENT: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0];

const fn label(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values }
}

const RPC: Label = label("rpc", &["ScoreImage", "ScoreVideo", "ScoreStream", "RankImages", "GetModel", "other"]);
/// gRPC's codes as tonic names them.
const CODE: Label = label(
    "code",
    &[
        "Ok",
        "Cancelled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ],
);
const SOURCE: Label = label("source", &[]);
const TRACK: Label = label("track", &["image", "video"]);
const STAGE: Label = label("stage", &["receive", "decode", "resize", "queue", "text", "vision", "head"]);
const DEVICE: Label = label("device", &[]);
pub(super) const KEY_LIMITS: Label = label("reason", &["calls", "rate"]);

const fn counter(name: &'static str, unit: Unit, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help }
}

const fn gauge(name: &'static str, unit: Unit, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, labels, help }
}

const fn histogram(
    name: &'static str,
    bounds: &'static [f64],
    unit: Unit,
    labels: &'static [Label],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(bounds), unit, labels, help }
}

/// Every metric that there is: the constants that name them, and [`TABLE`] with all of these.
macro_rules! table {
    ($($name:ident = $metric:expr;)*) => {
        $(pub(super) const $name: Metric = $metric;)*

        /// Every metric that there is.
        pub const TABLE: &[Metric] = &[$($name),*];
    };
}

table! {
    REQUESTS = counter(
        "pcqa_requests_total",
        Unit::Count,
        &[RPC, CODE, SOURCE],
        "calls that ended, by rpc, gRPC code and source: metadata x-pcqa-source where --metrics-sources lists it, else \
         other; empty where there was none",
    );
    REQUEST_SECONDS = histogram(
        "pcqa_request_seconds",
        SECONDS,
        Unit::Seconds,
        &[RPC],
        "time from the arrival of a call's head to the end of its answer",
    );
    STAGE_SECONDS = histogram(
        "pcqa_stage_seconds",
        SECONDS,
        Unit::Seconds,
        &[TRACK, STAGE],
        "time of each stage of a scored item; text, vision and head are those of its batch",
    );
    CALLS = gauge("pcqa_calls_in_progress", Unit::Count, &[], "calls that hold a place (--max-calls)");
    IN_FLIGHT_BYTES = gauge(
        "pcqa_in_flight_bytes",
        Unit::Bytes,
        &[],
        "bytes of requests that have arrived and are not decoded yet (--max-in-flight-bytes)",
    );
    CONNECTIONS = gauge("pcqa_connections", Unit::Count, &[], "open connections of the gRPC port");
    QUEUE_FRAMES =
        gauge("pcqa_queue_frames", Unit::Count, &[], "frames that have a place in line, decoded or not (--max-queue-frames)");
    QUEUE_ITEMS = gauge("pcqa_queue_items", Unit::Count, &[], "items that have a place in line, decoded or not");
    QUEUE_AGE = gauge(
        "pcqa_queue_oldest_age_seconds",
        Unit::Seconds,
        &[],
        "how long the item that has stood in line longest has had its place; 0 where nobody stands in line",
    );
    REFUSED = counter(
        "pcqa_items_refused_total",
        Unit::Count,
        &[label("reason", &["queue_full", "share_full", "hopeless"])],
        "items that got no place in line: the line is full, its caller holds its share of it, or it would be too late",
    );
    EXPIRED = counter("pcqa_items_expired_total", Unit::Count, &[], "items whose deadline passed in line");
    CANCELLED = counter(
        "pcqa_items_cancelled_total",
        Unit::Count,
        &[],
        "items whose caller went away before they had their answer",
    );
    BATCHES = counter(
        "pcqa_batches_total",
        Unit::Count,
        &[TRACK, label("reason", &["full", "delay", "alone"])],
        "batches that devices took: full, with a first item that had waited long enough, or because nothing could join",
    );
    BATCH_FRAMES = histogram("pcqa_batch_frames", FRAMES, Unit::Count, &[TRACK], "frames of a batch");
    BATCH_FILL = histogram(
        "pcqa_batch_fill_ratio",
        RATIO,
        Unit::Count,
        &[TRACK],
        "frames of a batch over the most that it may have (--max-batch-frames)",
    );
    TEXT_CACHE = counter(
        "pcqa_text_cache_requests_total",
        Unit::Count,
        &[label("outcome", &["hit", "miss"])],
        "distinct prompts of batches: hit where the embedding was kept, miss where the text towers ran",
    );
    TEXT_CACHE_BYTES =
        gauge("pcqa_text_cache_bytes", Unit::Bytes, &[DEVICE], "prompt embeddings that are kept on a device");
    TEXT_CACHE_ENTRIES =
        gauge("pcqa_text_cache_entries", Unit::Count, &[DEVICE], "prompts whose embeddings are kept on a device");
    DECODE_FAILURES = counter(
        "pcqa_decode_failures_total",
        Unit::Count,
        &[
            TRACK,
            label(
                "kind",
                &[
                    "empty",
                    "too_many_bytes",
                    "unknown_format",
                    "wrong_kind",
                    "too_many_pixels",
                    "too_long_side",
                    "zero_sized",
                    "too_much_memory",
                    "too_long",
                    "too_many_frames",
                    "no_video_stream",
                    "corrupt",
                    "deadline",
                    "worker",
                    "panic",
                ],
            ),
        ],
        "media that gave no frames; deadline, worker and panic are no fault of the bytes",
    );
    DECODER_RESTARTS = counter(
        "pcqa_decoder_restarts_total",
        Unit::Count,
        &[label("reason", &["corrupt", "cancelled", "deadline", "broken", "retired"])],
        "processes of the video decoder that were replaced: after a damaged video, with a caller that went away, at a \
         deadline, after a crash or a word out of turn, after half an hour of work",
    );
    DEVICE_BUSY = counter(
        "pcqa_device_busy_seconds_total",
        Unit::Seconds,
        &[DEVICE],
        "time that a device worked on batches; its rate is the utilisation, of all devices of that name together",
    );
    DEVICE_MEMORY = gauge(
        "pcqa_device_memory_bytes",
        Unit::Bytes,
        &[DEVICE, label("state", &["used", "total"])],
        "memory of a device; of the CPU: what this process has resident, and the most that it may have; of a GPU: what all \
         processes use, and all that it has",
    );
    DEVICE_OUT_OF_MEMORY = counter(
        "pcqa_device_out_of_memory_total",
        Unit::Count,
        &[DEVICE],
        "batches for which a device's memory did not suffice; later ones are smaller",
    );
    SCORE_Z = histogram(
        "pcqa_score_z",
        Z,
        Unit::Count,
        &[TRACK],
        "z of scored items: a drift of its distribution is a drift of what is sent, or a fault of the bundle",
    );
    SCORE_DISAGREEMENT = histogram(
        "pcqa_score_disagreement",
        DISAGREEMENT,
        Unit::Count,
        &[TRACK],
        "standard deviation of the experts' z of scored items",
    );
    UNAUTHENTICATED = counter(
        "pcqa_unauthenticated_total",
        Unit::Count,
        &[label("reason", &["missing", "malformed", "unknown"])],
        "calls without a valid API key",
    );
    KEY_LIMITED = counter(
        "pcqa_key_limited_total",
        Unit::Count,
        &[label("key", &[]), KEY_LIMITS],
        "calls and items over a limit of their API key, by the key's name",
    );
    CERTIFICATE_EXPIRY = gauge(
        "pcqa_tls_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        &[],
        "when the server's certificate ends, in seconds since 1970",
    );
    RELOADS = counter(
        "pcqa_bundle_reloads_total",
        Unit::Count,
        &[label("outcome", &["loaded", "unchanged", "failed"])],
        "attempts to load the bundle again; where one failed, the bundle before it is still served",
    );
    TRUST_RELOADS = counter(
        "pcqa_trust_reloads_total",
        Unit::Count,
        &[label("files", &["keys", "certificates"]), label("outcome", &["loaded", "failed"])],
        "attempts to take over changed files of API keys or certificates; where one failed, the old ones hold",
    );
    READY = gauge(
        "pcqa_ready",
        Unit::Count,
        &[],
        "1 where pcqa.v1.ScoringService is SERVING, else 0: while loading, while draining, without a device",
    );
    START_TIME =
        gauge("pcqa_start_time_seconds", Unit::Seconds, &[], "when this process began, in seconds since 1970");
    MODEL_INFO = gauge(
        "pcqa_model_info",
        Unit::Count,
        &[label("name", &[]), label("version", &[]), label("digest", &[])],
        "1, with the bundle that is served now",
    );
    BUILD_INFO = gauge(
        "pcqa_build_info",
        Unit::Count,
        &[label("version", &[]), label("libtorch", &[])],
        "1, with the versions of this program and of libtorch",
    );
}

/// The table as Markdown, for people.
pub fn markdown() -> String {
    let mut text = String::from("| name | type | unit | labels | help |\n|---|---|---|---|---|\n");
    for metric in TABLE {
        let unit = match (metric.unit, metric.name.ends_with("_ratio")) {
            (_, true) => "ratio",
            (Unit::Count, _) => "",
            (unit, _) => unit.as_str(),
        };
        let labels: Vec<String> = metric.labels.iter().map(Label::markdown).collect();
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join("; "));
    }
    text
}

impl Label {
    fn markdown(&self) -> String {
        match self.values {
            [] => format!("`{}`", self.name),
            values => format!("`{}`: {}", self.name, values.join(", ")),
        }
    }
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
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(base.ends_with("_seconds"), matches!(metric.unit, Unit::Seconds), "{name}");
            assert_eq!(base.ends_with("_bytes"), matches!(metric.unit, Unit::Bytes), "{name}");
        }
    }

    #[test]
    fn help_and_labels_stand_in_one_cell_of_the_markdown_each() {
        let text = markdown();
        assert_eq!(text.lines().count(), TABLE.len() + 2);
        assert!(text.lines().all(|line| line.matches('|').count() == 6), "{text}");
        assert!(TABLE.iter().all(|metric| text.contains(&format!("| `{}` |", metric.name))));
    }
}
