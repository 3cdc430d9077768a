//! How outputs of the kernels that work in shared memory are shared among blocks. The numbers are those of their sources.

use std::ffi::CStr;

/// Threads of these kernels' blocks.
pub(super) const THREADS: u32 = 128;
/// Channels and tiles that a block of a depthwise convolution has.
pub(super) const CHANNELS: i64 = 32;
const TILES: i64 = 8;
const PACK_BYTES: i64 = 16;
/// Of bf16.
const PIXEL_BYTES: i64 = 2 * CHANNELS;

/// A depthwise convolution of `size`² with `stride`, whose threads compute `tall` × `wide` outputs.
#[derive(Debug)]
pub(super) struct Convolution {
    pub(super) size: i64,
    pub(super) stride: i64,
    tall: i64,
    wide: i64,
    pub(super) name: &'static CStr,
}

pub(super) const CONVOLUTIONS: [Convolution; 4] = [
    Convolution { size: 3, stride: 1, tall: 7, wide: 7, name: c"depthwise_3_1" },
    Convolution { size: 3, stride: 2, tall: 2, wide: 7, name: c"depthwise_3_2" },
    Convolution { size: 5, stride: 1, tall: 7, wide: 7, name: c"depthwise_5_1" },
    Convolution { size: 7, stride: 1, tall: 7, wide: 7, name: c"depthwise_7_1" },
];

/// The blocks of a depthwise convolution. A slab is 2^`across` × 2^`down` neighbouring tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slabs {
    pub(super) count: i64,
    pub(super) across: u32,
    pub(super) down: u32,
    pub(super) blocks: i64,
    /// Bytes of shared memory, of each block.
    pub(super) shared: u32,
}

impl Convolution {
    /// Of `batch` images with so many outputs: the slabs that read least, of those that fill images with whole tiles only.
    pub(super) fn slabs(&self, batch: i64, tall: i64, wide: i64, channels: i64) -> Slabs {
        let tiles = (parts(tall, self.tall), parts(wide, self.wide));
        let divides = |power: u32, tiles: i64| tiles % (1 << power) == 0;
        let shapes =
            (0..=TILES.ilog2()).rev().flat_map(|across| (0..=TILES.ilog2() - across).map(move |down| (across, down)));
        let whole = shapes.filter(|&(across, down)| divides(across, tiles.1) && divides(down, tiles.0));
        let (across, down) = whole.min_by_key(|&(across, down)| self.shared(across, down)).unwrap_or((0, 0));
        let count = (batch * tiles.0 * tiles.1) >> (across + down);
        let blocks = parts(count, TILES >> (across + down)) * (channels / CHANNELS);
        Slabs { count, across, down, blocks, shared: self.shared(across, down) }
    }

    /// The most that [`Slabs::shared`] is.
    pub(super) fn most_shared(&self) -> u32 {
        self.shared(0, 0)
    }

    fn shared(&self, across: u32, down: u32) -> u32 {
        let read = |outputs: i64| (outputs - 1) * self.stride + self.size;
        let pixels = read(self.tall << down) * read(self.wide << across);
        (pixels * PIXEL_BYTES * (TILES >> (across + down))) as u32
    }
}

/// Tokens of which a linear attention has keys and values, or queries, in shared memory at once, and that memory's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) tokens: i64,
    pub(super) shared: u32,
}

impl Held {
    /// Tokens come 16 at a time.
    const MOST: i64 = 256;

    pub(super) fn of(tokens: i64) -> Self {
        let tokens = (parts(tokens, 16) * 16).min(Self::MOST);
        // Packs of a token's key and value, of the warps' states in the same place later, and of a query.
        let (pair, states, query) = (9, 4 * 10 * 32, 6);
        Self { tokens, shared: (((tokens * pair).max(states) + tokens * query) * PACK_BYTES) as u32 }
    }

    /// The most that `shared` is.
    pub(super) fn most_shared() -> u32 {
        Self::of(Self::MOST).shared
    }
}

/// So many parts of `each` have all.
fn parts(all: i64, each: i64) -> i64 {
    (all - 1) / each + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slabs(size: i64, stride: i64, batch: i64, side: i64, channels: i64) -> Slabs {
        let known = CONVOLUTIONS.iter().find(|known| (known.size, known.stride) == (size, stride)).unwrap();
        known.slabs(batch, side, side, channels)
    }

    #[test]
    fn slabs_are_as_square_as_images_let_them_be() {
        let of = |count, across, down, blocks, pixels: u32| Slabs { count, across, down, blocks, shared: pixels * 64 };
        assert_eq!(slabs(7, 1, 64, 112, 96), of(64 * 32, 2, 1, 64 * 32 * 3, 20 * 34));
        assert_eq!(slabs(7, 1, 64, 28, 384), of(64 * 2, 2, 1, 64 * 2 * 12, 20 * 34));
        // Two images in a block.
        assert_eq!(slabs(7, 1, 63, 14, 768), of(63, 1, 1, 32 * 24, 2 * 20 * 20));
        // Three tiles across and down.
        assert_eq!(slabs(7, 1, 1, 16, 32), of(9, 0, 0, 2, 8 * 13 * 13));
        assert_eq!(slabs(3, 2, 64, 28, 2048), of(64 * 7, 2, 1, 64 * 7 * 64, 9 * 57));
        assert_eq!(slabs(3, 2, 64, 14, 6144), of(64 * 7, 1, 0, 64 * 7 / 4 * 192, 4 * 5 * 29));
        // One output alone.
        assert_eq!(slabs(3, 1, 1, 1, 32), of(1, 0, 0, 1, 8 * 9 * 9));
    }

    #[test]
    fn shared_memory_is_what_devices_have() {
        // A block's, on devices of compute capability 8.6; the driver takes 1 KB of it.
        const MOST: u32 = 98 << 10;
        for known in CONVOLUTIONS {
            let taps = (known.size * known.size * CHANNELS * 4) as u32;
            assert!(known.most_shared() + taps <= MOST);
            for side in 1..200 {
                assert!(known.slabs(3, side, side, 64).shared <= known.most_shared());
            }
        }
        assert!(Held::most_shared() <= MOST);
    }

    #[test]
    fn few_tokens_take_what_states_take() {
        assert_eq!(Held::of(1), Held { tokens: 16, shared: (1280 + 96) * 16 });
        assert_eq!(Held::of(196), Held { tokens: 208, shared: 208 * 15 * 16 });
        assert_eq!(Held::of(784).tokens, 256);
    }
}
