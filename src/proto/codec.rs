//! Protobuf over gRPC with one difference from tonic's codec: a message that does not decode is the caller's fault.

use std::marker::PhantomData;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};
use tonic_types::{ErrorDetails, StatusExt};

/// Most fields of one message, each element of a list counted: an empty element has two bytes on the wire and many more in
/// memory, so that a message within its limit of bytes could take gigabytes. No message with a use comes near.
const MAX_FIELDS: usize = 65_536;

/// Encodes `T`, decodes `U`; a message that is no valid protobuf (broken wire format, strings that are not UTF-8) ends
/// in INVALID_ARGUMENT with the field in its BadRequest details, where tonic's own codec says INTERNAL.
#[derive(Debug)]
pub struct StrictCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for StrictCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder(PhantomData)
    }
}

/// The decoding half of [`StrictCodec`].
#[derive(Debug)]
pub struct StrictDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic hands over the whole message in one piece.
        if has_too_many_fields(buffer.chunk()) {
            return Err(refusal(&format!("request: has more than {MAX_FIELDS} fields")));
        }
        U::decode(buffer).map(Some).map_err(|error| {
            let mut status = refusal(&error.to_string());
            // Sources do not travel: a client tells by it an answer that it cannot read from a refused request.
            status.set_source(Arc::new(error));
            status
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

fn has_too_many_fields(mut message: &[u8]) -> bool {
    let mut fields = 0;
    while let Ok((tag, wire_type)) = decode_key(&mut message) {
        fields += 1;
        // What is broken is for the decoder to tell.
        if fields > MAX_FIELDS || skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            break;
        }
    }
    fields > MAX_FIELDS
}

/// prost writes `failed to decode Protobuf message: ScoreImageRequest.prompt: invalid string value: …`: the path is
/// between the first and the last colon, and absent when the wire format itself is broken.
fn refusal(error: &str) -> Status {
    let problem = error.split_once(": ").map_or(error, |(_, rest)| rest);
    let (field, problem) = match problem.split_once(": ") {
        Some((path, rest)) if path.contains('.') && !path.contains(' ') => {
            (path.rsplit('.').next().unwrap_or(path), rest)
        }
        _ => ("request", problem),
    };
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(field, problem);
    Status::with_error_details(tonic::Code::InvalidArgument, format!("{field}: {problem}"), details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ScoreImageRequest;

    #[test]
    fn a_string_that_is_not_utf8_names_its_field() {
        let error = ScoreImageRequest::decode(&b"\x0a\x02\xff\xfe"[..]).unwrap_err();
        let status = refusal(&error.to_string());
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "prompt");
        assert!(status.message().starts_with("prompt: invalid string value"), "{}", status.message());
    }

    #[test]
    fn a_list_of_millions_of_nothings_is_not_read() {
        let empty_image = [0x12, 0];
        assert!(!has_too_many_fields(&empty_image.repeat(MAX_FIELDS)));
        assert!(has_too_many_fields(&empty_image.repeat(MAX_FIELDS + 1)));
        assert!(!has_too_many_fields(b"") && !has_too_many_fields(b"\xff\xff\xff"));
        let status = refusal(&format!("request: has more than {MAX_FIELDS} fields"));
        assert_eq!(status.message(), "request: has more than 65536 fields");
    }

    #[test]
    fn broken_wire_format_blames_the_request() {
        let error = ScoreImageRequest::decode(&b"\xff\xff\xff"[..]).unwrap_err();
        let status = refusal(&error.to_string());
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "request");
        assert!(status.message().starts_with("request: "), "{}", status.message());
    }
}
