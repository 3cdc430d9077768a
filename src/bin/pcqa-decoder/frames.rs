//! The chosen frames on their way out.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::shared::protocol::Refusal;
use crate::shared::resize::resize;

use crate::convert::Picture;

/// Resized frames by their place among the chosen ones.
pub struct ChosenFrames {
    sides: Vec<u32>,
    /// `frames[place][side]`; empty where no frame has come yet.
    frames: Vec<Vec<Vec<u8>>>,
    resizing: Duration,
}

impl ChosenFrames {
    /// Room for `count` frames.
    pub fn new(count: usize, sides: &[u32]) -> Self {
        Self { sides: sides.to_vec(), frames: vec![Vec::new(); count], resizing: Duration::ZERO }
    }

    /// Resizes `picture` to every side and keeps it at `place`.
    pub fn put(&mut self, place: usize, picture: &Picture) {
        let begun = Instant::now();
        if let Some(frame) = self.frames.get_mut(place) {
            *frame = self.sides.iter().map(|&side| resize(&picture.rgb, picture.width, picture.height, side)).collect();
        }
        self.resizing += begun.elapsed();
    }

    /// Whether a frame has come for every place.
    pub fn is_complete(&self) -> bool {
        !self.frames.iter().any(Vec::is_empty)
    }

    /// Number of frames.
    pub fn count(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Time spent in resizing.
    pub fn resize_time(&self) -> Duration {
        self.resizing
    }

    /// Writes side by side, frame by frame.
    pub fn write_to(&self, mut output: &File) -> Result<(), Refusal> {
        for side in 0..self.sides.len() {
            for frame in self.frames.iter().filter_map(|frame| frame.get(side)) {
                output.write_all(frame).map_err(|error| Refusal::corrupt(format!("frames not written: {error}")))?;
            }
        }
        Ok(())
    }
}
