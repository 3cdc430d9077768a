//! The way of spans out of the process: OTLP over gRPC.

use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceId, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample};
use tonic::transport::ClientTlsConfig;

use super::TRACER;

const SERVICE: &str = "pcqa-server";

/// Links of one span. More items than this are in no batch that a device has memory for.
const MAX_LINKS: u32 = 4096;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint does not make sense.
    #[error(transparent)]
    Endpoint(#[from] ExporterBuildError),
    /// It is called a second time.
    #[error("spans are exported already")]
    Twice,
}

/// Sends spans to a collector from a thread of its own. Where the collector does not keep up or is not there, spans are
/// lost and the log says so; nobody else waits.
pub struct Exporter(SdkTracerProvider);

/// Records spans from now on, of calls that come without a decision of their caller's in this `ratio` of cases, and sends
/// them to `endpoint` (`http://host:4317`). Needs a tokio runtime around it; once per process.
pub fn export(endpoint: &str, ratio: f64) -> Result<Exporter, ExportError> {
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if endpoint.starts_with("https:") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
    }
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource::builder()
        .with_service_name(SERVICE)
        .with_attribute(KeyValue::new("service.version", version))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter.build()?)
        .with_sampler(Choice { calls: Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))) })
        .with_max_links_per_span(MAX_LINKS)
        .with_resource(resource)
        .build();
    TRACER.set(provider.tracer(SERVICE)).map_err(|_| ExportError::Twice)?;
    Ok(Exporter(provider))
}

impl Exporter {
    /// Sends what is left, for so long at most. Blocks, and is not for a thread of the runtime. No span is recorded any
    /// more.
    ///
    /// # Errors
    /// What could not be sent in time, in words.
    pub fn finish(self, within: Duration) -> Result<(), String> {
        self.0.shutdown_with_timeout(within).map_err(|error| error.to_string())
    }
}

/// Which spans are recorded.
#[derive(Debug, Clone)]
struct Choice {
    calls: Sampler,
}

impl ShouldSample for Choice {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.calls.should_sample(parent_context, trace_id, name, span_kind, attributes, links);
        // What has links from its beginning is a batch of items that are recorded, and is recorded with them.
        if !links.is_empty() {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}
