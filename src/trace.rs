//! Spans: what is told about requests to whoever collects traces. Below every room, as metrics are. No prompt, no file
//! name and no address may become a name or an attribute.
//!
//! They are made after the fact, from the times that every score is measured by anyway, on whichever thread has them.
//! Without [`export`], and for a request that is not sampled, nothing is made and every function here returns at once.

mod clock;
mod export;
mod remote;

use std::sync::OnceLock;
use std::time::Instant;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use self::clock::Clock;
pub use self::export::{ExportError, Exporter, export};
pub use self::remote::Remote;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What other spans hang on: a span that is recorded, or nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parent(Option<Ids>);

#[derive(Debug, Clone, Copy)]
struct Ids {
    trace: TraceId,
    span: SpanId,
    clock: Clock,
}

/// A span that has begun, or nothing where nothing is recorded. It ends when it is dropped, unless it was
/// [ended](Self::end) before.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recorded>>);

#[derive(Debug)]
struct Recorded {
    span: SdkSpan,
    clock: Clock,
}

impl Span {
    /// The span of a call that arrived at `start`: of `remote`'s trace where there is one, and sampled as its caller
    /// decided; else of a trace of its own, sampled by the ratio.
    pub fn of_call(name: &'static str, remote: &Remote, start: Instant) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let clock = Clock::now();
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_start_time(clock.at(start));
        Self::recorded(tracer.build_with_context(builder, &remote.context()), clock)
    }

    /// A part of `parent` that began at `start`.
    pub fn of(parent: Parent, name: &'static str, start: Instant) -> Self {
        let (Some(tracer), Some(ids)) = (TRACER.get(), parent.0) else { return Self(None) };
        let context = Context::new().with_remote_span_context(ids.context());
        let builder = SpanBuilder::from_name(name).with_start_time(ids.clock.at(start));
        Self::recorded(tracer.build_with_context(builder, &context), ids.clock)
    }

    /// What many `items` had in common from `start` on: a trace of its own with a link to every one of them that is
    /// recorded. Nothing where none is.
    pub fn of_all(items: impl Iterator<Item = Parent>, name: &'static str, start: Instant) -> Self {
        let Some(tracer) = TRACER.get() else { return Self(None) };
        let links: Vec<Link> = items.filter_map(|item| Some(Link::with_context(item.0?.context()))).collect();
        if links.is_empty() {
            return Self(None);
        }
        let clock = Clock::now();
        let builder = SpanBuilder::from_name(name).with_start_time(clock.at(start)).with_links(links);
        Self::recorded(tracer.build_with_context(builder, &Context::new()), clock)
    }

    fn recorded(span: SdkSpan, clock: Clock) -> Self {
        Self(span.is_recording().then(|| Box::new(Recorded { span, clock })))
    }

    /// For spans below this one.
    pub fn parent(&self) -> Parent {
        Parent(self.0.as_ref().map(|recorded| {
            let context = recorded.span.span_context();
            Ids { trace: context.trace_id(), span: context.span_id(), clock: recorded.clock }
        }))
    }

    /// Says more about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = &mut self.0 {
            recorded.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Points at `other`, where that is recorded.
    pub fn link(&mut self, other: Parent) {
        if let (Some(recorded), Some(ids)) = (&mut self.0, other.0) {
            recorded.span.add_link(ids.context(), Vec::new());
        }
    }

    /// It failed; `code` is gRPC's name for the failure.
    pub fn fail(&mut self, code: &'static str) {
        if let Some(recorded) = &mut self.0 {
            recorded.span.set_status(Status::error(code));
        }
    }

    /// It ended at `end`, not now.
    pub fn end(mut self, end: Instant) {
        self.close(end);
    }

    fn close(&mut self, end: Instant) {
        if let Some(mut recorded) = self.0.take() {
            let end = recorded.clock.at(end);
            recorded.span.end_with_timestamp(end);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.close(Instant::now());
        }
    }
}

impl Parent {
    /// The trace, as 32 hexadecimal digits.
    pub fn trace_id(self) -> Option<String> {
        self.0.map(|ids| ids.trace.to_string())
    }
}

impl Ids {
    fn context(self) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, false, TraceState::default())
    }
}
