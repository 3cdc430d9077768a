//! Random numbers that depend on a seed and a place alone, whoever asks first.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// SplitMix64 (Steele, Lea and Flood 2014) as a sequence.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of one `place` of a `seed`.
    pub fn new(seed: u64, place: u64) -> Self {
        Self(mix(seed).wrapping_add(mix(!place)))
    }

    /// The next number, any of 2^64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// An element; none of an empty slice.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let length = u64::try_from(from.len()).ok().filter(|&length| length > 0)?;
        usize::try_from(self.next() % length).ok().and_then(|index| from.get(index))
    }

    /// In [0, 1).
    pub fn fraction(&mut self) -> f32 {
        f32::from(u16::try_from(self.next() >> 48).unwrap_or_default()) / 65_536.0
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Another one each time.
pub fn seed() -> u64 {
    // 2^53 is as far as every reader of JSON counts.
    RandomState::new().build_hasher().finish() >> 11
}
