//! EVA02: "EVA-02: A Visual Representation for Neon Genesis", <https://arxiv.org/abs/2303.11331>; timm `eva02_*` with
//! separate q, k, v (`eva.py`, `Eva`), and BAAI's own names.
//!
//! Width, depth and patch size are the weights'. EVA02-B/14: 768 wide, 12 deep, 12 heads, MLP 2048. q, k and v are one
//! matrix product, and so are the two inputs of SwiGLU. Positions (resampled to the grid) and rotary tables are made at
//! loading for the one side that the bundle asks for.

use tch::{Device, Kind, TchError, Tensor};

use crate::model::ops::{Conv2d, Forward, LayerNorm, Linear, attention, mean_f32};
use crate::model::{ExpertSpec, ModelError, Weights};

const EPS: f64 = 1e-6;
const HEAD_WIDTH: i64 = 64;
const ROPE_REFERENCE: i64 = 16;
const ROPE_BASE: f32 = 10_000.0;

/// The network up to the normalised mean of its patch tokens (timm's `forward_head(…, pre_logits=True)`).
pub struct Eva02 {
    patch_embed: Conv2d,
    cls_token: Tensor,
    pos_embed: Tensor,
    rotary: Rotary,
    blocks: Vec<Block>,
    fc_norm: LayerNorm,
    channels: i64,
}

impl Eva02 {
    /// Takes all of `weights` for frames of `spec.input_size`; the classifier `head` and stored rotary tables are left
    /// aside.
    pub fn load(spec: &ExpertSpec, mut weights: Weights) -> Result<Self, ModelError> {
        let cls_token = weights.take("cls_token", &[1, 1, -1])?;
        let channels = cls_token.size3()?.2;
        let heads = head_count(spec, channels)?;
        let patch = weights.take("patch_embed.proj.weight", &[channels, 3, -1, -1])?;
        let (_, _, patch_side, patch_width) = patch.size4()?;
        if patch_side != patch_width {
            return Err(weights.wrong("patch_embed.proj.weight", format!("is {patch_side}x{patch_width}, not square")));
        }
        let bias = weights.take("patch_embed.proj.bias", &[channels])?;
        let patch_embed = Conv2d::new(&weights, &patch, Some(&bias))?.strided(patch_side);
        let grid = grid_side(spec, patch_side)?;
        let pos_embed = positions(&mut weights, channels, grid)?;
        let rotary = Rotary::new(channels / heads, grid, reference_side(spec)?, weights.device())?;
        let names = Names::of(&weights);
        let depth = weights.count("blocks").max(1);
        let blocks =
            (0..depth).map(|index| Block::load(&mut weights, &format!("blocks.{index}"), names, heads, channels));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let fc_norm = LayerNorm::load_f32(&mut weights, "fc_norm", channels, EPS)?;
        let cls_token = weights.cast(&cls_token)?;
        weights.finish(|key| key.starts_with("head.") || key.split('.').any(|part| part == "rope"))?;
        Ok(Self { patch_embed, cls_token, pos_embed, rotary, blocks, fc_norm, channels })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let patches = self.patch_embed.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let (batch, tokens, _) = patches.size3()?;
        let cls = self.cls_token.f_expand([batch, 1, self.channels], false)?;
        let mut x = Tensor::f_cat(&[cls, patches], 1)?.f_add_(&self.pos_embed)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.rotary)?;
        }
        self.fc_norm.forward(&mean_f32(&x.f_narrow(1, 1, tokens)?, &[1])?)
    }
}

fn head_count(spec: &ExpertSpec, channels: i64) -> Result<i64, ModelError> {
    let heads = spec.backbone.heads.unwrap_or(channels / HEAD_WIDTH);
    if heads < 1 || channels % heads != 0 || channels / heads % 4 != 0 {
        let problem = format!("{heads} heads do not divide a width of {channels} into multiples of 4");
        return Err(spec.error("backbone.heads", problem));
    }
    Ok(heads)
}

fn grid_side(spec: &ExpertSpec, patch: i64) -> Result<i64, ModelError> {
    let side = i64::from(spec.input_size);
    if side < patch || side % patch != 0 {
        return Err(spec.error("input_size", format!("is {side}, expected a multiple of the patch size {patch}")));
    }
    Ok(side / patch)
}

fn reference_side(spec: &ExpertSpec) -> Result<i64, ModelError> {
    match spec.backbone.rope_reference.unwrap_or(ROPE_REFERENCE) {
        side if side > 0 => Ok(side),
        side => Err(spec.error("backbone.rope_reference", format!("is {side}, expected more than 0"))),
    }
}

/// `pos_embed` for a square grid: as stored where the side fits, else resampled in f32 with the CLS row kept (timm's
/// `resample_abs_pos_embed`).
fn positions(weights: &mut Weights, channels: i64, grid: i64) -> Result<Tensor, ModelError> {
    let stored = weights.take("pos_embed", &[1, -1, channels])?;
    let patches = stored.size3()?.1 - 1;
    let stored_grid = patches.isqrt();
    if stored_grid < 1 || stored_grid * stored_grid != patches {
        return Err(weights.wrong("pos_embed", format!("has {patches} patch positions, expected a square number")));
    }
    if stored_grid == grid {
        return Ok(weights.cast(&stored)?);
    }
    let map = stored.f_narrow(1, 1, patches)?.f_reshape([1, stored_grid, stored_grid, channels])?;
    let map = map.f_permute([0, 3, 1, 2])?.f_internal_upsample_bicubic2d_aa([grid, grid], false, None, None)?;
    let map = map.f_permute([0, 2, 3, 1])?.f_reshape([1, grid * grid, channels])?;
    Ok(weights.cast(&Tensor::f_cat(&[stored.f_narrow(1, 0, 1)?, map], 1)?)?)
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
        let wide = x.f_to_kind(Kind::Float)?;
        let pairs = x.size5()?.4 / 2;
        let half = |index: i64| wide.f_narrow(-1, index * pairs, pairs);
        let swapped = Tensor::f_cat(&[half(1)?, half(0)?], -1)?;
        wide.f_mul(&self.cos)?.f_addcmul_(&swapped, &self.sin)?.f_to_kind(x.kind())
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
        let q = weights.take(&at("attn.q_proj.weight"), &[width, width])?;
        let k = weights.take(&at("attn.k_proj.weight"), &[width, width])?;
        let v = weights.take(&at("attn.v_proj.weight"), &[width, width])?;
        let q_bias = weights.take(&at(names.q_bias), &[width])?;
        let v_bias = weights.take(&at(names.v_bias), &[width])?;
        let k_bias = q_bias.f_zeros_like()?;
        let (q, q_bias) = (halves_first(&q, heads)?, halves_first(&q_bias, heads)?);
        let qkv = Linear::stacked(weights, &[(q, q_bias), (halves_first(&k, heads)?, k_bias), (v, v_bias)])?;
        let proj = Linear::load(weights, &at("attn.proj"), width, width)?;
        let norm2 = LayerNorm::load(weights, &at("norm2"), width, EPS)?;
        let gate = weights.take(&at(&format!("{}.weight", names.gate)), &[-1, width])?;
        let hidden = gate.size2()?.0;
        let up = weights.take(&at(&format!("{}.weight", names.up)), &[hidden, width])?;
        let gate_bias = weights.take(&at(&format!("{}.bias", names.gate)), &[hidden])?;
        let up_bias = weights.take(&at(&format!("{}.bias", names.up)), &[hidden])?;
        let gate_up = Linear::stacked(weights, &[(gate, gate_bias), (up, up_bias)])?;
        let mlp_norm = LayerNorm::load(weights, &at(names.norm), hidden, EPS)?;
        let fc2 = Linear::load(weights, &at(names.down), width, hidden)?;
        Ok(Self { norm1, qkv, proj, norm2, gate_up, mlp_norm, fc2, heads })
    }

    fn forward(&self, x: &Tensor, rotary: &Rotary) -> Forward {
        let x = self.attend(&self.norm1.forward(x)?, rotary)?.f_add_(x)?;
        let hidden = self.gate_up.forward(&self.norm2.forward(&x)?)?.f_chunk(2, -1)?;
        let [gate, up] = hidden.as_slice() else {
            return Err(TchError::Shape("SwiGLU needs two halves".to_owned()));
        };
        let hidden = gate.f_silu()?.f_mul_(up)?;
        self.fc2.forward(&self.mlp_norm.forward(&hidden)?)?.f_add_(&x)
    }

    fn attend(&self, x: &Tensor, rotary: &Rotary) -> Forward {
        let (batch, tokens, width) = x.size3()?;
        let qkv = self.qkv.forward(x)?.f_reshape([batch, tokens, 3, self.heads, -1])?;
        let rotated = rotary.forward(&qkv.f_narrow(2, 0, 2)?)?;
        let by_head = |part: Tensor| part.f_transpose(1, 2);
        let (q, k) = (by_head(rotated.f_select(2, 0)?)?, by_head(rotated.f_select(2, 1)?)?);
        let v = by_head(qkv.f_select(2, 2)?)?;
        let y = attention(&q, &k, &v, false)?.f_transpose(1, 2)?.f_reshape([batch, tokens, width])?;
        self.proj.forward(&y)
    }
}
