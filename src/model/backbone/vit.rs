//! Plain vision transformers: "An Image is Worth 16x16 Words", <https://arxiv.org/abs/2010.11929>; timm `vit_*`
//! (`vision_transformer.py`, `VisionTransformer`).
//!
//! Width, depth and patch size are the weights'. ViT-B/16: 768 wide, 12 deep, 12 heads. The embedding is what timm's
//! head would see: the normalised CLS token where the file has `norm`, the normalised mean of the patch tokens where it
//! has `fc_norm`.

use tch::{Kind, Tensor};

use super::patches::{Patches, head_count};
use crate::model::ops::{Forward, LayerNorm, Linear, activate, add, attention, mean_f32, parts};
use crate::model::{Activation, ExpertSpec, ModelError, Weights};

const EPS: f64 = 1e-6;

/// The network up to its normalised pooled token (timm's `forward_head(…, pre_logits=True)`).
pub struct Vit {
    patches: Patches,
    blocks: Vec<Block>,
    norm: LayerNorm,
    mean_pooled: bool,
}

impl Vit {
    /// Takes all of `weights` for frames of `spec.input_size`; the classifier `head` is left aside.
    pub fn load(spec: &ExpertSpec, mut weights: Weights) -> Result<Self, ModelError> {
        let patches = Patches::load(spec, &mut weights)?;
        let channels = patches.channels();
        let heads = head_count(spec, channels, 1)?;
        let depth = weights.count("blocks").max(1);
        let blocks = (0..depth).map(|index| Block::load(&mut weights, &format!("blocks.{index}"), heads, channels));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let mean_pooled = weights.contains("fc_norm.weight");
        let norm = if mean_pooled { "fc_norm" } else { "norm" };
        let norm = LayerNorm::load_f32(&mut weights, norm, channels, EPS)?;
        weights.finish(|key| key.starts_with("head."))?;
        Ok(Self { patches, blocks, norm, mean_pooled })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.patches.channels()
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let mut x = self.patches.forward(x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let pooled = if self.mean_pooled {
            mean_f32(&x.f_narrow(1, 1, x.size3()?.1 - 1)?, &[1])?
        } else {
            // The norm is per token: pooling first is the same and cheaper.
            x.f_select(1, 0)?.f_to_kind(Kind::Float)?
        };
        self.norm.forward(&pooled)
    }
}

/// Pre-norm attention, then an MLP with exact GELU; shortcuts around both.
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: i64,
}

impl Block {
    fn load(weights: &mut Weights, path: &str, heads: i64, width: i64) -> Result<Self, ModelError> {
        let at = |name: &str| format!("{path}.{name}");
        let norm1 = LayerNorm::load(weights, &at("norm1"), width, EPS)?;
        let qkv = Linear::load(weights, &at("attn.qkv"), 3 * width, width)?;
        let proj = Linear::load(weights, &at("attn.proj"), width, width)?;
        let norm2 = LayerNorm::load(weights, &at("norm2"), width, EPS)?;
        let fc1 = Linear::load(weights, &at("mlp.fc1"), -1, width)?;
        let fc2 = Linear::load(weights, &at("mlp.fc2"), width, fc1.outputs()?)?;
        Ok(Self { norm1, qkv, proj, norm2, fc1, fc2, heads })
    }

    fn forward(&self, x: &Tensor) -> Forward {
        let x = add(self.attend(&self.norm1.forward(x)?)?, x)?;
        let hidden = activate(self.fc1.forward(&self.norm2.forward(&x)?)?, Activation::Gelu)?;
        add(self.fc2.forward(&hidden)?, &x)
    }

    fn attend(&self, x: &Tensor) -> Forward {
        let (batch, tokens, width) = x.size3()?;
        let qkv = self.qkv.forward(x)?.f_reshape([batch, tokens, 3, self.heads, width / self.heads])?;
        let [q, k, v] = parts(qkv.f_transpose(1, 3)?.f_unbind(2)?)?;
        let y = attention(&q, &k, &v, false)?;
        self.proj.forward(&y.f_transpose(1, 2)?.f_reshape([batch, tokens, width])?)
    }
}
