//! CLIP's text tower, out of any file that holds one, in open_clip's plain layout.

use anyhow::ensure;

use super::checkpoint::Checkpoint;
use super::plan::{Piece, Recipe, plan, width};
use crate::train::networks::text_tower;

/// Before every key of transformers' text tower.
const HUGGING_FACE: &str = "text_model.";

/// Long-CLIP (<https://arxiv.org/abs/2403.15378>) keeps so many of CLIP's positions and has the others in a table of
/// their own, `positional_embedding_res`, which is as long.
const KEPT_POSITIONS: usize = 20;

/// How a checkpoint names its text tower.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// open_clip's `CLIP`: beside `visual.`.
    Plain,
    /// open_clip's `CustomTextCLIP` and BAAI's EVA-CLIP: under `text.`.
    Custom,
    /// transformers' `CLIPModel` and `CLIPTextModelWithProjection`.
    HuggingFace,
}

impl Layout {
    /// The layout whose token embedding is in the file.
    pub(super) fn detect(checkpoint: &Checkpoint) -> Option<Self> {
        let layouts = [Self::Plain, Self::Custom, Self::HuggingFace];
        let here =
            |layout: &Self| layout.recipe("token_embedding.weight").keys().iter().all(|k| checkpoint.contains(k));
        layouts.into_iter().find(here)
    }

    /// What is known of it, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "open_clip's",
            Self::Custom => "open_clip's with text. (EVA-CLIP)",
            Self::HuggingFace => "transformers'",
        }
    }

    /// What the tensor that open_clip calls `key` is made from.
    fn recipe(self, key: &str) -> Recipe {
        match self {
            Self::Plain => Recipe::Whole(key.to_owned()),
            Self::Custom => Recipe::Whole(format!("text.{key}")),
            Self::HuggingFace => hugging_face(key),
        }
    }

    /// Before the number of each block.
    fn blocks(self) -> &'static str {
        match self {
            Self::Plain => "transformer.resblocks.",
            Self::Custom => "text.transformer.resblocks.",
            Self::HuggingFace => "text_model.encoder.layers.",
        }
    }

    /// Keys of a whole CLIP model that are no part of its text tower.
    fn is_foreign(self, key: &str) -> bool {
        const PARTS: [&str; 5] = ["visual.", "vision_model.", "visual_projection.", "logit_scale", "logit_bias"];
        let buffer = key.ends_with("attn_mask") || key.ends_with("position_ids");
        buffer || PARTS.iter().any(|part| key.starts_with(part))
    }
}

/// The plan of the text tower that `checkpoint` holds in `layout`.
///
/// # Errors
///
/// When a tensor is missing, misshapen, or part of some other text tower.
pub(super) fn tower(checkpoint: &Checkpoint, layout: Layout) -> anyhow::Result<Vec<Piece>> {
    let source = |key: &str| layout.recipe(key).keys()[0].clone();
    let tokens = source("token_embedding.weight");
    let positions = source("positional_embedding");
    let projection = source("text_projection");
    let (vocabulary, channels) = (width(checkpoint, &tokens, 0)?, width(checkpoint, &tokens, 1)?);
    let context = width(checkpoint, &positions, 0)?;
    ensure!(
        layout != Layout::HuggingFace || checkpoint.contains(&projection),
        "tensor {projection}: is missing; a CLIPTextModel without a projection does not embed prompts"
    );
    let dim = width(checkpoint, &projection, if layout == Layout::HuggingFace { 0 } else { 1 })?;
    let mut network = text_tower(channels, checkpoint.depth(layout.blocks()).max(1), dim);
    for entry in &mut network.0 {
        match entry.key.as_str() {
            "token_embedding.weight" => entry.shape[0] = vocabulary,
            "positional_embedding" => entry.shape[0] = context,
            _ => {}
        }
    }
    let others = format!("{positions}_res");
    let recipe = |key: &str| match layout.recipe(key) {
        Recipe::Whole(first) if first == positions && checkpoint.contains(&others) => {
            Recipe::Spliced([first, others.clone()], KEPT_POSITIONS)
        }
        recipe => recipe,
    };
    plan(checkpoint, &network, recipe, |key| layout.is_foreign(key))
}

fn hugging_face(key: &str) -> Recipe {
    let whole = |key: String| Recipe::Whole(format!("{HUGGING_FACE}{key}"));
    match key {
        "token_embedding.weight" => return whole("embeddings.token_embedding.weight".to_owned()),
        "positional_embedding" => return whole("embeddings.position_embedding.weight".to_owned()),
        "text_projection" => return Recipe::Transposed("text_projection.weight".to_owned()),
        _ => {}
    }
    if let Some(rest) = key.strip_prefix("ln_final.") {
        return whole(format!("final_layer_norm.{rest}"));
    }
    let block = key.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
    let Some((index, part)) = block else { return whole(key.to_owned()) };
    let layer = format!("encoder.layers.{index}");
    if let Some(kind) = part.strip_prefix("attn.in_proj_") {
        return Recipe::Stacked(["q", "k", "v"].map(|p| format!("{HUGGING_FACE}{layer}.self_attn.{p}_proj.{kind}")));
    }
    const NAMES: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.", "self_attn."),
    ];
    let renamed = NAMES.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    whole(format!("{layer}.{}", renamed.unwrap_or_else(|| part.to_owned())))
}
