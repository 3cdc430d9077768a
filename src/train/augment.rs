//! Small changes of what is trained on, which do not change what a person would say of it: drawn once per item and
//! seed, and the same for all frames of a clip and at every side.

use anyhow::ensure;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::media::{FrameStack, Frames, resize};

/// How much is changed at most. Every setting can be switched off by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Probability of a mirror image, 0 to 1.
    pub flip: f64,
    /// Smallest share of the picture's area that a crop leaves, above 0 to 1; drawn evenly from here to 1. The crop is
    /// resized to the full square again.
    pub crop_area: f64,
    /// Most that a crop's width to height may be changed, 1 (not at all) to 2; drawn evenly on a logarithmic scale
    /// between its inverse and it. A crop is never larger than the picture, which may cost a little of either side.
    pub crop_aspect: f64,
    /// Most that all levels are multiplied by more or less than 1, 0 to 1.
    pub brightness: f64,
    /// Most that the levels' distance from their mean is multiplied by more or less than 1, 0 to 1.
    pub contrast: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { flip: 0.5, crop_area: 0.85, crop_aspect: 1.05, brightness: 0.05, contrast: 0.05 }
    }
}

impl Augmentation {
    /// Whether every setting is within its range.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { flip, crop_area, crop_aspect, brightness, contrast } = *self;
        ensure!((0.0..=1.0).contains(&flip), "flip: {flip} is not from 0 to 1");
        ensure!(crop_area > 0.0 && crop_area <= 1.0, "crop_area: {crop_area} is not above 0 and at most 1");
        ensure!((1.0..=2.0).contains(&crop_aspect), "crop_aspect: {crop_aspect} is not from 1 to 2");
        ensure!((0.0..=1.0).contains(&brightness), "brightness: {brightness} is not from 0 to 1");
        ensure!((0.0..=1.0).contains(&contrast), "contrast: {contrast} is not from 0 to 1");
        Ok(())
    }

    /// Draws one change. It takes the same numbers from `rng` whatever the settings are.
    pub fn draw(&self, rng: &mut impl Rng) -> Change {
        let mut within = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let flip = within(0.0, 1.0) < self.flip;
        let area = within(self.crop_area, 1.0);
        let aspect = within(-self.crop_aspect.ln(), self.crop_aspect.ln()).exp();
        let (width, height) = ((area * aspect).sqrt().min(1.0), (area / aspect).sqrt().min(1.0));
        let (left, top) = (within(0.0, 1.0), within(0.0, 1.0));
        let brightness = within(1.0 - self.brightness, 1.0 + self.brightness);
        let contrast = within(1.0 - self.contrast, 1.0 + self.contrast);
        Change { flip, width, height, left, top, brightness, contrast }
    }
}

/// One drawn change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Mirrored left to right.
    pub flip: bool,
    /// The crop's share of the picture's width.
    pub width: f64,
    /// The crop's share of the picture's height.
    pub height: f64,
    /// Where the crop lies between the left edge (0) and the right one (1).
    pub left: f64,
    /// Where the crop lies between the top (0) and the bottom (1).
    pub top: f64,
    /// What levels are multiplied by.
    pub brightness: f64,
    /// What their distance from the mean is multiplied by.
    pub contrast: f64,
}

impl Change {
    /// The changed frames; `frames` as every decoder gives them.
    pub fn apply(&self, frames: &Frames) -> Frames {
        Frames { count: frames.count, stacks: frames.stacks.iter().map(|stack| self.change(stack)).collect() }
    }

    fn change(&self, stack: &FrameStack) -> FrameStack {
        let side = stack.side as usize;
        let levels = self.levels(&stack.rgb);
        let mut rgb = Vec::with_capacity(stack.rgb.len());
        for frame in stack.rgb.chunks_exact(side * side * 3) {
            rgb.extend(self.window(frame, side));
        }
        for level in &mut rgb {
            *level = levels[usize::from(*level)];
        }
        if self.flip {
            rgb.chunks_exact_mut(side * 3).for_each(mirror);
        }
        FrameStack { side: stack.side, rgb }
    }

    /// The crop of one frame, at the full side again.
    fn window(&self, frame: &[u8], side: usize) -> Vec<u8> {
        let pixels = |share: f64| ((share * side as f64).round() as usize).clamp(1, side);
        let (width, height) = (pixels(self.width), pixels(self.height));
        let place = |at: f64, size: usize| (at * (side - size) as f64).round() as usize;
        let (left, top) = (place(self.left, width), place(self.top, height));
        let rows = frame.chunks_exact(side * 3).skip(top).take(height);
        let window: Vec<u8> = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
        resize(&window, width as u32, height as u32, side as u32)
    }

    /// What becomes of every level, given the mean of a clip's.
    fn levels(&self, rgb: &[u8]) -> [u8; 256] {
        let sum: u64 = rgb.iter().map(|&level| u64::from(level)).sum();
        let mean = sum as f64 / rgb.len().max(1) as f64;
        std::array::from_fn(|level| {
            let distance = (level as f64 - mean) * self.contrast;
            ((mean + distance) * self.brightness).round().clamp(0.0, 255.0) as u8
        })
    }
}

fn mirror(row: &mut [u8]) {
    let (pixels, _) = row.as_chunks_mut::<3>();
    pixels.reverse();
}
