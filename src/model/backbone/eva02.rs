//! EVA02: "EVA-02: A Visual Representation for Neon Genesis", <https://arxiv.org/abs/2303.11331>; timm `eva02_*` with
//! separate q, k, v (`eva.py`, `Eva`), and BAAI's own names.
//!
//! Width, depth and patch size are the weights'. EVA02-B/14: 768 wide, 12 deep, 12 heads, MLP 2048. q, k and v are one
//! matrix product, and so are the two inputs of SwiGLU. Positions (resampled to the grid) and rotary tables are made at
//! loading for the one side that the bundle asks for.

use tch::{Device, Kind, TchError, Tensor};

use super::patches::{Patches, head_count};
use crate::model::ops::{Forward, LayerNorm, Linear, add, attention, mean_f32, multiply, parts};
use crate::model::{ExpertSpec, ModelError, Weights};
use crate::native::kernels;

const EPS: f64 = 1e-6;
const ROPE_REFERENCE: i64 = 16;
const ROPE_BASE: f32 = 10_000.0;

/// The network up to the normalised mean of its patch tokens (timm's `forward_head(…, pre_logits=True)`).
pub struct Eva02 {
    patches: Patches,
    rotary: Rotary,
    blocks: Vec<Block>,
    pending: Vec<Pending>,
    fc_norm: LayerNorm,
}

/// What tokens lack when a block [has served](Block::serve) them, in f32: behind its attention, behind its MLP.
struct Pending {
    attention: Tensor,
    mlp: Tensor,
}

impl Eva02 {
    /// Takes all of `weights` for frames of `spec.input_size`; the classifier `head` and stored rotary tables are left
    /// aside.
    pub fn load(spec: &ExpertSpec, mut weights: Weights) -> Result<Self, ModelError> {
        let patches = Patches::load(spec, &mut weights)?;
        let (channels, grid) = (patches.channels(), patches.grid());
        let heads = head_count(spec, channels, 4)?;
        let rotary = Rotary::new(channels / heads, grid, reference_side(spec)?, weights.device())?;
        let names = Names::of(&weights);
        let depth = weights.count("blocks").max(1);
        let blocks =
            (0..depth).map(|index| Block::load(&mut weights, &format!("blocks.{index}"), names, heads, channels));
        let blocks: Vec<Block> = blocks.collect::<Result<_, _>>()?;
        let mut pending: Vec<Pending> = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let attention = block.proj.pending(pending.last().map(|pending| &pending.mlp))?;
            pending.push(Pending { mlp: block.fc2.pending(Some(&attention))?, attention });
        }
        let fc_norm = LayerNorm::load_f32(&mut weights, "fc_norm", channels, EPS)?;
        weights.finish(|key| key.starts_with("head.") || key.split('.').any(|part| part == "rope"))?;
        Ok(Self { patches, rotary, blocks, pending, fc_norm })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.patches.channels()
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let mut x = self.patches.forward(x)?;
        let mut pending = None;
        if self.blocks.iter().all(|block| block.takes(&x)) {
            for (block, after) in self.blocks.iter().zip(&self.pending) {
                block.serve(&x, pending, &after.attention, &self.rotary)?;
                pending = Some(&after.mlp);
            }
        } else {
            for block in &self.blocks {
                x = block.forward(&x, &self.rotary)?;
            }
        }
        let mean = mean_f32(&x.f_narrow(1, 1, x.size3()?.1 - 1)?, &[1])?;
        self.fc_norm.forward(&pending.map_or(Ok(mean.shallow_clone()), |pending| mean.f_add(pending))?)
    }
}

fn reference_side(spec: &ExpertSpec) -> Result<i64, ModelError> {
    match spec.backbone.rope_reference.unwrap_or(ROPE_REFERENCE) {
        side if side > 0 => Ok(side),
        side => Err(spec.error("backbone.rope_reference", format!("is {side}, expected more than 0"))),
    }
}

/// Rotary position embedding over rows and columns, as tables `[1 + HW, 1, 1, d]` in f32. The CLS token's row is the
/// identity. Signs of the rotation are part of the sine.
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    fn new(head_width: i64, grid: i64, reference: i64, device: Device) -> Result<Self, TchError> {
        let bands = head_width / 4;
        let band = |index: i64| 1.0 / ROPE_BASE.powf(index as f32 / bands as f32);
        let position = |index: i64| index as f32 / grid as f32 * reference as f32;
        let (mut cos, mut sin) = (vec![1.0; head_width as usize], vec![0.0; head_width as usize]);
        for (row, column) in (0..grid).flat_map(|row| (0..grid).map(move |column| (row, column))) {
            for sign in [-1.0, 1.0] {
                for axis in [position(row), position(column)] {
                    for angle in (0..bands).map(|index| axis * band(index)) {
                        cos.push(angle.cos());
                        sin.push(sign * angle.sin());
                    }
                }
            }
        }
        let table = |values: &[f32]| -> Forward {
            Tensor::f_from_slice(values)?.f_reshape([-1, 1, 1, head_width])?.f_to_device(device)
        };
        Ok(Self { cos: table(&cos)?, sin: table(&sin)? })
    }

    /// Rotates `[B, 1 + HW, 2, heads, d]`, whose heads are laid out by [`halves_first`]: each pair (a, b) becomes
    /// (a cos - b sin, b cos + a sin).
    fn forward(&self, x: &Tensor) -> Forward {
        // Computed in f32: a GPU widens as it reads, the CPU would do it for each operand by itself.
        let wide = if x.device() == Device::Cpu { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
        self.rotate(&wide)?.f_to_kind(x.kind())
    }

    /// In f32, whatever `x` is.
    fn rotate(&self, x: &Tensor) -> Forward {
        let [first, second] = parts(x.f_chunk(2, -1)?)?;
        let swapped = Tensor::f_cat(&[second, first], -1)?;
        x.f_mul(&self.cos)?.f_addcmul_(&swapped, &self.sin)
    }
}

/// The rows of a query or key projection, with the first of every pair that is rotated together before all the second
/// ones of its head: halves can be rotated without picking pairs apart. Products of queries with keys stay the same.
fn halves_first(rows: &Tensor, heads: i64) -> Forward {
    rows.f_unflatten(0, [heads, -1, 2])?.f_transpose(1, 2)?.f_flatten(0, 2)
}

/// The keys in which timm and BAAI differ.
#[derive(Clone, Copy)]
struct Names {
    q_bias: &'static str,
    v_bias: &'static str,
    gate: &'static str,
    up: &'static str,
    norm: &'static str,
    down: &'static str,
}

impl Names {
    const TIMM: Self = Self {
        q_bias: "attn.q_proj.bias",
        v_bias: "attn.v_proj.bias",
        gate: "mlp.fc1_g",
        up: "mlp.fc1_x",
        norm: "mlp.norm",
        down: "mlp.fc2",
    };
    const BAAI: Self = Self {
        q_bias: "attn.q_bias",
        v_bias: "attn.v_bias",
        gate: "mlp.w1",
        up: "mlp.w2",
        norm: "mlp.ffn_ln",
        down: "mlp.w3",
    };

    fn of(weights: &Weights) -> Self {
        if weights.contains("blocks.0.mlp.w1.weight") { Self::BAAI } else { Self::TIMM }
    }
}

/// Pre-norm attention with rotary positions, then SwiGLU with a norm inside; shortcuts around both.
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    gate_up: Linear,
    mlp_norm: LayerNorm,
    fc2: Linear,
    heads: i64,
}

impl Block {
    fn load(weights: &mut Weights, path: &str, names: Names, heads: i64, width: i64) -> Result<Self, ModelError> {
        let at = |name: &str| format!("{path}.{name}");
        let norm1 = LayerNorm::load(weights, &at("norm1"), width, EPS)?;
        let q = weights.take_cast(&at("attn.q_proj.weight"), &[width, width])?;
        let k = weights.take_cast(&at("attn.k_proj.weight"), &[width, width])?;
        let v = weights.take_cast(&at("attn.v_proj.weight"), &[width, width])?;
        let q_bias = weights.take_cast(&at(names.q_bias), &[width])?;
        let v_bias = weights.take_cast(&at(names.v_bias), &[width])?;
        let k_bias = q_bias.f_zeros_like()?;
        let (q, q_bias) = (halves_first(&q, heads)?, halves_first(&q_bias, heads)?);
        let qkv = Linear::stacked(weights, &[(q, q_bias), (halves_first(&k, heads)?, k_bias), (v, v_bias)])?;
        let proj = Linear::load(weights, &at("attn.proj"), width, width)?;
        let norm2 = LayerNorm::load(weights, &at("norm2"), width, EPS)?;
        let gate = weights.take_cast(&at(&format!("{}.weight", names.gate)), &[-1, width])?;
        let hidden = gate.size2()?.0;
        let up = weights.take_cast(&at(&format!("{}.weight", names.up)), &[hidden, width])?;
        let gate_bias = weights.take_cast(&at(&format!("{}.bias", names.gate)), &[hidden])?;
        let up_bias = weights.take_cast(&at(&format!("{}.bias", names.up)), &[hidden])?;
        let gate_up = Linear::stacked(weights, &[(gate, gate_bias), (up, up_bias)])?;
        let mlp_norm = LayerNorm::load(weights, &at(names.norm), hidden, EPS)?;
        let fc2 = Linear::load(weights, &at(names.down), width, hidden)?;
        Ok(Self { norm1, qkv, proj, norm2, gate_up, mlp_norm, fc2, heads })
    }

    fn forward(&self, x: &Tensor, rotary: &Rotary) -> Forward {
        let x = add(self.attend(&self.norm1.forward(x)?, rotary)?, x)?;
        let [gate, up] = parts(self.gate_up.forward(&self.norm2.forward(&x)?)?.f_chunk(2, -1)?)?;
        let hidden = multiply(gate.f_silu()?, &up)?;
        add(self.fc2.forward(&self.mlp_norm.forward(&hidden)?)?, &x)
    }

    /// Whether kernels [serve](Self::serve) tokens like these.
    fn takes(&self, x: &Tensor) -> bool {
        let hidden = self.gate_up.outputs().map_or(0, |outputs| outputs / 2);
        kernels::norm(x) && kernels::is_wide(hidden)
    }

    /// As [`forward`](Self::forward), in place, but for the biases of `proj` and `fc2`: they are left to who reads `x`
    /// next, so that the products are added to `x` as they are made. `pending` is what `x` lacks, `after` what it lacks
    /// behind the attention.
    fn serve(&self, x: &Tensor, pending: Option<&Tensor>, after: &Tensor, rotary: &Rotary) -> Result<(), TchError> {
        self.proj.accumulate(x, &self.mix(&self.norm1.after(x, pending)?, rotary)?)?;
        let hidden = self.mlp_norm.swiglu(&self.gate_up.forward(&self.norm2.after(x, Some(after))?)?)?;
        self.fc2.accumulate(x, &hidden)
    }

    fn attend(&self, x: &Tensor, rotary: &Rotary) -> Forward {
        self.proj.forward(&self.mix(x, rotary)?)
    }

    /// What every head makes of the tokens.
    fn mix(&self, x: &Tensor, rotary: &Rotary) -> Forward {
        let (batch, tokens, width) = x.size3()?;
        let qkv = self.qkv.forward(x)?.f_reshape([batch, tokens, 3, self.heads, -1])?;
        let [q, k, v] = if kernels::rotate(&qkv, &rotary.cos, &rotary.sin)? {
            parts(qkv.f_unbind(2)?)?
        } else {
            let [qk, v] = parts(qkv.f_split_with_sizes([2, 1], 2)?)?;
            let [q, k] = parts(rotary.forward(&qk)?.f_unbind(2)?)?;
            [q, k, v.f_squeeze_dim(2)?]
        };
        let by_head = |part: Tensor| part.f_transpose(1, 2);
        let (q, k, v) = (by_head(q)?, by_head(k)?, by_head(v)?);
        attention(&q, &k, &v, false)?.f_transpose(1, 2)?.f_reshape([batch, tokens, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotating_what_is_widened_on_the_way_is_rotating_what_was_widened_before() {
        let rotary = Rotary::new(8, 3, 16, Device::Cpu).unwrap();
        let x = Tensor::randn([2, 10, 2, 3, 8], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let (before, on_the_way) = (rotary.rotate(&x.to_kind(Kind::Float)).unwrap(), rotary.rotate(&x).unwrap());
        assert_eq!(on_the_way.kind(), Kind::Float);
        assert_eq!(before, on_the_way);
    }
}
