//! How much a caller may ask of a decoder.

use super::MediaError;

/// Longest side of an image, in pixels: what a JPEG can declare. No picture has more, and resizing holds memory for
/// every row and column.
const MAX_SIDE: u32 = 65_535;

/// Limits of one encoded image. All of them are checked before pixels are decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageLimits {
    /// Most encoded bytes.
    pub max_bytes: u64,
    /// Most pixels, width times height.
    pub max_pixels: u64,
}

/// Limits of one encoded video.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoLimits {
    /// Most encoded bytes.
    pub max_bytes: u64,
    /// Most pixels of one frame, width times height.
    pub max_pixels: u64,
    /// Longest duration in seconds.
    pub max_seconds: f64,
    /// Most frames in the clip (they are all counted, few are decoded).
    pub max_frames: u64,
    /// Most frames that are chosen and returned (16 in the paper).
    pub max_frames_used: u32,
}

impl ImageLimits {
    /// Refuses what is empty or too long.
    pub(super) fn check_bytes(&self, bytes: usize) -> Result<(), MediaError> {
        let bytes = bytes as u64;
        match bytes {
            0 => Err(MediaError::Empty),
            _ if bytes > self.max_bytes => Err(MediaError::TooManyBytes { bytes, limit: self.max_bytes }),
            _ => Ok(()),
        }
    }

    /// Refuses a size that has no pixels, a side above [`MAX_SIDE`] or too many pixels.
    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<(), MediaError> {
        if width == 0 || height == 0 {
            return Err(MediaError::ZeroSized { width, height });
        }
        if width.max(height) > MAX_SIDE {
            return Err(MediaError::TooLongSide { width, height, limit: MAX_SIDE });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(MediaError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        Ok(())
    }

    /// Bytes that a decoder may hold at once: 16 per pixel (RGBA at 16 bits and a copy of it), and 16 MiB for tables.
    pub(super) fn max_memory(&self) -> u64 {
        self.max_pixels.saturating_mul(16).saturating_add(16 << 20)
    }
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_pixels: 32 << 20 }
    }
}

impl Default for VideoLimits {
    fn default() -> Self {
        Self {
            max_bytes: 60 << 20,
            max_pixels: 4096 * 2304,
            max_seconds: 900.0,
            max_frames: 60_000,
            max_frames_used: 16,
        }
    }
}
