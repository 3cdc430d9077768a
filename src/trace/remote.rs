//! The trace that a caller is in.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// What a caller says of its trace (W3C Trace Context); nothing where it says none, or nonsense.
#[derive(Debug, Clone, Default)]
pub struct Remote(Option<Context>);

struct Headers<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Remote {
    /// From the headers of these names.
    pub fn of(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let Some(traceparent) = traceparent else { return Self(None) };
        let headers = Headers { traceparent, tracestate };
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        Self(context.has_active_span().then_some(context))
    }

    /// The caller's trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|context| context.span().span_context().trace_id().to_string())
    }

    pub(super) fn context(&self) -> Context {
        self.0.clone().unwrap_or_default()
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_over_and_nonsense_is_none() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for flags in ["00", "01"] {
            let remote = Remote::of(Some(&format!("00-{id}-b7ad6b7169203331-{flags}")), Some("vendor=1"));
            assert_eq!(remote.trace_id().as_deref(), Some(id));
            assert_eq!(remote.context().span().span_context().is_sampled(), flags == "01");
        }
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        for nonsense in
            ["", "00", "a lighthouse", &zero, &format!("00-{id}-01"), &format!("ff-{id}-b7ad6b7169203331-01")]
        {
            assert_eq!(Remote::of(Some(nonsense), None).trace_id(), None, "{nonsense}");
        }
        assert_eq!(Remote::of(None, Some("vendor=1")).trace_id(), None);
    }
}
