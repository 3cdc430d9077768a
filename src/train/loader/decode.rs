//! One file to frames, with the server's own decoders and limits: what cannot be served is not trained on.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::LoaderOptions;
use crate::media::{
    Cancel, DecoderConfig, DecoderPool, FrameStack, Frames, ImageLimits, MediaError, VideoLimits, decode_image, resize,
};
use crate::model::Track;
use crate::train::dataset::Item;

/// Longest time for one video. Nobody waits for an answer, so that only what hangs is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Most address space of a decoder process, the server's default.
const DECODER_MEMORY: u64 = 2 << 30;

pub(super) struct Decode {
    sides: Vec<u32>,
    image_limits: ImageLimits,
    video_limits: VideoLimits,
    videos: Option<DecoderPool>,
}

impl Decode {
    pub fn start(items: &[Item], options: &LoaderOptions) -> anyhow::Result<Self> {
        let video_limits = VideoLimits { max_frames_used: options.max_frames, ..VideoLimits::default() };
        let config = || DecoderConfig {
            program: options.decoder.clone(),
            workers: options.threads,
            max_memory: DECODER_MEMORY,
            limits: video_limits.clone(),
        };
        let has_videos = items.iter().any(|item| item.track == Track::Video);
        let start = || DecoderPool::start(config()).with_context(|| options.decoder.display().to_string());
        let videos = has_videos.then(start).transpose()?;
        Ok(Self { sides: options.sides.clone(), image_limits: ImageLimits::default(), video_limits, videos })
    }

    /// The item's frames at every side, or why there are none.
    pub fn frames(&self, item: &Item, cancel: &Cancel) -> Result<Frames, String> {
        let max_bytes = match item.track {
            Track::Image => self.image_limits.max_bytes,
            Track::Video => self.video_limits.max_bytes,
        };
        let bytes = read(&item.path, max_bytes).map_err(|error| format!("cannot be read: {error}"))?;
        let decoded = match item.track {
            Track::Image => self.image(&bytes, cancel),
            Track::Video => self.video(&bytes, cancel),
        };
        decoded.map_err(|error| error.to_string())
    }

    fn image(&self, bytes: &[u8], cancel: &Cancel) -> Result<Frames, MediaError> {
        let rgb = decode_image(bytes, &self.image_limits, cancel)?;
        let square = |&side: &u32| FrameStack { side, rgb: resize(rgb.as_raw(), rgb.width(), rgb.height(), side) };
        Ok(Frames { count: 1, stacks: self.sides.iter().map(square).collect() })
    }

    fn video(&self, bytes: &[u8], cancel: &Cancel) -> Result<Frames, MediaError> {
        let Some(pool) = &self.videos else {
            return Err(MediaError::Worker("no decoder was started".to_owned()));
        };
        let decode =
            || pool.decode(bytes, &self.sides, Instant::now() + PATIENCE, cancel).map(|decoded| decoded.frames);
        match decode() {
            // The worker's fault, not that of the bytes: a new one may do.
            Err(MediaError::Worker(_)) => decode(),
            other => other,
        }
    }
}

/// A file's bytes, at most one more than allowed: the decoders refuse that many.
fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
