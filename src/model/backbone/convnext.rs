//! ConvNeXt: "A ConvNet for the 2020s", <https://arxiv.org/abs/2201.03545>; timm `convnext_*` (`convnext.py`).
//!
//! Four stages; widths and depths are the weights'. ConvNeXt-S: 96/192/384/768 wide, 3/3/27/3 deep. Features run as
//! `[B, H, W, C]`, so that the linear layers and norms need no transposition; the layer scale `gamma` is folded into
//! `mlp.fc2`.

use tch::{TchError, Tensor};

use crate::model::ops::{
    Conv2d, Forward, LayerNorm, Linear, activate, add, made, mean_f32, rows, to_channels_first, to_channels_last,
};
use crate::model::{Activation, ModelError, Weights};
use crate::native::kernels::{self, Pointwise};

const EPS: f64 = 1e-6;
const STAGES: usize = 4;

/// The network up to the normalised pooled embedding (timm's `forward_head(…, pre_logits=True)`).
pub struct ConvNext {
    stem: Conv2d,
    stem_norm: LayerNorm,
    stages: Vec<Stage>,
    head_norm: LayerNorm,
    channels: i64,
}

impl ConvNext {
    /// Smallest side: one pixel is left after strides of 4, 2, 2 and 2.
    pub const MIN_SIDE: u32 = 32;

    /// Takes all of `weights`; the classifier `head.fc` is left aside.
    pub fn load(mut weights: Weights) -> Result<Self, ModelError> {
        let stem = Conv2d::load(&mut weights, "stem.0", [-1, 3, 4, 4])?.strided(4);
        let mut channels = stem.outputs()?;
        let stem_norm = LayerNorm::load(&mut weights, "stem.1", channels, EPS)?;
        let mut stages = Vec::with_capacity(STAGES);
        for index in 0..STAGES {
            let (stage, outputs) = Stage::load(&mut weights, index, channels)?;
            stages.push(stage);
            channels = outputs;
        }
        let head_norm = LayerNorm::load_f32(&mut weights, "head.norm", channels, EPS)?;
        weights.finish(|key| key.starts_with("head.fc."))?;
        Ok(Self { stem, stem_norm, stages, head_norm, channels })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let mut x = self.stem_norm.forward(&to_channels_last(&self.stem.forward(x)?)?)?;
        let mut pending = None;
        for stage in &self.stages {
            (x, pending) = stage.forward(x, pending)?;
        }
        let mean = mean_f32(&x, &[1, 2])?;
        self.head_norm.forward(&pending.map_or(Ok(mean.shallow_clone()), |pending| mean.f_add(pending))?)
    }
}

/// `stages.N`: halves the side (but for the first stage), then blocks of one width.
struct Stage {
    downsample: Option<(LayerNorm, Conv2d)>,
    blocks: Vec<Block>,
    /// Of each block, what pixels lack when [it has served](Block::serve) them.
    pending: Vec<Tensor>,
}

impl Stage {
    /// The stage and its width.
    fn load(weights: &mut Weights, index: usize, inputs: i64) -> Result<(Self, i64), ModelError> {
        let path = format!("stages.{index}");
        let mut width = inputs;
        let mut downsample = None;
        if index > 0 {
            let norm = LayerNorm::load(weights, &format!("{path}.downsample.0"), inputs, EPS)?;
            let conv = Conv2d::load(weights, &format!("{path}.downsample.1"), [-1, inputs, 2, 2])?.strided(2);
            width = conv.outputs()?;
            downsample = Some((norm, conv));
        }
        let depth = weights.count(&format!("{path}.blocks")).max(1);
        let blocks = (0..depth).map(|block| Block::load(weights, &format!("{path}.blocks.{block}"), width));
        let blocks: Vec<Block> = blocks.collect::<Result<_, _>>()?;
        let mut pending: Vec<Tensor> = Vec::with_capacity(blocks.len());
        for block in &blocks {
            pending.push(block.fc2.pending(pending.last())?);
        }
        Ok((Self { downsample, blocks, pending }, width))
    }

    /// `pending` is what every pixel of `x` lacks, and comes back as what every pixel of the result lacks.
    fn forward<'a>(&'a self, x: Tensor, pending: Option<&Tensor>) -> Result<(Tensor, Option<&'a Tensor>), TchError> {
        let mut x = match &self.downsample {
            Some((norm, conv)) => {
                let y = if pending.is_some() { norm.after(&x, pending)? } else { norm.forward(&x)? };
                to_channels_last(&conv.forward(&to_channels_first(&y)?)?)?
            }
            None => x,
        };
        if !kernels::norm(&x) || !self.blocks.iter().all(|block| block.conv_dw.is_depthwise()) {
            for block in &self.blocks {
                x = block.forward(&x)?;
            }
            return Ok((x, None));
        }
        let mut pending = None;
        for (block, after) in self.blocks.iter().zip(&self.pending) {
            block.serve(&x, pending)?;
            pending = Some(after);
        }
        Ok((x, pending))
    }
}

/// Depthwise 7×7, norm, MLP with exact GELU, shortcut.
struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn load(weights: &mut Weights, path: &str, width: i64) -> Result<Self, ModelError> {
        let conv_dw = Conv2d::load(weights, &format!("{path}.conv_dw"), [width, 1, 7, 7])?.padded(3).grouped(width);
        let norm = LayerNorm::load(weights, &format!("{path}.norm"), width, EPS)?;
        let fc1 = Linear::load(weights, &format!("{path}.mlp.fc1"), -1, width)?;
        let weight = weights.take(&format!("{path}.mlp.fc2.weight"), &[width, fc1.outputs()?])?;
        let bias = weights.take(&format!("{path}.mlp.fc2.bias"), &[width])?;
        let gamma = weights.take(&format!("{path}.gamma"), &[rows(&weight)?])?;
        let fc2 = Linear::new(weights, &weight.f_mul(&gamma.f_unsqueeze(1)?)?, &bias.f_mul(&gamma)?)?;
        Ok(Self { conv_dw, norm, fc1, fc2 })
    }

    fn forward(&self, x: &Tensor) -> Forward {
        let y = to_channels_last(&self.conv_dw.forward(&to_channels_first(x)?)?)?;
        let y = activate(self.fc1.forward(&self.norm.forward(&y)?)?, Activation::Gelu)?;
        add(self.fc2.forward(&y)?, x)
    }

    /// As [`forward`](Self::forward), in place, with GELU [as kernels have it](Linear::gelu), and but for the bias of `fc2`:
    /// it is left to who reads `x` next, so that the product is added to `x` as it is made.
    fn serve(&self, x: &Tensor, pending: Option<&Tensor>) -> Result<(), TchError> {
        let y = made(self.conv_dw.depthwise(x, pending, Pointwise::None)?)?;
        self.fc2.accumulate(x, &self.fc1.gelu(&self.norm.forward(&y)?)?)
    }
}
