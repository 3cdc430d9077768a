//! Weights from a counter-based generator: a network without a weight file, bit for bit the same in any language.
//!
//! For tensor `key` of module `module` and a `seed`, all integers being wrapping u64:
//!
//! ```text
//! h   = FNV-1a-64(utf8("<module>/<key>"))          offset 0xcbf29ce484222325, prime 0x100000001b3
//! s   = h ^ (seed * 0x9e3779b97f4a7c15)
//! z   = s + (i + 1) * 0x9e3779b97f4a7c15           i = row-major index of the element, from 0
//! z   = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
//! z   = (z ^ (z >> 27)) * 0x94d049bb133111eb
//! u   = (z ^ (z >> 31)) >> 40                      24 random bits
//! r   = f32(u) * 2^-23 - 1                         exact in f32, in [-1, 1)
//! val = f32(center + f32(scale * r))               two roundings, no fused multiply-add
//! ```
//!
//! Center and scale follow from the key and the shape ([`Fill::of`]), so that signals keep their size on their way
//! through the network.

use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Elements that one processor makes at once.
const PART: usize = 1 << 18;

/// 24 random bits for each of the elements 0, 1, 2 … of tensor `name`, which is `<module>/<key>`.
pub fn bits(name: &str, seed: u64) -> impl Iterator<Item = u32> {
    bits_from(name, seed, 0)
}

/// As [`bits`], of the elements from `first` on.
fn bits_from(name: &str, seed: u64, first: u64) -> impl Iterator<Item = u32> {
    let state = fnv1a_64(name) ^ seed.wrapping_mul(GOLDEN);
    (first + 1..).map(move |count: u64| {
        let z = state.wrapping_add(count.wrapping_mul(GOLDEN));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as u32
    })
}

fn fnv1a_64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The uniform distribution over `[center - scale, center + scale)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    /// Middle.
    pub center: f32,
    /// Half the width.
    pub scale: f32,
}

impl Fill {
    /// What tensor `key` of `shape` is filled with; the first rule that fits holds.
    pub fn of(key: &str, shape: &[usize]) -> Self {
        let fill = |center: f32, scale: f64| Self { center, scale: scale as f32 };
        let fan_in = |dims: &[usize]| (3.0 / dims.iter().product::<usize>() as f64).sqrt();
        match key.rsplit('.').next().unwrap_or(key) {
            "running_var" => fill(1.0, 0.5),
            "running_mean" => fill(0.0, 0.1),
            "gamma" => fill(0.3, 0.2),
            "positional_embedding" | "pos_embed" | "cls_token" => fill(0.0, 0.2),
            _ if key.ends_with("token_embedding.weight") => fill(0.0, 0.5),
            "bias" | "in_proj_bias" => fill(0.0, 0.1),
            // Weights of norms.
            _ if shape.len() == 1 => fill(1.0, 0.2),
            // Stored [width, D], unlike linear layers.
            "text_projection" => fill(0.0, fan_in(shape.get(..1).unwrap_or_default())),
            _ => fill(0.0, fan_in(shape.get(1..).unwrap_or_default())),
        }
    }
}

/// The values of tensor `key` of `module`, row by row.
pub fn values(module: &str, key: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; shape.iter().product()];
    let name = format!("{module}/{key}");
    let Fill { center, scale } = Fill::of(key, shape);
    // Gigabytes of them: each processor makes a part.
    values.par_chunks_mut(PART).enumerate().for_each(|(part, values)| {
        for (value, bits) in values.iter_mut().zip(bits_from(&name, seed, (part * PART) as u64)) {
            let r = bits as f32 * (1.0 / 8_388_608.0) - 1.0;
            *value = center + scale * r;
        }
    });
    values
}

/// A whole safetensors file of `module`, whose tensors are stored in f32, or rounded to nearest even in f16 or
/// bf16; other types are refused.
pub fn file<'a>(
    module: &str,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    seed: u64,
    dtype: Dtype,
) -> Result<Vec<u8>, SafeTensorError> {
    let mut stored = Vec::new();
    for (key, shape) in tensors {
        let values = values(module, key, shape, seed);
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        stored.push((key, shape, bytes));
    }
    let views = stored.iter().map(|(key, shape, bytes)| Ok((*key, TensorView::new(dtype, shape.to_vec(), bytes)?)));
    safetensors::serialize(views.collect::<Result<Vec<_>, SafeTensorError>>()?, None)
}
