//! Made-up pictures, clips and prompts: the same ones everywhere, since they are integers only.

use crate::media::{FrameStack, Frames};
use crate::train::hash_init::bits;

/// What the calibration items are scored for.
pub(super) const PROMPTS: [&str; 16] = [
    "a photo of a cat",
    "an astronaut riding a horse on mars, cinematic lighting",
    "a watercolour of a harbour at dawn",
    "portrait of an old fisherman, 85mm, shallow depth of field",
    "a red cube on a blue sphere",
    "isometric city made of glass",
    "two dogs playing chess",
    "macro shot of a dew drop on a leaf",
    "a castle in the clouds, studio concept art",
    "a plate of ramen, top view",
    "neon street in the rain, reflections",
    "charcoal sketch of a dancer",
    "a fox running through snow in slow motion",
    "waves breaking on black rocks, drone footage",
    "a paper boat floating down a stream",
    "time lapse of a flower opening",
];

/// A picture: gradient, noise, disc or stripes by `index`, in colours of its own.
pub(super) fn picture(index: u64, side: u32) -> Frames {
    clip(index, 1, side)
}

/// A clip of `count` frames in which the pattern of `index` moves to the left; noise is new in every frame.
pub(super) fn clip(index: u64, count: u32, side: u32) -> Frames {
    let pattern = Pattern::new(index, side);
    let mut noise = bits("noise", index);
    let mut rgb = Vec::new();
    for time in 0..count {
        for y in 0..side {
            for x in 0..side {
                for channel in 0..3 {
                    let value = pattern.at((x + 3 * time) % side, y, channel, noise.next().unwrap_or(0));
                    rgb.push(value.min(255) as u8);
                }
            }
        }
    }
    Frames { count, stacks: vec![FrameStack { side, rgb }] }
}

struct Pattern {
    kind: u64,
    side: u32,
    colour: [u32; 3],
    /// Radius of a disc, width of a stripe.
    size: u32,
    /// Height of a disc's centre.
    centre: u32,
}

impl Pattern {
    fn new(index: u64, side: u32) -> Self {
        let mut draws = bits("pattern", index);
        let mut draw = |below: u32| draws.next().unwrap_or(0) % below;
        let colour = [draw(256), draw(256), draw(256)];
        Self { kind: index % 4, side, colour, size: 2 + draw(side / 3), centre: draw(side) }
    }

    fn at(&self, x: u32, y: u32, channel: usize, noise: u32) -> u32 {
        let colour = self.colour[channel];
        let (dx, dy) = (x.abs_diff(self.side / 2), y.abs_diff(self.centre));
        match self.kind {
            0 => (x * colour + y * (255 - colour)) / self.side,
            1 => colour / 2 + noise % 128,
            2 if dx * dx + dy * dy < self.size * self.size => colour,
            2 => 255 - colour,
            _ if ((x + y) / self.size).is_multiple_of(2) => colour,
            _ => colour / 3,
        }
    }
}
