//! ResNet: "Deep Residual Learning for Image Recognition", <https://arxiv.org/abs/1512.03385>; timm `resnet*`
//! (`resnet.py`, `ResNet`) of bottlenecks, with the stride in their 3×3 convolution.
//!
//! Four layers; widths and depths are the weights'. ResNet-50: 256/512/1024/2048 wide, 3/4/6/3 deep.

use tch::Tensor;

use crate::model::ops::{ConvNorm, Forward, activate, add, mean_f32};
use crate::model::{Activation, ModelError, Weights};

const EPS: f64 = 1e-5;
const LAYERS: usize = 4;

/// The network up to the pooled map of its last layer.
pub struct Resnet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    channels: i64,
}

impl Resnet {
    /// Smallest side: one pixel is left after five strides of 2.
    pub const MIN_SIDE: u32 = 32;

    /// Takes all of `weights`; the classifier `fc` and the batch norms' counters are left aside.
    pub fn load(mut weights: Weights) -> Result<Self, ModelError> {
        let stem = ConvNorm::load(&mut weights, "conv1", "bn1", [-1, 3, 7, 7], EPS)?.strided(2).padded(3);
        let mut channels = stem.outputs()?;
        let mut blocks = Vec::new();
        for layer in 1..=LAYERS {
            let path = format!("layer{layer}");
            for index in 0..weights.count(&path).max(1) {
                let stride = if layer > 1 && index == 0 { 2 } else { 1 };
                let block = Block::load(&mut weights, &format!("{path}.{index}"), channels, stride)?;
                channels = block.outputs()?;
                blocks.push(block);
            }
        }
        weights.finish(|key| key.starts_with("fc.") || key.ends_with(".num_batches_tracked"))?;
        Ok(Self { stem, blocks, channels })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let x = activate(self.stem.forward(x)?, Activation::Relu)?;
        let mut x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        mean_f32(&x, &[2, 3])
    }
}

/// `Bottleneck`: 1×1, 3×3 and 1×1, ReLU after each of them, of the last one behind the shortcut.
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
}

impl Block {
    fn load(weights: &mut Weights, path: &str, inputs: i64, stride: i64) -> Result<Self, ModelError> {
        let mut conv = |index: usize, inputs: i64, kernel: i64| {
            let (key, norm) = (format!("{path}.conv{index}"), format!("{path}.bn{index}"));
            let layer = ConvNorm::load(weights, &key, &norm, [-1, inputs, kernel, kernel], EPS)?.padded(kernel / 2);
            Ok::<_, ModelError>((layer.outputs()?, layer))
        };
        let (width, conv1) = conv(1, inputs, 1)?;
        let (width, conv2) = conv(2, width, 3)?;
        let (width, conv3) = conv(3, width, 1)?;
        let (shortcut, norm) = (format!("{path}.downsample.0"), format!("{path}.downsample.1"));
        let downsample = if stride != 1 || width != inputs || weights.contains(&format!("{shortcut}.weight")) {
            Some(ConvNorm::load(weights, &shortcut, &norm, [width, inputs, 1, 1], EPS)?.strided(stride))
        } else {
            None
        };
        Ok(Self { conv1, conv2: conv2.strided(stride), conv3, downsample })
    }

    fn outputs(&self) -> Result<i64, ModelError> {
        Ok(self.conv3.outputs()?)
    }

    fn forward(&self, x: &Tensor) -> Forward {
        let y = activate(self.conv1.forward(x)?, Activation::Relu)?;
        let y = activate(self.conv2.forward(&y)?, Activation::Relu)?;
        let y = self.conv3.forward(&y)?;
        let y = match &self.downsample {
            Some(conv) => add(y, &conv.forward(x)?)?,
            None => add(y, x)?,
        };
        activate(y, Activation::Relu)
    }
}
