//! How the vision transformers begin: a square grid of patches behind a CLS token, with learnt positions.

use tch::{TchError, Tensor};

use crate::model::ops::{Conv2d, Forward, add};
use crate::model::{ExpertSpec, ModelError, Weights};

const HEAD_WIDTH: i64 = 64;

/// `patch_embed`, `cls_token` and `pos_embed`, the positions resampled to the grid that the bundle asks for.
pub(super) struct Patches {
    proj: Conv2d,
    cls_token: Tensor,
    pos_embed: Tensor,
    channels: i64,
    grid: i64,
}

impl Patches {
    /// For frames of `spec.input_size`, which must be a multiple of the patch size.
    pub(super) fn load(spec: &ExpertSpec, weights: &mut Weights) -> Result<Self, ModelError> {
        let cls_token = weights.take("cls_token", &[1, 1, -1])?;
        let channels = cls_token.size3()?.2;
        let patch = weights.take("patch_embed.proj.weight", &[channels, 3, -1, -1])?;
        let (_, _, side, width) = patch.size4()?;
        if side != width {
            return Err(weights.wrong("patch_embed.proj.weight", format!("is {side}x{width}, not square")));
        }
        let bias = weights.take("patch_embed.proj.bias", &[channels])?;
        let proj = Conv2d::new(weights, &patch, Some(&bias))?.strided(side);
        let grid = grid_side(spec, side)?;
        let pos_embed = positions(weights, channels, grid)?;
        Ok(Self { proj, cls_token: weights.cast(&cls_token)?, pos_embed, channels, grid })
    }

    /// Width C of the tokens.
    pub(super) fn channels(&self) -> i64 {
        self.channels
    }

    /// Patches along one side.
    pub(super) fn grid(&self) -> i64 {
        self.grid
    }

    /// Normalised frames `[B, 3, S, S]` to tokens `[B, 1 + grid², C]`.
    pub(super) fn forward(&self, x: &Tensor) -> Forward {
        let patches = self.proj.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let cls = self.cls_token.f_expand([patches.size3()?.0, 1, self.channels], false)?;
        add(Tensor::f_cat(&[cls, patches], 1)?, &self.pos_embed)
    }
}

/// Attention heads: as the manifest says, or as many as make them 64 wide. Each is a multiple of `unit` wide.
pub(super) fn head_count(spec: &ExpertSpec, channels: i64, unit: i64) -> Result<i64, ModelError> {
    let heads = spec.backbone.heads.unwrap_or(channels / HEAD_WIDTH);
    if heads < 1 || channels % heads != 0 || channels / heads % unit != 0 {
        let multiples = if unit > 1 { format!(" into multiples of {unit}") } else { String::new() };
        let problem = format!("{heads} heads do not divide a width of {channels}{multiples}");
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

fn positions(weights: &mut Weights, channels: i64, grid: i64) -> Result<Tensor, ModelError> {
    let stored = weights.take("pos_embed", &[1, -1, channels])?;
    match resample_positions(&stored, &[1, 1 + grid * grid, channels])? {
        Some(fitting) => Ok(weights.cast(&fitting)?),
        None => {
            let patches = stored.size3()?.1 - 1;
            Err(weights.wrong("pos_embed", format!("has {patches} patch positions, expected a square number")))
        }
    }
}

/// `pos_embed` `[1, 1 + side², C]` for the square grid of shape `wanted`: as it is where the grid is the same, else
/// resampled in f32 with the CLS row kept (timm's `resample_abs_pos_embed`). None where either grid is not a square one,
/// or the widths differ.
pub(in crate::model) fn resample_positions(stored: &Tensor, wanted: &[i64]) -> Result<Option<Tensor>, TchError> {
    let (Ok((1, tokens, channels)), &[1, wanted_tokens, wanted_channels]) = (stored.size3(), wanted) else {
        return Ok(None);
    };
    let (Some(stored_grid), Some(grid)) = (square_root(tokens - 1), square_root(wanted_tokens - 1)) else {
        return Ok(None);
    };
    if channels != wanted_channels {
        return Ok(None);
    }
    if stored_grid == grid {
        return Ok(Some(stored.shallow_clone()));
    }
    let map = stored.f_narrow(1, 1, tokens - 1)?.f_reshape([1, stored_grid, stored_grid, channels])?;
    let map = map.f_permute([0, 3, 1, 2])?.f_internal_upsample_bicubic2d_aa([grid, grid], false, None, None)?;
    let map = map.f_permute([0, 2, 3, 1])?.f_reshape([1, grid * grid, channels])?;
    Ok(Some(Tensor::f_cat(&[stored.f_narrow(1, 0, 1)?, map], 1)?))
}

/// Of a square number of at least 1.
fn square_root(n: i64) -> Option<i64> {
    let root = n.max(0).isqrt();
    (root > 0 && root * root == n).then_some(root)
}
