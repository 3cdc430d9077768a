//! The layers that several networks share. Loading checks shapes; forward never panics.
//!
//! What is served works in place, since large tensors cost more to allocate than to compute. Where autograd looks on
//! ([`Tensor::requires_grad`]) nothing is written over that it keeps for the way back.

mod conv_norm;
mod fused;

use tch::{Device, Kind, TchError, Tensor};

pub(super) use self::conv_norm::ConvNorm;
pub(super) use self::fused::made;
use super::{Activation, ModelError, Weights};
use crate::native::kernels::{self, Pointwise};

/// What a layer's forward pass gives.
pub(super) type Forward = Result<Tensor, TchError>;

/// Fewer rows than this stay with `linear`: a head's or a short prompt's product is over before oneDNN has rearranged the
/// weight. Not tuned: the networks' own products have 77 rows and more.
const LEAST_ROWS: usize = 32;

/// y = x Wᵀ + b over the last dimension.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Takes `path.weight` `[outputs, inputs]` and `path.bias`; -1 for what the file decides.
    pub(super) fn load(weights: &mut Weights, path: &str, outputs: i64, inputs: i64) -> Result<Self, ModelError> {
        let weight = weights.take_cast(&format!("{path}.weight"), &[outputs, inputs])?;
        let bias = weights.take_cast(&format!("{path}.bias"), &[rows(&weight)?])?;
        Ok(Self { weight, bias })
    }

    /// From tensors that were taken (and folded) in f32.
    pub(super) fn new(weights: &Weights, weight: &Tensor, bias: &Tensor) -> Result<Self, ModelError> {
        Ok(Self { weight: weights.cast(weight)?, bias: weights.cast(bias)? })
    }

    /// Several layers of one input as one matrix product: their outputs one after the other.
    pub(super) fn stacked(weights: &Weights, parts: &[(Tensor, Tensor)]) -> Result<Self, ModelError> {
        let matrices: Vec<&Tensor> = parts.iter().map(|(weight, _)| weight).collect();
        let biases: Vec<&Tensor> = parts.iter().map(|(_, bias)| bias).collect();
        Self::new(weights, &Tensor::f_cat(&matrices, 0)?, &Tensor::f_cat(&biases, 0)?)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Forward {
        let many = x.numel() >= LEAST_ROWS * self.inputs()?;
        // On its way back a convolution is slower than `linear`: 50 and 83 GFLOP/s for 50176x384x96.
        if x.kind() == Kind::Float && x.device() == Device::Cpu && many && !self.weight.requires_grad() {
            return self.convolve(x);
        }
        x.f_linear(&self.weight, Some(&self.bias))
    }

    /// The same as a 1×1 convolution over the rows, which on the CPU is oneDNN's where `linear` is MKL's: measured on
    /// AVX2, 0.95 to 1.8 times as fast, most for wide outputs (12544x96x384: 43 and 78 GFLOP/s).
    fn convolve(&self, x: &Tensor) -> Forward {
        let (outputs, inputs) = self.weight.size2()?;
        let pixels = to_channels_first(&x.f_reshape([1, -1, 1, inputs])?)?;
        let weight = self.weight.f_view([outputs, inputs, 1, 1])?;
        let y = pixels.f_conv2d(&weight, Some(&self.bias), [1, 1], [0, 0], [1, 1], 1)?;
        let mut shape = x.size();
        shape.pop();
        shape.push(outputs);
        to_channels_last(&y)?.f_reshape(shape)
    }

    fn inputs(&self) -> Result<usize, TchError> {
        Ok(self.weight.size2()?.1 as usize)
    }

    /// Number of outputs.
    pub(super) fn outputs(&self) -> Result<i64, TchError> {
        rows(&self.weight)
    }
}

/// Layer normalisation over the last dimension, computed in f32 inside libtorch.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Takes `path.weight` and `path.bias`, both `[width]`.
    pub(super) fn load(weights: &mut Weights, path: &str, width: i64, eps: f64) -> Result<Self, ModelError> {
        let weight = weights.take_cast(&format!("{path}.weight"), &[width])?;
        let bias = weights.take_cast(&format!("{path}.bias"), &[width])?;
        Ok(Self { weight, bias, eps })
    }

    /// As [`load`](Self::load), for inputs in f32: pooled embeddings, where precision costs nothing.
    pub(super) fn load_f32(weights: &mut Weights, path: &str, width: i64, eps: f64) -> Result<Self, ModelError> {
        let weight = weights.take(&format!("{path}.weight"), &[width])?;
        let bias = weights.take(&format!("{path}.bias"), &[width])?;
        Ok(Self { weight, bias, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Forward {
        if let Some(y) = kernels::layer_norm(x, None, &self.weight, &self.bias, self.eps, false)? {
            return Ok(y);
        }
        x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// A 2-d convolution with square kernel, on `[B, C, H, W]`.
pub(super) struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Of a depthwise convolution that kernels may serve.
    taps: Option<Tensor>,
    /// Of a convolution of pictures that kernels may serve.
    patches: Option<Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv2d {
    /// From a weight `[outputs, inputs / groups, k, k]` and bias in f32. The weight is laid out channels last, as the
    /// frames are.
    pub(super) fn new(weights: &Weights, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self, ModelError> {
        let channels_last = to_channels_last(&weights.cast(weight)?)?.f_contiguous()?;
        let bias = bias.map(|bias| weights.cast(bias)).transpose()?;
        let weight = to_channels_first(&channels_last)?;
        let (taps, patches) = (fused::taps(&weight)?, fused::patches(&weight)?);
        Ok(Self { weight, bias, taps, patches, stride: 1, padding: 0, groups: 1 })
    }

    /// Takes `path.weight` of `shape` and `path.bias`.
    pub(super) fn load(weights: &mut Weights, path: &str, shape: [i64; 4]) -> Result<Self, ModelError> {
        let weight = weights.take_cast(&format!("{path}.weight"), &shape)?;
        let bias = weights.take_cast(&format!("{path}.bias"), &[rows(&weight)?])?;
        Self::new(weights, &weight, Some(&bias))
    }

    /// Every `stride`-th position; 1 unless set.
    pub(super) fn strided(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    /// Zeros on each side of the input; none unless set.
    pub(super) fn padded(self, padding: i64) -> Self {
        Self { padding, ..self }
    }

    /// Channels in `groups` groups that do not see each other; 1 unless set.
    pub(super) fn grouped(self, groups: i64) -> Self {
        Self { groups, ..self }
    }

    /// Number of output channels.
    pub(super) fn outputs(&self) -> Result<i64, TchError> {
        rows(&self.weight)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Forward {
        match self.then(x, Pointwise::None, None)? {
            Some(y) => Ok(y),
            None => self.convolve(x, self.bias.as_ref()),
        }
    }

    fn convolve(&self, x: &Tensor, bias: Option<&Tensor>) -> Forward {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.f_conv2d(&self.weight, bias, stride, padding, [1, 1], self.groups)
    }
}

/// Applies `activation` element by element.
pub(super) fn activate(mut x: Tensor, activation: Activation) -> Forward {
    let tracked = x.requires_grad();
    match activation {
        Activation::None => Ok(x),
        Activation::Relu if tracked => x.f_relu(),
        Activation::Relu => x.f_relu_(),
        Activation::Gelu => gelu(x, "none"),
        Activation::QuickGelu => {
            let gate = x.f_mul_scalar(1.702)?.f_sigmoid_()?;
            multiply(x, &gate)
        }
    }
}

/// GELU, exact (`none`) or approximated (`tanh`).
pub(super) fn gelu(mut x: Tensor, approximate: &str) -> Forward {
    if x.requires_grad() { x.f_gelu(approximate) } else { x.f_gelu_(approximate) }
}

/// x + y, of x's shape.
pub(super) fn add(mut x: Tensor, y: &Tensor) -> Forward {
    if x.requires_grad() { x.f_add(y) } else { x.f_add_(y) }
}

/// x * y, of x's shape.
pub(super) fn multiply(mut x: Tensor, y: &Tensor) -> Forward {
    if x.requires_grad() { x.f_mul(y) } else { x.f_mul_(y) }
}

/// `[B, H, W, C]` as `[B, C, H, W]` without moving data.
pub(super) fn to_channels_first(x: &Tensor) -> Forward {
    x.f_permute([0, 3, 1, 2])
}

/// `[B, C, H, W]` as `[B, H, W, C]` without moving data.
pub(super) fn to_channels_last(x: &Tensor) -> Forward {
    x.f_permute([0, 2, 3, 1])
}

/// Exactly N tensors, as splitting gives them: on the way back their gradients are laid side by side once, where slices
/// would each fill a tensor of the whole's size.
pub(super) fn parts<const N: usize>(tensors: Vec<Tensor>) -> Result<[Tensor; N], TchError> {
    let count = tensors.len();
    tensors.try_into().map_err(|_| TchError::Shape(format!("{count} parts, expected {N}")))
}

/// softmax(q kᵀ / sqrt(d)) v on `[B, heads, N, d]`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Forward {
    Tensor::f_scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, causal, None, false)
}

/// The mean over `dims`, which are dropped, in f32.
pub(super) fn mean_f32(x: &Tensor, dims: &[i64]) -> Forward {
    x.f_mean_dim(dims, false, Kind::Float)
}

/// Length of the first dimension.
pub(super) fn rows(x: &Tensor) -> Result<i64, TchError> {
    x.size().first().copied().ok_or_else(|| TchError::Shape("a scalar has no rows".to_owned()))
}
