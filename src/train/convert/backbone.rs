//! Vision backbones as timm names them, and EVA02 as BAAI does, without their classifiers.

use anyhow::{Context, ensure};

use super::checkpoint::Checkpoint;
use super::plan::{Piece, Recipe, plan, width};
use crate::model::BackboneKind;
use crate::train::architecture::Architecture;

/// Side of an EVA02 patch.
const PATCH: u32 = 14;
/// timm's names of EVA02's tensors, and BAAI's.
const BAAI: [(&str, &str); 6] = [
    ("attn.q_proj.bias", "attn.q_bias"),
    ("attn.v_proj.bias", "attn.v_bias"),
    ("mlp.fc1_g.", "mlp.w1."),
    ("mlp.fc1_x.", "mlp.w2."),
    ("mlp.fc2.", "mlp.w3."),
    ("mlp.norm.", "mlp.ffn_ln."),
];

/// The backbone that `checkpoint` holds, by a tensor that only it has.
pub(super) fn detect(checkpoint: &Checkpoint) -> Option<BackboneKind> {
    let signs = [
        ("stages.0.blocks.0.conv_dw.weight", BackboneKind::Convnext),
        ("stem.in_conv.conv.weight", BackboneKind::Efficientvit),
        ("blocks.0.attn.q_proj.weight", BackboneKind::Eva02),
    ];
    signs.into_iter().find(|(key, _)| checkpoint.contains(key)).map(|(_, kind)| kind)
}

/// Whether `checkpoint` names EVA02's tensors as BAAI does.
pub(super) fn is_baai(checkpoint: &Checkpoint) -> bool {
    checkpoint.contains("blocks.0.mlp.w1.weight")
}

/// The plan of the backbone of `kind` in `checkpoint`.
///
/// # Errors
///
/// When a tensor is missing, misshapen, or part of some other network.
pub(super) fn backbone(checkpoint: &Checkpoint, kind: BackboneKind) -> anyhow::Result<Vec<Piece>> {
    let whole = |key: &str| Recipe::Whole(key.to_owned());
    match kind {
        BackboneKind::Convnext => {
            let network = convnext(checkpoint)?.network(0);
            plan(checkpoint, &network, whole, |key| key.starts_with("head.fc."))
        }
        BackboneKind::Efficientvit => {
            let network = efficientvit(checkpoint)?.network(0);
            plan(checkpoint, &network, whole, |key| key.starts_with("head.") || key.ends_with(".num_batches_tracked"))
        }
        _ => {
            let network = eva02(checkpoint)?.network(side(checkpoint)?);
            let baai = is_baai(checkpoint);
            let recipe = |key: &str| if baai { Recipe::Whole(baai_name(key)) } else { whole(key) };
            plan(checkpoint, &network, recipe, |key| key.starts_with("head.") || key.split('.').any(|p| p == "rope"))
        }
    }
}

fn convnext(checkpoint: &Checkpoint) -> anyhow::Result<Architecture> {
    let mut widths = [width(checkpoint, "stem.0.weight", 0)?; 4];
    let mut depths = [1; 4];
    for (stage, (channels, depth)) in widths.iter_mut().zip(&mut depths).enumerate() {
        if stage > 0 {
            *channels = width(checkpoint, &format!("stages.{stage}.downsample.1.weight"), 0)?;
        }
        *depth = checkpoint.depth(&format!("stages.{stage}.blocks.")).max(1);
    }
    Ok(Architecture::Convnext { widths, depths })
}

fn efficientvit(checkpoint: &Checkpoint) -> anyhow::Result<Architecture> {
    let mut widths = [width(checkpoint, "stem.in_conv.conv.weight", 0)?; 5];
    let mut depths = [checkpoint.depth("stem.res"); 5];
    for (stage, (channels, depth)) in widths.iter_mut().zip(&mut depths).skip(1).enumerate() {
        let blocks = format!("stages.{stage}.blocks.");
        *channels = width(checkpoint, &format!("{blocks}0.main.point_conv.conv.weight"), 0)?;
        // The block that halves the side is not counted.
        *depth = checkpoint.depth(&blocks).saturating_sub(1);
    }
    let grouped = "stages.3.blocks.1.context_module.main.aggreg.0.1.weight";
    Ok(Architecture::Efficientvit { widths, depths, head_width: width(checkpoint, grouped, 1)? })
}

fn eva02(checkpoint: &Checkpoint) -> anyhow::Result<Architecture> {
    let width = width(checkpoint, "patch_embed.proj.weight", 0)?;
    let depth = checkpoint.depth("blocks.").max(1);
    Ok(Architecture::Eva02 { width, depth, heads: None, rope_reference: None })
}

/// Side of the pictures that EVA02's positions are made for, in pixels.
fn side(checkpoint: &Checkpoint) -> anyhow::Result<u32> {
    let positions = width(checkpoint, "pos_embed", 1)?;
    let grid = (positions - 1).isqrt();
    ensure!(grid * grid + 1 == positions, "tensor pos_embed: has {positions} positions, expected 1 + a square");
    let side = u32::try_from(grid).ok().and_then(|grid| grid.checked_mul(PATCH));
    side.with_context(|| format!("tensor pos_embed: has {positions} positions"))
}

fn baai_name(key: &str) -> String {
    BAAI.iter().fold(key.to_owned(), |key, (timm, baai)| key.replace(timm, baai))
}
