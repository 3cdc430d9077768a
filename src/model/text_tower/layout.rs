//! The three layouts in which CLIP text towers are published, as tables of keys.

use crate::model::{ModelError, Weights};

/// Where a text tower's tensors lie in its file.
#[derive(Debug)]
pub(super) struct Layout {
    /// Before every key.
    pub(super) prefix: &'static str,
    pub(super) token_embedding: &'static str,
    pub(super) positional_embedding: &'static str,
    /// Before the number of each block.
    pub(super) blocks: &'static str,
    pub(super) ln_1: &'static str,
    pub(super) attention: Attention,
    pub(super) out_proj: &'static str,
    pub(super) ln_2: &'static str,
    pub(super) fc1: &'static str,
    pub(super) fc2: &'static str,
    pub(super) ln_final: &'static str,
    pub(super) projection: Projection,
}

/// How q, k and v are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attention {
    /// One matrix: keys of its weight and bias.
    Packed(&'static str, &'static str),
    /// Three linear layers.
    Split([&'static str; 3]),
}

/// How the last projection is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Projection {
    /// A matrix `[width, D]`.
    Matrix(&'static str),
    /// A linear layer's weight `[D, width]`; the key stands outside the prefix.
    Linear(&'static str),
}

/// open_clip's `CLIP`: the text tower's keys stand beside `visual.`.
const PLAIN: Layout = Layout {
    prefix: "",
    token_embedding: "token_embedding.weight",
    positional_embedding: "positional_embedding",
    blocks: "transformer.resblocks",
    ln_1: "ln_1",
    attention: Attention::Packed("attn.in_proj_weight", "attn.in_proj_bias"),
    out_proj: "attn.out_proj",
    ln_2: "ln_2",
    fc1: "mlp.c_fc",
    fc2: "mlp.c_proj",
    ln_final: "ln_final",
    projection: Projection::Matrix("text_projection"),
};

/// open_clip's `CustomTextCLIP`.
const CUSTOM: Layout = Layout { prefix: "text.", ..PLAIN };

/// transformers' `CLIPModel` and `CLIPTextModelWithProjection`.
const HUGGING_FACE: Layout = Layout {
    prefix: "text_model.",
    token_embedding: "embeddings.token_embedding.weight",
    positional_embedding: "embeddings.position_embedding.weight",
    blocks: "encoder.layers",
    ln_1: "layer_norm1",
    attention: Attention::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out_proj: "self_attn.out_proj",
    ln_2: "layer_norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    ln_final: "final_layer_norm",
    projection: Projection::Linear("text_projection.weight"),
};

impl Layout {
    /// The layout whose token embedding is in the file.
    pub(super) fn detect(weights: &Weights) -> Result<&'static Self, ModelError> {
        let layouts = [&PLAIN, &CUSTOM, &HUGGING_FACE];
        let key = |layout: &Layout| format!("{}{}", layout.prefix, layout.token_embedding);
        layouts.into_iter().find(|layout| weights.contains(&key(layout))).ok_or_else(|| {
            let others = format!("{} or {}", key(&CUSTOM), key(&HUGGING_FACE));
            weights.wrong(PLAIN.token_embedding, format!("is missing, and so is {others}; one of them is expected"))
        })
    }
}

/// Keys of a whole CLIP checkpoint that are no part of its text tower.
pub(super) fn is_foreign(key: &str) -> bool {
    const PARTS: [&str; 5] = ["visual.", "vision_model.", "visual_projection.", "logit_scale", "logit_bias"];
    const BUFFERS: [&str; 2] = ["attn_mask", "position_ids"];
    PARTS.iter().any(|part| key.starts_with(part)) || BUFFERS.iter().any(|buffer| key.ends_with(buffer))
}
