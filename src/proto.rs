//! The generated gRPC types of `proto/pcqa/v1`, and the codec that turns undecodable messages into INVALID_ARGUMENT.
//! Nothing hand-written beyond the codec may enter.

pub mod codec;

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("pcqa.v1");
}
pub use generated::*;

/// The service's descriptors with comments and imports, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
