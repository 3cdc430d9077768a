//! What the model takes in: the chosen frames of one item, and the rule that chooses them.

/// Square RGB frames of one item at one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameStack {
    /// Width and height in pixels.
    pub side: u32,
    /// `T * side * side * 3` bytes: frame by frame, row by row, R G B.
    pub rgb: Vec<u8>,
}

/// The chosen frames of one item, at every side that some expert takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// Number of frames T: 1 for an image, 1 to 16 for a video.
    pub count: u32,
    /// One stack per distinct side.
    pub stacks: Vec<FrameStack>,
}

impl Frames {
    /// The frames at `side`, where they were asked for at decoding.
    pub fn at(&self, side: u32) -> Option<&FrameStack> {
        self.stacks.iter().find(|stack| stack.side == side)
    }
}

/// Indices of at most `max` frames of a clip of `total`, uniform: all of them where they fit, else the centre of each
/// of `max` equal segments, `((2i + 1) * total) div (2 * max)`. Ascending and distinct.
pub fn sample_indices(total: u64, max: u32) -> Vec<u64> {
    let max = u64::from(max);
    if total <= max {
        return (0..total).collect();
    }
    (0..max).map(|i| ((2 * i + 1) * total) / (2 * max)).collect()
}
