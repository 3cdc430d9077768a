//! Random numbers by name: every part of a run draws from a generator of its own, so that adding, leaving out or
//! reordering one part changes nothing in the others, and threads cannot disturb a sequence.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The seed of the part `name` of what is seeded with `seed`: the first 8 bytes (little-endian) of the SHA-256 of
/// `seed` (8 bytes, little-endian) and `name`.
pub fn seed(seed: u64, name: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest(seed, name);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The generator of the part `name` of what is seeded with `seed`.
pub fn rng(seed: u64, name: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(digest(seed, name))
}

fn digest(seed: u64, name: &str) -> [u8; 32] {
    Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into()
}
