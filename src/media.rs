//! Bytes to at most 16 RGB frames, resized to the squares that the experts take. Formats, limits, frame choice and the
//! protocol of the decoder workers live here. No tensors, no network, no async, no FFmpeg (that is `pcqa-decoder`'s).

mod cancel;
mod decoder;
mod error;
mod frames;
mod image;
mod limits;
mod resize;
mod sniff;

pub use cancel::Cancel;
pub use decoder::{DecodedVideo, DecoderConfig, DecoderPool, protocol};
pub use error::MediaError;
pub use frames::{FrameStack, Frames, sample_indices};
pub use image::decode_image;
pub use limits::{ImageLimits, VideoLimits};
pub use resize::resize;
