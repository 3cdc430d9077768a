//! Our own CUDA kernels (`kernels.cu`, `kernels/`): what the networks do between their matrix products, one pass over
//! memory each.
//!
//! They serve a thread within a [`scope`], for dense tensors in bf16 that autograd does not watch. Each function gives
//! nothing where its kernel does not fit, and nothing has happened then.

mod compiled;
mod tiles;

use tch::{Kind, TchError, Tensor};

use self::compiled::{Blocks, Depthwise, Kernels, in_use};
use self::tiles::{CHANNELS, CONVOLUTIONS, Held};

pub(super) use self::compiled::{Compile, Find, Launch};
pub use self::compiled::{Scope, compile, scope};

const THREADS: u32 = 256;
/// Channels that are read and written at once.
const PACK: i64 = 8;
/// Of the rows of a norm.
const WIDEST: i64 = 32 * 8 * PACK;
/// Width of a head that [`rotate`] takes, and of one of [`linear_attention`].
const ROTATED: i64 = 64;
const LINEAR: i64 = 32;

/// What is done to every element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// Nothing.
    None = 0,
    /// GELU approximated by tanh.
    GeluTanh = 1,
}

/// Whether this thread's networks use kernels.
pub fn used() -> bool {
    in_use().is_some()
}

/// Whether kernels serve `x` on this thread.
pub fn serve(x: &Tensor) -> bool {
    Kernels::of(x).is_some()
}

/// Whether the rows of `x` are [normed](layer_norm) by a kernel.
pub fn norm(x: &Tensor) -> bool {
    serve(x) && is_wide(x.size().last().copied().unwrap_or(0))
}

/// Whether there is a [norm](layer_norm) of rows of this width.
pub fn is_wide(width: i64) -> bool {
    (1..=WIDEST).contains(&width) && width % PACK == 0
}

/// Whether there is a [depthwise convolution](depthwise) of so many channels, of this size and stride.
pub fn is_convolved(channels: i64, size: i64, stride: i64) -> bool {
    channels > 0
        && channels % CHANNELS == 0
        && CONVOLUTIONS.iter().any(|known| (known.size, known.stride) == (size, stride))
}

/// Whether every [layer of this width](finish) can be finished.
pub fn is_finished(width: i64) -> bool {
    width > 0 && width % PACK == 0
}

/// Layer norm of `x` over its last dimension, with `pending` (f32) added to every row before. `swiglu`: of
/// silu(first half) · second half.
///
/// # Errors
/// Those of libtorch and CUDA.
pub fn layer_norm(
    x: &Tensor,
    pending: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    swiglu: bool,
) -> Result<Option<Tensor>, TchError> {
    let Some(kernels) = Kernels::of(x) else { return Ok(None) };
    let (mut shape, width) = (x.size(), weight.numel() as i64);
    let Some(last) = shape.last_mut() else { return Ok(None) };
    let norms = if swiglu { std::slice::from_ref(&kernels.swiglu_norm) } else { &kernels.norms[..] };
    let Some(norm) = norms.iter().find(|norm| norm.lanes * norm.packs * PACK >= width) else { return Ok(None) };
    let fits = *last == if swiglu { 2 * width } else { width } && is_wide(width);
    let rows = x.numel() as i64 / *last;
    *last = width;
    let pending_fits = pending.is_none_or(|pending| kernels.has(pending, Kind::Float, width));
    if !(fits && pending_fits && kernels.has(weight, x.kind(), width) && kernels.has(bias, x.kind(), width)) {
        return Ok(None);
    }
    let y = Tensor::f_empty(shape, (x.kind(), x.device()))?;
    let blocks = threads(rows * norm.lanes);
    let tensors = [at(Some(x)), at(pending), at(Some(weight)), at(Some(bias)), at(Some(&y))];
    let arguments = [&tensors[..], &[rows as u64, width as u64, number(eps)]].concat();
    kernels.launch(&norm.kernel, blocks, &arguments)?;
    Ok(Some(y))
}

/// (`x` / 255 - mean) / std of bytes `[…, 3]`, in bf16.
///
/// # Errors
/// Those of libtorch and CUDA.
pub fn normalise(x: &Tensor, mean: [f64; 3], std: [f64; 3]) -> Result<Option<Tensor>, TchError> {
    let Some(kernels) = in_use() else { return Ok(None) };
    let count = x.numel() as i64;
    let fits = x.size().last() == Some(&3) && count > 0 && count % PACK == 0;
    if !fits || !kernels.has(x, Kind::Uint8, count) {
        return Ok(None);
    }
    let y = Tensor::f_empty(x.size(), (Kind::BFloat16, x.device()))?;
    let packs = count / PACK;
    let arguments = [&[at(Some(x)), at(Some(&y)), packs as u64][..], &mean.map(number), &std.map(number)].concat();
    kernels.launch(&kernels.normalise, threads(packs), &arguments)?;
    Ok(Some(y))
}

/// `x` = pointwise(`x` + `bias`) + `shortcut`, written over `x` `[…, C]`. Whether it was done.
///
/// # Errors
/// Those of CUDA.
pub fn finish(
    x: &Tensor,
    bias: Option<&Tensor>,
    shortcut: Option<&Tensor>,
    pointwise: Pointwise,
) -> Result<bool, TchError> {
    let Some(kernels) = Kernels::of(x) else { return Ok(false) };
    let width = x.size().last().copied().unwrap_or(0);
    let bias_fits = bias.is_none_or(|bias| kernels.has(bias, x.kind(), width));
    let shortcut_fits = shortcut.is_none_or(|shortcut| kernels.takes(shortcut) && shortcut.size() == x.size());
    if !is_finished(width) || !bias_fits || !shortcut_fits {
        return Ok(false);
    }
    let packs = x.numel() as i64 / PACK;
    let arguments = [at(Some(x)), at(bias), at(shortcut), packs as u64, width as u64, pointwise as u64];
    kernels.launch(&kernels.finish, threads(packs), &arguments)?;
    Ok(true)
}

/// Rotates the queries and keys of `qkv` `[B, N, 3, heads, 64]` in place, by tables `[N, …, 64]` in f32 whose halves have
/// the same cosines and opposite sines: (a cos - b sin, b cos + a sin). Whether it was done.
///
/// # Errors
/// Those of CUDA.
pub fn rotate(qkv: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<bool, TchError> {
    let Some(kernels) = Kernels::of(qkv) else { return Ok(false) };
    let [batch, tokens, 3, heads, ROTATED] = qkv.size()[..] else { return Ok(false) };
    let table = tokens * ROTATED;
    if !kernels.has(cos, Kind::Float, table) || !kernels.has(sin, Kind::Float, table) {
        return Ok(false);
    }
    // Two times four packs, of queries and of keys, in every head.
    let count = batch * tokens * heads * 8;
    let arguments = [at(Some(qkv)), at(Some(cos)), at(Some(sin)), count as u64, tokens as u64, heads as u64];
    kernels.launch(&kernels.rotate, threads(count), &arguments)?;
    Ok(true)
}

/// The depthwise convolution of `x` `[B, H, W, C]`, each pixel plus `pending` (f32) first, with zeros around it;
/// `weight` is `[K, K, C]` in f32.
///
/// # Errors
/// Those of libtorch and CUDA.
pub fn depthwise(
    x: &Tensor,
    pending: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    pointwise: Pointwise,
) -> Result<Option<Tensor>, TchError> {
    let Some(kernels) = Kernels::of(x) else { return Ok(None) };
    let ([batch, height, width, channels], [size, _, _]) = (&x.size()[..], &weight.size()[..]) else { return Ok(None) };
    let fits = |known: &&Depthwise| {
        (known.of.size, known.of.stride) == (*size, stride) && (known.pending || pending.is_none())
    };
    let known = kernels.depthwise.iter().find(fits);
    let bias_fits = bias.is_none_or(|bias| kernels.has(bias, x.kind(), *channels));
    let pending_fits = pending.is_none_or(|pending| kernels.has(pending, Kind::Float, *channels));
    let weight_fits = kernels.has(weight, Kind::Float, size * size * channels);
    let (Some(known), true) =
        (known, is_convolved(*channels, *size, stride) && bias_fits && pending_fits && weight_fits)
    else {
        return Ok(None);
    };
    let (tall, wide, pairs) = ((height - 1) / stride + 1, (width - 1) / stride + 1, channels / 2);
    let y = Tensor::f_empty([*batch, tall, wide, *channels], (x.kind(), x.device()))?;
    let slabs = known.of.slabs(*batch, tall, wide, *channels);
    let numbers = [slabs.count, *height, *width, pairs, tall, wide, slabs.across.into(), slabs.down.into()];
    let tensors = [at(Some(x)), at(pending), at(Some(weight)), at(bias), at(Some(&y))];
    let arguments = [&tensors[..], &numbers.map(|number| number as u64), &[pointwise as u64]].concat();
    let blocks = Blocks { count: slabs.blocks, threads: tiles::THREADS, shared: slabs.shared };
    kernels.launch(&known.kernel, blocks, &arguments)?;
    Ok(Some(y))
}

/// Whether there is a [linear attention](linear_attention) over heads of this width.
pub fn is_linear(width: i64) -> bool {
    width == LINEAR
}

/// ReLU linear attention over heads of `width`: `first` and `second` are `[B, N, heads × 3 × width]`, of each head a
/// query, a key and a value; the result is `[B, N, 2 × heads × width]`, the heads of `first` before those of `second`.
///
/// # Errors
/// Those of libtorch and CUDA.
pub fn linear_attention(first: &Tensor, second: &Tensor, width: i64, eps: f64) -> Result<Option<Tensor>, TchError> {
    let Some(kernels) = Kernels::of(first) else { return Ok(None) };
    let [batch, tokens, channels] = first.size()[..] else { return Ok(None) };
    let fits =
        is_linear(width) && channels % (3 * LINEAR) == 0 && second.size() == first.size() && kernels.takes(second);
    if !fits {
        return Ok(None);
    }
    let heads = channels / (3 * LINEAR);
    let y = Tensor::f_empty([batch, tokens, 2 * heads * LINEAR], (first.kind(), first.device()))?;
    let held = Held::of(tokens);
    let numbers = [tokens, heads, held.tokens].map(|number| number as u64);
    let arguments = [&[at(Some(first)), at(Some(second)), at(Some(&y))][..], &numbers, &[number(eps)]].concat();
    let blocks = Blocks { count: batch * 2 * heads, threads: tiles::THREADS, shared: held.shared };
    kernels.launch(&kernels.linear_attention, blocks, &arguments)?;
    Ok(Some(y))
}

/// Blocks that have so many threads.
fn threads(count: i64) -> Blocks {
    Blocks { count: (count - 1) / i64::from(THREADS) + 1, threads: THREADS, shared: 0 }
}

/// A number in f32, in the low half.
fn number(value: f64) -> u64 {
    u64::from((value as f32).to_bits())
}

/// The address that a kernel takes; 0 for none.
fn at(tensor: Option<&Tensor>) -> u64 {
    tensor.map_or(0, |tensor| tensor.data_ptr() as u64)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_processor_uses_none() {
        compile(Device::Cpu).unwrap();
        let _scope = scope(Device::Cpu, true);
        let x = Tensor::ones([2, 8], (Kind::BFloat16, Device::Cpu));
        assert!(layer_norm(&x, None, &x.get(0), &x.get(1), 1e-6, false).unwrap().is_none());
        assert!(!finish(&x, None, None, Pointwise::GeluTanh).unwrap());
    }

    #[test]
    fn the_published_networks_have_widths_that_are_served() {
        for width in [96, 192, 384, 768, 1024, 1280, 2048] {
            assert!(is_wide(width));
        }
        for channels in [96, 192, 384, 768, 1024, 1536, 2048, 3072, 6144] {
            assert!(is_convolved(channels, 3, 2) && is_convolved(channels, 7, 1));
        }
        assert!(!is_wide(12) && !is_wide(4096) && !is_wide(0));
        assert!(!is_convolved(48, 3, 1) && !is_convolved(0, 3, 1) && !is_convolved(96, 7, 2));
    }
}
