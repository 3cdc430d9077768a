//! Media to frames off the async threads: a bounded number of images at once on this process's cores, a bounded number
//! of videos at once in the decoder's processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::config::Config;
use super::error::ServiceError;
use crate::media::{
    Cancel, DecoderConfig, DecoderPool, FrameStack, Frames, ImageLimits, MediaError, VideoLimits, decode_image, resize,
};

/// The frames of one item and the time they took.
pub(super) struct Decoded {
    /// At every side asked for.
    pub frames: Frames,
    /// Bytes to pixels, with the wait for a place.
    pub decode: Duration,
    /// Pixels to squares.
    pub resize: Duration,
}

/// Both ways from bytes to frames.
pub(super) struct Decoding {
    image_limits: ImageLimits,
    image_places: Arc<Semaphore>,
    pool: Arc<DecoderPool>,
    video_places: Arc<Semaphore>,
}

impl Decoding {
    /// Starts the decoder's processes. Blocks.
    pub fn start(config: &Config, max_frames_used: u32) -> Result<Self, MediaError> {
        let (limits, decoding) = (&config.limits, &config.decoding);
        let pool = DecoderPool::start(DecoderConfig {
            program: decoding.decoder.clone(),
            workers: decoding.decoder_workers.get(),
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
            image_places: Arc::new(Semaphore::new(decoding.decode_threads.get())),
            pool: Arc::new(pool),
            video_places: Arc::new(Semaphore::new(decoding.decoder_workers.get())),
        })
    }

    /// The image in `field` at every one of `sides`.
    pub async fn image(&self, field: &str, bytes: Bytes, sides: &[u32]) -> Result<Decoded, ServiceError> {
        let limits = self.image_limits.clone();
        let sides = sides.to_vec();
        on_a_place(&self.image_places, field, move |since| {
            let rgb = decode_image(&bytes, &limits, &Cancel::default())?;
            drop(bytes);
            let decode = since.elapsed();
            let begin = Instant::now();
            let resized = |side| FrameStack { side, rgb: resize(rgb.as_raw(), rgb.width(), rgb.height(), side) };
            let stacks = sides.into_iter().map(resized).collect();
            Ok(Decoded { frames: Frames { count: 1, stacks }, decode, resize: begin.elapsed() })
        })
        .await
    }

    /// The chosen frames of the video in `field` at every one of `sides`.
    pub async fn video(
        &self,
        field: &str,
        bytes: Bytes,
        sides: &[u32],
        deadline: Instant,
    ) -> Result<Decoded, ServiceError> {
        let pool = self.pool.clone();
        let sides = sides.to_vec();
        on_a_place(&self.video_places, field, move |since| {
            let waited = since.elapsed();
            let decoded = pool.decode(&bytes, &sides, deadline, &Cancel::default())?;
            Ok(Decoded { frames: decoded.frames, decode: waited + decoded.decode, resize: decoded.resize })
        })
        .await
    }
}

/// Runs `work` on a blocking thread once there is a place; it is told since when it waits. A caller that goes away
/// while waiting leaves the line; work that has begun keeps its place until it ends.
async fn on_a_place(
    places: &Arc<Semaphore>,
    field: &str,
    work: impl FnOnce(Instant) -> Result<Decoded, MediaError> + Send + 'static,
) -> Result<Decoded, ServiceError> {
    let since = Instant::now();
    let place = places.clone().acquire_owned().await.map_err(ServiceError::internal)?;
    let worked = tokio::task::spawn_blocking(move || {
        let _place = place;
        work(since)
    });
    match worked.await {
        Ok(decoded) => decoded.map_err(|error| ServiceError::media(field, error)),
        Err(panicked) => Err(ServiceError::internal(panicked)),
    }
}
