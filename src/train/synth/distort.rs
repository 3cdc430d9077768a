//! How a picture or a clip is broken: seven distortions, each with a strength from 0 (nothing changes) to 1, which
//! [`TRUTH`](super::TRUTH) lists. They are applied in the order of the enum, the first five to all frames in the same
//! way but for the noise.

mod jpeg;
mod spatial;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::canvas::Canvas;

/// One way to break something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distortion {
    /// Shapes bent out of form.
    Warp,
    /// Out of focus.
    Blur,
    /// Grain.
    Noise,
    /// Too few levels.
    Banding,
    /// Blocks and ringing of strong compression.
    Jpeg,
    /// Brightness that jumps from frame to frame.
    Flicker,
    /// Frames that stand still.
    Drops,
}

impl Distortion {
    /// Those of a picture.
    pub const STILL: &[Self] = &[Self::Warp, Self::Blur, Self::Noise, Self::Banding, Self::Jpeg];
    /// Those of a clip.
    pub const MOVING: &[Self] =
        &[Self::Warp, Self::Blur, Self::Noise, Self::Banding, Self::Jpeg, Self::Flicker, Self::Drops];

    /// Its name in lists.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warp => "warp",
            Self::Blur => "blur",
            Self::Noise => "noise",
            Self::Banding => "banding",
            Self::Jpeg => "jpeg",
            Self::Flicker => "flicker",
            Self::Drops => "drops",
        }
    }

    fn apply(self, frames: &mut [Canvas], strength: f32, rng: &mut ChaCha8Rng) {
        match self {
            Self::Warp => spatial::warp(frames, strength, rng),
            Self::Blur => frames.iter_mut().for_each(|frame| spatial::blur(frame, strength)),
            Self::Noise => frames.iter_mut().for_each(|frame| spatial::noise(frame, strength, rng)),
            Self::Banding => frames.iter_mut().for_each(|frame| spatial::banding(frame, strength)),
            Self::Jpeg => frames.iter_mut().for_each(|frame| jpeg::lose(frame, strength)),
            Self::Flicker => frames.iter_mut().for_each(|frame| {
                *frame = frame.lit(1.0 + 0.6 * strength * rng.random_range(-1.0..1.0));
            }),
            Self::Drops => {
                for i in 1..frames.len() {
                    if rng.random_bool(0.8 * f64::from(strength)) {
                        frames[i] = frames[i - 1].clone();
                    }
                }
            }
        }
    }
}

/// Breaks the frames of one picture or clip; strengths are from 0 to 1.
pub(super) fn distort(frames: &mut [Canvas], distortions: &[(Distortion, f32)], rng: &mut ChaCha8Rng) {
    let mut in_order = distortions.to_vec();
    in_order.sort_by_key(|&(distortion, _)| distortion);
    for (distortion, strength) in in_order {
        distortion.apply(frames, strength, rng);
        // As if it had been saved in between: no distortion sees what a picture cannot hold.
        for value in frames.iter_mut().flat_map(|frame| frame.pixels.iter_mut().flatten()) {
            *value = value.clamp(0.0, 255.0);
        }
    }
}
