//! Everything that a request can fail of, mapped once to gRPC.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::engine::EngineError;
use crate::media::MediaError;
use crate::proto;

/// Violations that the message names; the details name more.
const NAMED: usize = 3;
/// Violations that the details name.
const DETAILED: usize = 48;
/// Bytes of the one problem of a request, or of all problems together in the details. Message and details travel in
/// HTTP headers, the details in base64 and with the message in them; many clients take 8 KiB of headers in all.
const PROBLEM_BYTES: usize = 512;
const DETAIL_BYTES: usize = 1024;

/// The shortest wait that is told to who came while the line was too long for its deadline.
const MIN_RETRY: Duration = Duration::from_millis(50);

/// Why a request has no score.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum ServiceError {
    /// The request is at fault: the fields with what is wrong, the limit and the value. Never empty.
    #[error("{}", list(.0))]
    Invalid(Vec<(String, String)>),
    /// There is no room now.
    #[error("{message}")]
    Overloaded {
        /// What is full, the limit and the value.
        message: String,
        /// When there will be room.
        retry_after: Duration,
    },
    /// The deadline passed.
    #[error("{0}")]
    Deadline(String),
    /// The caller did not say who it is.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The service cannot score now: it loads, drains or has lost a part.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A fault of ours, logged under this id.
    #[error("internal error {0:016x}")]
    Internal(u64),
}

impl ServiceError {
    /// One offending field.
    pub fn invalid(field: &str, problem: impl Into<String>) -> Self {
        Self::Invalid(vec![(field.to_owned(), problem.into())])
    }

    /// Of media in `field`.
    pub fn media(field: &str, error: MediaError) -> Self {
        match error {
            MediaError::Deadline { .. } => Self::Deadline(format!("{field}: {error}")),
            MediaError::Worker(problem) => {
                tracing::error!(problem, "the video decoder cannot run");
                Self::Unavailable("the video decoder is not available")
            }
            MediaError::Cancelled => Self::Unavailable("the request was cancelled"),
            error => Self::invalid(field, error.to_string()),
        }
    }

    /// The line would take `takes`, of which only `left` are left: RESOURCE_EXHAUSTED at the door.
    pub fn too_long(message: String, takes: Duration, left: Duration) -> Self {
        Self::Overloaded { message, retry_after: takes.saturating_sub(left).max(MIN_RETRY) }
    }

    /// A fault of ours: `problem` goes to the log, its id to the caller.
    pub fn internal(problem: impl std::fmt::Display) -> Self {
        // The standard library's only source of randomness.
        let id = std::hash::RandomState::new().build_hasher().finish();
        tracing::error!(id = format!("{id:016x}"), %problem, "internal error");
        Self::Internal(id)
    }

    /// As gRPC calls it.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { retry_after, .. } | EngineError::ShareFull { retry_after, .. } => {
                Self::Overloaded { message: error.to_string(), retry_after }
            }
            EngineError::Hopeless { wait, left } => Self::too_long(error.to_string(), wait, left),
            EngineError::Deadline => Self::Deadline(error.to_string()),
            EngineError::Stopped => Self::Unavailable("the service is shutting down"),
            EngineError::TooLarge { .. } | EngineError::Model(_) => Self::internal(error),
        }
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let mut details = ErrorDetails::new();
        match &error {
            ServiceError::Invalid(violations) => {
                details.set_bad_request(detailed(violations));
            }
            ServiceError::Overloaded { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
            }
            _ => {}
        }
        Status::with_error_details(error.code(), error.to_string(), details)
    }
}

impl From<ServiceError> for proto::ItemError {
    fn from(error: ServiceError) -> Self {
        let field = match &error {
            ServiceError::Invalid(violations) => violations.first().map(|(field, _)| field.clone()),
            _ => None,
        };
        let retry_delay = match &error {
            ServiceError::Overloaded { retry_after, .. } => Some(super::convert::duration(*retry_after)),
            _ => None,
        };
        Self {
            code: i32::from(error.code()),
            message: error.to_string(),
            field: field.unwrap_or_default(),
            retry_delay,
        }
    }
}

/// The first violations in words, and how many more there are.
fn list(violations: &[(String, String)]) -> String {
    let most = PROBLEM_BYTES / violations.len().clamp(1, NAMED);
    let line = |(field, problem): &(String, String)| format!("{field}: {}", cut(problem, most));
    let mut lines: Vec<String> = violations.iter().take(NAMED).map(line).collect();
    let more = violations.len().saturating_sub(NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}

/// Every violation, the more there are the shorter; the last one stands for those that do not fit.
fn detailed(violations: &[(String, String)]) -> Vec<FieldViolation> {
    let most = (DETAIL_BYTES / violations.len().clamp(1, DETAILED)).min(PROBLEM_BYTES);
    let named = violations.iter().take(DETAILED);
    let mut detailed: Vec<_> = named.map(|(field, problem)| FieldViolation::new(field, cut(problem, most))).collect();
    let more = violations.len().saturating_sub(DETAILED);
    if more > 0 {
        detailed.push(FieldViolation::new("", format!("and {more} more")));
    }
    detailed
}

/// `text`, or its beginning with an ellipsis, in at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    const ELLIPSIS: &str = "...";
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}{ELLIPSIS}", prefix(text, most.saturating_sub(ELLIPSIS.len())))
}

/// The longest beginning of `text` that has at most `most` bytes.
pub(super) fn prefix(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offending_field_is_named_in_message_and_details() {
        let error = ServiceError::Invalid(vec![
            ("images[1]".to_owned(), "is empty".to_owned()),
            ("images[3]".to_owned(), "has 9 bytes, the limit is 8".to_owned()),
        ]);
        let status = Status::from(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "images[1]: is empty; images[3]: has 9 bytes, the limit is 8");
        let details = status.get_error_details();
        let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["images[1]", "images[3]"]);
    }

    #[test]
    fn however_many_fields_are_at_fault_the_refusal_fits_into_http_headers() {
        for problem in ["is empty".to_owned(), "is 30000x30000 \"\u{e9}\" ".repeat(100)] {
            for count in [1, 2, 3, 4, 24, 32, 48, 49, 1000usize] {
                let violations = (0..count).map(|index| (format!("images[{index}]"), problem.clone())).collect();
                let error = ServiceError::Invalid(violations);
                let more = format!("and {} more", count.saturating_sub(NAMED));
                assert_eq!(error.to_string().ends_with(&more), count > NAMED, "{error}");
                let status = Status::from(error);
                let details = status.get_error_details();
                let fields = &details.bad_request().unwrap().field_violations;
                assert_eq!(fields.len(), count.min(DETAILED + 1));
                assert_eq!(fields[count.min(DETAILED) - 1].field, format!("images[{}]", count.min(DETAILED) - 1));
                let headers = status.into_http::<()>().into_parts().0.headers;
                let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                assert!(bytes < 5000, "{count}: {bytes}");
            }
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(prefix("a\u{e9}", 2), "a");
        assert_eq!(prefix("a\u{e9}", 3), "a\u{e9}");
        assert_eq!(cut("a\u{e9}cdef", 6), "a\u{e9}...");
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let retry_after = Duration::from_millis(250);
        let full = EngineError::QueueFull { queued: 7, limit: 8, retry_after };
        let status = Status::from(ServiceError::from(full.clone()));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(retry_after));
        let item = proto::ItemError::from(ServiceError::from(full));
        assert_eq!(item.retry_delay, Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }));
    }

    #[test]
    fn an_internal_error_keeps_its_cause_to_the_log() {
        let status = Status::from(ServiceError::internal("secret cause"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"), "{}", status.message());
    }
}
