//! Faults of a request that tonic finds before its handler does, under the code that they deserve.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::server::error::ServiceError;

/// How tonic begins what it says of a message in a compression that nobody announced.
const COMPRESSED: &str = "protocol error: received message";
/// How tonic begins what it says of a stream that was reset.
const BROKEN_OFF: &str = "h2 protocol error";

/// tonic says OUT_OF_RANGE to a message over its limit, and INTERNAL to a request without a message, with half of one, or
/// with one that is compressed. Here each is an invalid argument: INTERNAL is a fault of ours. It says UNKNOWN, or INTERNAL
/// with words of HTTP/2, where the connection or the stream broke off: nobody is left to read the answer, but it is
/// counted as what it was.
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
        (Code::Internal, message) if message.starts_with(COMPRESSED) => message.to_owned(),
        (Code::Internal, message) if message.starts_with(BROKEN_OFF) => return gone_away(),
        (Code::Unknown, _) => return gone_away(),
        _ => return status,
    };
    ServiceError::invalid("message", problem).into()
}

fn gone_away() -> Status {
    Status::cancelled("the caller has gone away")
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
        assert_eq!(fault_named(Status::internal("h2 protocol error: reset")).code(), Code::Cancelled);
    }

    #[test]
    fn compressed_messages_are_invalid_arguments() {
        let tonic = "protocol error: received message with compressed-flag but no grpc-encoding was specified";
        let status = fault_named(Status::internal(tonic));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), format!("message: {tonic}"));
    }

    #[test]
    fn a_message_over_the_limit_is_an_invalid_argument_with_both_numbers() {
        let tonic = "Error, decoded message length too large: found 123 bytes, the limit is: 100 bytes";
        let status = fault_named(Status::out_of_range(tonic));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "message: has 123 bytes, the limit is 100");
    }
}
