//! Media to frames off the async threads: images on a fixed number of threads of this process, videos in a fixed number
//! of decoder processes with a thread each that waits for it. Before both stands a line: see [`Pool`].

mod ahead;
mod pool;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::pool::{Lost, Pool, TooLong, Turn};
use super::call::Terms;
use super::config::Config;
use super::error::ServiceError;
use super::shares::Share;
use crate::media::{
    Cancel, DecoderConfig, DecoderPool, FrameStack, Frames, ImageLimits, MediaError, VideoLimits, decode_image, resize,
};
use crate::metrics;
use crate::model::Track;

/// Encoded media and its share of the bytes in flight, which is held until the last media of a message is let go.
pub(super) struct Media {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl Media {
    pub fn new(bytes: Bytes, share: Arc<Share>) -> Self {
        Self { bytes, _share: share }
    }
}

/// The frames of one item.
pub(super) struct Decoded {
    /// At every side asked for.
    pub frames: Frames,
    /// Pixels to squares.
    pub resize: Duration,
}

/// Media in line or being decoded.
#[must_use = "dropping it cancels the decoding"]
pub(super) struct Pending {
    track: Track,
    field: String,
    deadline: Instant,
    turn: Turn<Result<Decoded, MediaError>>,
}

/// Both ways from bytes to frames.
pub(super) struct Decoding {
    image_limits: ImageLimits,
    images: Pool<Result<Decoded, MediaError>>,
    decoder: Arc<DecoderPool>,
    videos: Pool<Result<Decoded, MediaError>>,
}

impl Decoding {
    /// Starts the threads and the decoder's processes. Blocks.
    pub fn start(config: &Config, max_frames_used: u32) -> Result<Self, MediaError> {
        let (limits, decoding) = (&config.limits, &config.decoding);
        let no_thread = |error| MediaError::Worker(format!("cannot start a thread: {error}"));
        let workers = decoding.decoder_workers.get();
        let decoder = DecoderPool::start(DecoderConfig {
            program: decoding.decoder.clone(),
            workers,
            max_memory: decoding.decoder_memory_bytes.get(),
            limits: VideoLimits {
                max_bytes: limits.max_video_bytes.get(),
                max_pixels: limits.max_video_pixels.get(),
                max_seconds: limits.max_video_seconds.0,
                max_frames: limits.max_video_frames.get(),
                max_frames_used,
            },
        })?;
        let image_limits =
            ImageLimits { max_bytes: limits.max_image_bytes.get(), max_pixels: limits.max_image_pixels.get() };
        Ok(Self {
            image_limits,
            images: Pool::start("image-decoder", decoding.decode_threads.get()).map_err(no_thread)?,
            decoder: Arc::new(decoder),
            videos: Pool::start("video-decoder", workers).map_err(no_thread)?,
        })
    }

    /// Puts the media of `track`, which came in `field`, in line; it will be at every one of `sides`. Refused at once
    /// where the line is too long for the deadline.
    pub fn enter(
        &self,
        track: Track,
        field: &str,
        media: Media,
        sides: &[u32],
        terms: Terms,
    ) -> Result<Pending, ServiceError> {
        let sides = sides.to_vec();
        let turn = match track {
            Track::Image => {
                let limits = self.image_limits.clone();
                let work = move |cancel: &Cancel| image(media, &sides, &limits, cancel);
                self.images.enter(terms, work)
            }
            Track::Video => {
                let decoder = self.decoder.clone();
                let work = move |cancel: &Cancel| {
                    let decoded = decoder.decode(&media.bytes, &sides, terms.deadline, cancel)?;
                    Ok(Decoded { frames: decoded.frames, resize: decoded.resize })
                };
                self.videos.enter(terms, work)
            }
        };
        let turn = turn.map_err(|too_long| refusal(track, too_long))?;
        Ok(Pending { track, field: field.to_owned(), deadline: terms.deadline, turn })
    }
}

impl Pending {
    /// The frames, once they are there.
    pub async fn finished(self) -> Result<Decoded, ServiceError> {
        let Self { track, field, deadline, turn } = self;
        let unfinished = Unfinished { track, deadline };
        let outcome = turn.await;
        std::mem::forget(unfinished);
        if let Some(kind) = failure(&outcome) {
            metrics::decode_failure(track.name(), kind);
        }
        match outcome {
            Ok(decoded) => decoded.map_err(|error| ServiceError::media(&field, error)),
            Err(late @ Lost::Late) => Err(ServiceError::Deadline(format!("{field}: {late}"))),
            Err(Lost::Ended) => Err(ServiceError::Unavailable("the service is shutting down")),
            Err(panicked @ Lost::Panicked(_)) => Err(ServiceError::internal(panicked)),
        }
    }
}

/// As metrics name it; None where there are frames, or nobody wants them any more.
fn failure(outcome: &Result<Result<Decoded, MediaError>, Lost>) -> Option<&'static str> {
    match outcome {
        Ok(Err(error)) => error.kind(),
        Err(Lost::Late) => Some("deadline"),
        Err(Lost::Panicked(_)) => Some("panic"),
        Ok(Ok(_)) | Err(Lost::Ended) => None,
    }
}

/// Media whose caller's clock may ring before that of its decoder.
struct Unfinished {
    track: Track,
    deadline: Instant,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.deadline <= Instant::now() {
            metrics::decode_failure(self.track.name(), "deadline");
        }
    }
}

fn image(media: Media, sides: &[u32], limits: &ImageLimits, cancel: &Cancel) -> Result<Decoded, MediaError> {
    let rgb = decode_image(&media.bytes, limits, cancel)?;
    drop(media);
    let begin = Instant::now();
    let mut stacks = Vec::with_capacity(sides.len());
    for &side in sides {
        if cancel.is_cancelled() {
            return Err(MediaError::Cancelled);
        }
        stacks.push(FrameStack { side, rgb: resize(rgb.as_raw(), rgb.width(), rgb.height(), side) });
    }
    Ok(Decoded { frames: Frames { count: 1, stacks }, resize: begin.elapsed() })
}

fn refusal(track: Track, TooLong { takes, left }: TooLong) -> ServiceError {
    let what = match track {
        Track::Image => "images",
        Track::Video => "videos",
    };
    let message = format!(
        "decoding would take {:.3} s with the {what} that are ahead, the deadline is in {:.3} s",
        takes.as_secs_f64(),
        left.as_secs_f64()
    );
    ServiceError::too_long(message, takes, left)
}
