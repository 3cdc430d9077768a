//! EfficientViT-L: "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
//! <https://arxiv.org/abs/2205.14756>; timm `efficientvit_l*` (`efficientvit_mit.py`, `EfficientVitLarge`).
//!
//! A stem and four stages, each halving the side; widths, depths and the attention's head width are the weights'.
//! EfficientViT-L2: 32/64/128/256/512 wide, 1/2/2/8/8 deep, heads 32 wide. The embedding is the mean of the last stage's
//! map: timm's own head is not part of it.

use tch::{Kind, TchError, Tensor};

use crate::model::ops::{
    Conv2d, ConvNorm, Forward, add, gelu, mean_f32, parts, rows, to_channels_first, to_channels_last,
};
use crate::model::{ModelError, Weights};
use crate::native::kernels::{self, Pointwise};

const BATCH_NORM_EPS: f64 = 1e-7;
const ATTENTION_EPS: f64 = 1e-5;
const STAGES: usize = 4;

/// The network up to the pooled map of its last stage.
pub struct EfficientVit {
    stem: ConvNormAct,
    layers: Vec<Layer>,
    channels: i64,
}

impl EfficientVit {
    /// Smallest side: one pixel is left after five strides of 2.
    pub const MIN_SIDE: u32 = 32;

    /// Takes all of `weights`; the classifier `head` and the batch norms' counters are left aside.
    pub fn load(mut weights: Weights) -> Result<Self, ModelError> {
        let stem = ConvNormAct::load(&mut weights, "stem.in_conv", [-1, 3, 3, 3])?.strided(2).activated();
        let mut channels = stem.outputs()?;
        let mut layers = Vec::new();
        while weights.contains_under(&format!("stem.res{}.", layers.len())) {
            let path = format!("stem.res{}.main", layers.len());
            layers.push(Layer::Residual(Local::load(&mut weights, &path, channels, channels, 1)?));
        }
        for stage in 0..STAGES {
            let path = format!("stages.{stage}.blocks");
            let downsample = Local::load(&mut weights, &format!("{path}.0.main"), channels, -1, 2)?;
            channels = downsample.outputs()?;
            layers.push(Layer::Plain(downsample));
            for block in 1..weights.count(&path) {
                let path = format!("{path}.{block}");
                let local = if weights.contains_under(&format!("{path}.context_module.")) {
                    let attention = LiteMla::load(&mut weights, &format!("{path}.context_module.main"), channels)?;
                    layers.push(Layer::Attention(Box::new(attention)));
                    format!("{path}.local_module.main")
                } else {
                    format!("{path}.main")
                };
                layers.push(Layer::Residual(Local::load(&mut weights, &local, channels, channels, 1)?));
            }
        }
        weights.finish(|key| key.starts_with("head.") || key.ends_with(".num_batches_tracked"))?;
        Ok(Self { stem, layers, channels })
    }

    /// Width C of the embedding.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Normalised frames `[B, 3, S, S]` to f32 embeddings `[B, C]`.
    pub fn forward(&self, x: &Tensor) -> Forward {
        let mut x = self.stem.forward(x, None)?;
        for layer in &self.layers {
            x = match layer {
                Layer::Plain(local) => local.forward(&x, None)?,
                Layer::Residual(local) => local.forward(&x, Some(&x))?,
                Layer::Attention(attention) => attention.forward(&x)?,
            };
        }
        mean_f32(&x, &[2, 3])
    }
}

/// One step of the trunk.
enum Layer {
    /// Without shortcut: halves the side.
    Plain(Local),
    /// With shortcut.
    Residual(Local),
    /// With shortcut.
    Attention(Box<LiteMla>),
}

/// A chain of convolutions: `ConvBlock`, `FusedMBConv` or `MBConv`, told apart by their keys.
struct Local(Vec<ConvNormAct>);

impl Local {
    fn load(weights: &mut Weights, path: &str, inputs: i64, outputs: i64, stride: i64) -> Result<Self, ModelError> {
        let at = |name: &str| format!("{path}.{name}");
        if weights.contains_under(&at("inverted_conv.")) {
            let inverted = ConvNormAct::load(weights, &at("inverted_conv"), [-1, inputs, 1, 1])?.activated();
            let middle = inverted.outputs()?;
            let depth = ConvNormAct::load(weights, &at("depth_conv"), [middle, 1, 3, 3])?;
            let depth = depth.strided(stride).grouped(middle).activated();
            let point = ConvNormAct::load(weights, &at("point_conv"), [outputs, middle, 1, 1])?;
            return Ok(Self(vec![inverted, depth, point]));
        }
        let (first, second, kernel) = if weights.contains_under(&at("conv1.")) {
            ("conv1", "conv2", 3)
        } else {
            ("spatial_conv", "point_conv", 1)
        };
        let spatial = ConvNormAct::load(weights, &at(first), [-1, inputs, 3, 3])?.strided(stride).activated();
        let last = ConvNormAct::load(weights, &at(second), [outputs, spatial.outputs()?, kernel, kernel])?;
        Ok(Self(vec![spatial, last]))
    }

    fn outputs(&self) -> Result<i64, ModelError> {
        self.0.last().map_or(Ok(0), ConvNormAct::outputs)
    }

    /// With `shortcut` added to the result.
    fn forward(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Forward {
        let mut x = x.shallow_clone();
        for (index, conv) in self.0.iter().enumerate() {
            x = conv.forward(&x, shortcut.filter(|_| index + 1 == self.0.len()))?;
        }
        Ok(x)
    }
}

/// timm's `ConvNormAct` with "same" padding: a convolution with either a bias or a batch norm, and perhaps tanh-GELU.
struct ConvNormAct {
    conv: ConvNorm,
    activated: bool,
}

impl ConvNormAct {
    fn load(weights: &mut Weights, path: &str, shape: [i64; 4]) -> Result<Self, ModelError> {
        let conv = format!("{path}.conv");
        let conv = if weights.contains(&format!("{conv}.bias")) {
            ConvNorm::biased(Conv2d::load(weights, &conv, shape)?)
        } else {
            ConvNorm::load(weights, &conv, &format!("{path}.norm"), shape, BATCH_NORM_EPS)?
        };
        Ok(Self { conv: conv.padded(shape[3] / 2), activated: false })
    }

    fn strided(self, stride: i64) -> Self {
        Self { conv: self.conv.strided(stride), ..self }
    }

    fn grouped(self, groups: i64) -> Self {
        Self { conv: self.conv.grouped(groups), ..self }
    }

    fn activated(self) -> Self {
        Self { activated: true, ..self }
    }

    fn outputs(&self) -> Result<i64, ModelError> {
        Ok(self.conv.outputs()?)
    }

    /// With `shortcut` added to the result.
    fn forward(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Forward {
        let pointwise = if self.activated { Pointwise::GeluTanh } else { Pointwise::None };
        if let Some(served) = self.conv.then(x, pointwise, shortcut)? {
            return Ok(served);
        }
        let x = self.conv.forward(x)?;
        let x = if self.activated { gelu(x, "tanh")? } else { x };
        match shortcut {
            Some(shortcut) => add(x, shortcut),
            None => Ok(x),
        }
    }
}

/// Multi-scale linear attention: ReLU kernels over the 1×1 projection and its 5×5 aggregate.
struct LiteMla {
    qkv: Conv2d,
    depthwise: Conv2d,
    grouped: Conv2d,
    proj: ConvNormAct,
    head_width: i64,
}

impl LiteMla {
    fn load(weights: &mut Weights, path: &str, width: i64) -> Result<Self, ModelError> {
        let qkv = weights.take(&format!("{path}.qkv.conv.weight"), &[-1, width, 1, 1])?;
        let total = rows(&qkv)?;
        let depthwise = weights.take(&format!("{path}.aggreg.0.0.weight"), &[total, 1, 5, 5])?;
        let grouped_key = format!("{path}.aggreg.0.1.weight");
        let grouped = weights.take(&grouped_key, &[total, -1, 1, 1])?;
        let head_width = grouped.size().get(1).copied().unwrap_or(total);
        if total % (3 * head_width) != 0 {
            let problem = format!("has {head_width} inputs a group, which do not divide the {total} of qkv in three");
            return Err(weights.wrong(&grouped_key, problem));
        }
        let proj = ConvNormAct::load(weights, &format!("{path}.proj"), [width, total / 3 * 2, 1, 1])?;
        let qkv = Conv2d::new(weights, &qkv, None)?;
        let depthwise = Conv2d::new(weights, &depthwise, None)?.padded(2).grouped(total);
        let grouped = Conv2d::new(weights, &grouped, None)?.grouped(total / head_width);
        Ok(Self { qkv, depthwise, grouped, proj, head_width })
    }

    /// With its own input added to the result.
    fn forward(&self, x: &Tensor) -> Forward {
        if let Some(o) = self.serve(x)? {
            return self.proj.forward(&o, Some(x));
        }
        let (batch, _, height, width) = x.size4()?;
        let qkv = self.qkv.forward(x)?;
        let aggregate = self.grouped.forward(&self.depthwise.forward(&qkv)?)?;
        let scales = to_channels_last(&Tensor::f_cat(&[qkv, aggregate], 1)?)?;
        // [B, heads of both scales, HW, q k v]; in f32, since sums over all positions overflow what bf16 resolves.
        let heads = scales.f_reshape([batch, height * width, -1, 3 * self.head_width])?.f_transpose(1, 2)?;
        let heads = heads.f_to_kind(Kind::Float)?;
        let [q, k, v] = parts(heads.f_chunk(3, -1)?)?;
        let (q, k) = (q.f_relu()?, k.f_relu()?);
        // The column of ones gives the normaliser q Σk in the same product.
        let v = v.f_pad([0, 1], "constant", 1.0)?;
        let o = q.f_matmul(&k.f_transpose(-2, -1)?.f_matmul(&v)?)?;
        let [o, normaliser] = parts(o.f_split_with_sizes([self.head_width, 1], -1)?)?;
        let o = o.f_div(&normaliser.f_add_scalar(ATTENTION_EPS)?)?.f_to_kind(x.kind())?;
        let o = o.f_transpose(1, 2)?.f_reshape([batch, height, width, -1])?;
        self.proj.forward(&to_channels_first(&o)?, Some(x))
    }

    /// What the heads make of `x`, where kernels serve it.
    fn serve(&self, x: &Tensor) -> Result<Option<Tensor>, TchError> {
        if !kernels::is_linear(self.head_width) {
            return Ok(None);
        }
        let (batch, _, height, width) = x.size4()?;
        let Some(qkv) = self.qkv.then(x, Pointwise::None, None)? else { return Ok(None) };
        let Some(depthwise) = self.depthwise.then(&qkv, Pointwise::None, None)? else { return Ok(None) };
        let aggregate = self.grouped.forward(&depthwise)?;
        let rows = |x: &Tensor| to_channels_last(x)?.f_reshape([batch, height * width, -1]);
        let o = kernels::linear_attention(&rows(&qkv)?, &rows(&aggregate)?, self.head_width, ATTENTION_EPS)?;
        o.map(|o| to_channels_first(&o.f_reshape([batch, height, width, -1])?)).transpose()
    }
}
