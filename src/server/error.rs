//! Everything that a request can fail of, mapped once to gRPC.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::engine::EngineError;
use crate::media::MediaError;
use crate::proto;

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
            error => Self::invalid(field, error.to_string()),
        }
    }

    /// A fault of ours: `problem` goes to the log, its id to the caller.
    pub fn internal(problem: impl std::fmt::Display) -> Self {
        // The standard library's only source of randomness.
        let id = std::hash::RandomState::new().build_hasher().finish();
        tracing::error!(id = format!("{id:016x}"), %problem, "internal error");
        Self::Internal(id)
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { retry_after, .. } => Self::Overloaded { message: error.to_string(), retry_after },
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
                let violations = violations.iter().map(|(field, problem)| FieldViolation::new(field, problem));
                details.set_bad_request(violations.collect::<Vec<_>>());
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

fn list(violations: &[(String, String)]) -> String {
    let lines: Vec<String> = violations.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
    lines.join("; ")
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
