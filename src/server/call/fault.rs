//! Faults of a request that tonic finds before its handler does, under the code that they deserve.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::server::error::ServiceError;

/// tonic says OUT_OF_RANGE to a message over its limit, and INTERNAL to a request without a message or with half of one.
/// Here each is an invalid argument. It says UNKNOWN where the connection or the stream broke off: nobody is left to read
/// the answer, but it is counted as what it was.
pub(in crate::server) fn fault_named(status: Status) -> Status {
    let problem = match (status.code(), status.message()) {
        (Code::OutOfRange, message) => {
            let digits = message.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            match digits.collect::<Vec<_>>()[..] {
                [found, limit] => format!("has {found} bytes, the limit is {limit}"),
                _ => message.to_owned(),
            }
        }
        (Code::Internal, "Missing request message.") => "is missing".to_owned(),
        (Code::Internal, "Unexpected EOF decoding stream.") => "ends before its announced length".to_owned(),
        (Code::Unknown, _) => return Status::cancelled("the caller has gone away"),
        _ => return status,
    };
    ServiceError::invalid("message", problem).into()
}

/// As [`fault_named`], of a whole response.
pub(super) fn with_faults_named(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if matches!(status.code(), Code::OutOfRange | Code::Internal | Code::Unknown) => {
            fault_named(status).into_http()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_whole_message_are_invalid_arguments() {
        for tonic in ["Missing request message.", "Unexpected EOF decoding stream."] {
            assert_eq!(fault_named(Status::internal(tonic)).code(), Code::InvalidArgument);
        }
        assert_eq!(fault_named(Status::internal("internal error 0")).code(), Code::Internal);
        assert_eq!(fault_named(Status::unknown("h2 protocol error")).code(), Code::Cancelled);
    }

    #[test]
    fn a_message_over_the_limit_is_an_invalid_argument_with_both_numbers() {
        let tonic = "Error, decoded message length too large: found 123 bytes, the limit is: 100 bytes";
        let status = fault_named(Status::out_of_range(tonic));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "message: has 123 bytes, the limit is 100");
    }
}
