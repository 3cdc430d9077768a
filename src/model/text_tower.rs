//! CLIP's text tower: "Learning Transferable Visual Models From Natural Language Supervision",
//! <https://arxiv.org/abs/2103.00020>; open_clip `TextTransformer`, in all layouts that it is published in.
//!
//! A pre-norm transformer with causal attention, pooled at end of text. Width and depth are the weights'. Frozen:
//! shared by all experts.

mod layout;

use tch::{Device, Kind, TchError, Tensor};

use self::layout::{Attention, Layout, Projection, is_foreign};
use super::ops::{Forward, LayerNorm, Linear, activate, add, attention};
use super::{Activation, ModelError, TextTowerSpec, Weights};
use crate::native;
use crate::text::TokenIds;

const EPS: f64 = 1e-5;
const HEAD_WIDTH: i64 = 64;

/// One text tower in inference form.
pub struct TextTower {
    token_embedding: Tensor,
    positional_embedding: Tensor,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    /// `[width, D]` in f32.
    projection: Tensor,
    vocabulary: i64,
    context_length: i64,
    dim: i64,
    device: Device,
}

impl TextTower {
    /// Takes the text tower out of `weights`; other parts of a CLIP checkpoint are left aside.
    pub fn load(spec: &TextTowerSpec, mut weights: Weights) -> Result<Self, ModelError> {
        let layout = Layout::detect(&weights)?;
        weights.set_prefix(layout.prefix);
        let token_embedding = weights.take_cast(layout.token_embedding, &[-1, -1])?;
        let (vocabulary, width) = token_embedding.size2()?;
        let positional_embedding = weights.take_cast(layout.positional_embedding, &[-1, width])?;
        let context_length = positional_embedding.size2()?.0;
        let heads = head_count(spec, width)?;
        let depth = weights.count(layout.blocks).max(1);
        let blocks = (0..depth).map(|index| {
            Block::load(&mut weights, layout, &format!("{}.{index}", layout.blocks), width, heads, spec.activation)
        });
        let blocks = blocks.collect::<Result<_, _>>()?;
        let ln_final = LayerNorm::load_f32(&mut weights, layout.ln_final, width, EPS)?;
        let projection = match layout.projection {
            Projection::Matrix(key) => weights.take(key, &[width, -1])?,
            Projection::Linear(key) => {
                weights.set_prefix("");
                weights.take(key, &[-1, width])?.f_transpose(0, 1)?
            }
        };
        let tower = Self {
            token_embedding,
            positional_embedding,
            blocks,
            ln_final,
            dim: projection.size2()?.1,
            projection,
            vocabulary,
            context_length,
            device: weights.device(),
        };
        weights.finish(is_foreign)?;
        Ok(tower)
    }

    /// Width D of the embedding.
    pub fn dim(&self) -> i64 {
        self.dim
    }

    /// Most tokens of a prompt.
    pub fn context_length(&self) -> i64 {
        self.context_length
    }

    /// Embeddings `[prompts.len(), D]` in f32, not normalised. The batch is as long as its longest prompt: attention is
    /// causal and the end of text is pooled, so what follows a prompt does not count.
    pub fn forward(&self, prompts: &[&TokenIds]) -> Result<Tensor, ModelError> {
        let Some(longest) = prompts.iter().map(|prompt| prompt.ids.len()).max() else {
            return Err(ModelError::Input("a batch has no prompts".to_owned()));
        };
        let mut ids = Vec::with_capacity(prompts.len() * longest);
        let mut ends = Vec::with_capacity(prompts.len());
        for (row, prompt) in prompts.iter().enumerate() {
            self.check(prompt)?;
            ends.push((row * longest + prompt.ids.len() - 1) as i64);
            ids.extend(prompt.ids.iter().map(|&id| i64::from(id)));
            ids.resize((row + 1) * longest, 0);
        }
        Ok(self.embed(&ids, &ends, longest as i64)?)
    }

    /// One that it takes.
    pub(super) fn any_prompt(&self) -> TokenIds {
        let end = u32::try_from(self.vocabulary - 1).unwrap_or(0);
        let before = u32::try_from(self.context_length - 1).unwrap_or(0).min(end).min(6);
        TokenIds { ids: (0..before).chain([end]).collect(), truncated: false }
    }

    fn check(&self, prompt: &TokenIds) -> Result<(), ModelError> {
        let (count, limit) = (prompt.ids.len(), self.context_length);
        if count == 0 || count as i64 > limit {
            return Err(ModelError::Input(format!("a prompt has {count} tokens, expected 1 to {limit}")));
        }
        if let Some(id) = prompt.ids.iter().find(|&&id| i64::from(id) >= self.vocabulary) {
            return Err(ModelError::Input(format!("token {id} is outside of the {} known ones", self.vocabulary)));
        }
        // CLIP pools at the highest id: a tokenizer that ends elsewhere was not made for this tower.
        let (last, highest) = (prompt.ids[count - 1], self.vocabulary - 1);
        if i64::from(last) != highest {
            let problem = format!("ends prompts with id {last}, a text tower expects its highest, {highest}");
            return Err(ModelError::Manifest { key: "text.tokenizer".to_owned(), problem });
        }
        Ok(())
    }

    fn embed(&self, ids: &[i64], ends: &[i64], length: i64) -> Forward {
        let ids = native::uploaded(Tensor::f_from_slice(ids)?, self.device)?.f_reshape([-1, length])?;
        let ends = native::uploaded(Tensor::f_from_slice(ends)?, self.device)?;
        let mut x = Tensor::f_embedding(&self.token_embedding, &ids, -1, false, false)?;
        x = x.f_add(&self.positional_embedding.f_narrow(0, 0, length)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // The norm is per token: pooling first is the same and cheaper.
        let pooled = x.f_flatten(0, 1)?.f_index_select(0, &ends)?.f_to_kind(Kind::Float)?;
        self.ln_final.forward(&pooled)?.f_matmul(&self.projection)
    }
}

fn head_count(spec: &TextTowerSpec, width: i64) -> Result<i64, ModelError> {
    let heads = spec.heads.unwrap_or(width / HEAD_WIDTH);
    if heads < 1 || width % heads != 0 {
        return Err(ModelError::Manifest {
            key: format!("text.towers.{}.heads", spec.name),
            problem: format!("{heads} heads do not divide a width of {width}"),
        });
    }
    Ok(heads)
}

/// A residual attention block.
struct Block {
    ln_1: LayerNorm,
    in_proj: Linear,
    out_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
    heads: i64,
    activation: Activation,
}

impl Block {
    fn load(
        weights: &mut Weights,
        layout: &Layout,
        path: &str,
        width: i64,
        heads: i64,
        activation: Activation,
    ) -> Result<Self, ModelError> {
        let at = |name: &str| format!("{path}.{name}");
        let ln_1 = LayerNorm::load(weights, &at(layout.ln_1), width, EPS)?;
        let in_proj = match layout.attention {
            Attention::Packed(weight, bias) => {
                let weight = weights.take_cast(&at(weight), &[3 * width, width])?;
                let bias = weights.take_cast(&at(bias), &[3 * width])?;
                Linear::new(weights, &weight, &bias)?
            }
            Attention::Split(names) => {
                let mut parts = Vec::with_capacity(names.len());
                for name in names {
                    let weight = weights.take_cast(&at(&format!("{name}.weight")), &[width, width])?;
                    parts.push((weight, weights.take_cast(&at(&format!("{name}.bias")), &[width])?));
                }
                Linear::stacked(weights, &parts)?
            }
        };
        let out_proj = Linear::load(weights, &at(layout.out_proj), width, width)?;
        let ln_2 = LayerNorm::load(weights, &at(layout.ln_2), width, EPS)?;
        let c_fc = Linear::load(weights, &at(layout.fc1), -1, width)?;
        let c_proj = Linear::load(weights, &at(layout.fc2), width, c_fc.outputs()?)?;
        Ok(Self { ln_1, in_proj, out_proj, ln_2, c_fc, c_proj, heads, activation })
    }

    fn forward(&self, x: &Tensor) -> Forward {
        let x = add(self.attend(&self.ln_1.forward(x)?)?, x)?;
        let hidden = activate(self.c_fc.forward(&self.ln_2.forward(&x)?)?, self.activation)?;
        add(self.c_proj.forward(&hidden)?, &x)
    }

    fn attend(&self, x: &Tensor) -> Forward {
        let (batch, tokens, width) = x.size3()?;
        let qkv = self.in_proj.forward(x)?.f_reshape([batch, tokens, 3, self.heads, width / self.heads])?;
        let part = |index: i64| -> Result<Tensor, TchError> { qkv.f_select(2, index)?.f_transpose(1, 2) };
        let y = attention(&part(0)?, &part(1)?, &part(2)?, true)?;
        self.out_proj.forward(&y.f_transpose(1, 2)?.f_reshape([batch, tokens, width])?)
    }
}
