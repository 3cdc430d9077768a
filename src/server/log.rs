//! The log on standard error: lines for people, or one JSON object per line.

use std::fmt;
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::config::{LogFormat, LogOptions};

/// What this says of spans that were not exported, `opentelemetry_sdk` says again.
const SAID_TWICE: &str = "opentelemetry-otlp=error";

/// Starts logging to standard error.
pub fn log(options: &LogOptions) {
    let to_stderr = tracing_subscriber::fmt()
        .with_env_filter(format!("{SAID_TWICE},{}", options.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would tell standard error, by a macro that panics when nobody reads there any more: what a task does must not
        // depend on its log.
        .log_internal_errors(false);
    match options.log_format {
        LogFormat::Pretty => to_stderr.init(),
        LogFormat::Json => to_stderr.with_ansi(false).fmt_fields(JsonFields::new()).event_format(Json).init(),
    }
}

/// One flat object: `timestamp`, `level`, `target`, what the event says, and `request_id` and `trace_id` of the call that
/// it belongs to.
struct Json;

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = Map::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>() {
                object.extend(parsed(fields));
            }
        }
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        object.extend(parsed(&fields));
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        object.insert("timestamp".to_owned(), timestamp.into());
        object.insert("level".to_owned(), metadata.level().as_str().into());
        object.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// What [`JsonFields`] has written; nothing where it has written none.
fn parsed(fields: &str) -> Map<String, Value> {
    serde_json::from_str(fields).unwrap_or_default()
}
