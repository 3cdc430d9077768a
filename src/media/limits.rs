//! How much a caller may ask of a decoder.

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

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_pixels: 64 << 20 }
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
