//! Small pictures of items, for the page that shows them.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, RgbImage};

use crate::media::{Cancel, DecoderConfig, DecoderPool, ImageLimits, MediaError, VideoLimits, decode_image};

/// Longest side of a thumbnail, in pixels.
const SIDE: u32 = 240;
const JPEG_QUALITY: u8 = 80;
const DECODER_MEMORY: u64 = 2 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes thumbnails of images, and of videos by their middle frame.
pub struct Thumbnails {
    decoder: PathBuf,
    /// Started for the first video; None where it does not start.
    pool: Option<Option<DecoderPool>>,
}

impl Thumbnails {
    /// `decoder` is the `pcqa-decoder` executable, which is only started for a video.
    pub fn new(decoder: PathBuf) -> Self {
        Self { decoder, pool: None }
    }

    /// A JPEG of the file as a `data:` URI; None where it cannot be read.
    pub(super) fn data_uri(&mut self, path: &Path) -> Option<String> {
        let bytes = fs::read(path).ok()?;
        let picture = match decode_image(&bytes, &ImageLimits::default(), &Cancel::new()) {
            Ok(picture) if picture.width().max(picture.height()) <= SIDE => picture,
            Ok(picture) => DynamicImage::from(picture).thumbnail(SIDE, SIDE).into_rgb8(),
            Err(MediaError::WrongKind { .. } | MediaError::UnknownFormat { .. }) => self.middle_frame(&bytes)?,
            Err(_) => return None,
        };
        let mut jpeg = Cursor::new(Vec::new());
        JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(&picture).ok()?;
        Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg.into_inner())))
    }

    fn middle_frame(&mut self, video: &[u8]) -> Option<RgbImage> {
        let limits = VideoLimits { max_frames_used: 1, ..VideoLimits::default() };
        let config = || DecoderConfig { program: self.decoder.clone(), workers: 1, max_memory: DECODER_MEMORY, limits };
        let pool = self.pool.get_or_insert_with(|| DecoderPool::start(config()).ok()).as_ref()?;
        let decoded = pool.decode(video, &[SIDE], Instant::now() + PATIENCE, &Cancel::new()).ok()?;
        let stack = decoded.frames.stacks.into_iter().next()?;
        RgbImage::from_raw(SIDE, SIDE, stack.rgb)
    }
}
