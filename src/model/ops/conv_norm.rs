//! Convolution and batch norm: "Batch Normalization", <https://arxiv.org/abs/1502.03167>.

use tch::{TchError, Tensor};

use super::{Conv2d, Forward, rows};
use crate::model::{ModelError, Weights};
use crate::native::kernels::Pointwise;

/// Share of the batch's statistics in the running ones (torch's default, timm's too).
const MOMENTUM: f64 = 0.1;

/// A convolution without bias and its batch norm. For serving the norm is folded into the convolution; a network that
/// learns has both.
pub(in crate::model) struct ConvNorm {
    conv: Conv2d,
    norm: Option<BatchNorm>,
}

impl ConvNorm {
    /// Takes `conv.weight` of `shape` `[outputs, inputs / groups, k, k]` and the four tensors of `norm`.
    pub(in crate::model) fn load(
        weights: &mut Weights,
        conv: &str,
        norm: &str,
        shape: [i64; 4],
        eps: f64,
    ) -> Result<Self, ModelError> {
        let weight = weights.take(&format!("{conv}.weight"), &shape)?;
        let norm = BatchNorm::load(weights, norm, rows(&weight)?, eps)?;
        if weights.training() {
            return Ok(Self { conv: Conv2d::new(weights, &weight, None)?, norm: Some(norm) });
        }
        let (weight, bias) = norm.fold(&weight)?;
        Ok(Self::biased(Conv2d::new(weights, &weight, Some(&bias))?))
    }

    /// A convolution that has a bias instead of a norm.
    pub(in crate::model) fn biased(conv: Conv2d) -> Self {
        Self { conv, norm: None }
    }

    /// Every `stride`-th position; 1 unless set.
    pub(in crate::model) fn strided(self, stride: i64) -> Self {
        Self { conv: self.conv.strided(stride), ..self }
    }

    /// Zeros on each side of the input; none unless set.
    pub(in crate::model) fn padded(self, padding: i64) -> Self {
        Self { conv: self.conv.padded(padding), ..self }
    }

    /// Channels in `groups` groups that do not see each other; 1 unless set.
    pub(in crate::model) fn grouped(self, groups: i64) -> Self {
        Self { conv: self.conv.grouped(groups), ..self }
    }

    /// Number of output channels.
    pub(in crate::model) fn outputs(&self) -> Result<i64, TchError> {
        self.conv.outputs()
    }

    pub(in crate::model) fn forward(&self, x: &Tensor) -> Forward {
        let x = self.conv.forward(x)?;
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// As [`Conv2d::then`].
    pub(in crate::model) fn then(
        &self,
        x: &Tensor,
        pointwise: Pointwise,
        shortcut: Option<&Tensor>,
    ) -> Result<Option<Tensor>, TchError> {
        if self.norm.is_some() { Ok(None) } else { self.conv.then(x, pointwise, shortcut) }
    }
}

/// Batch normalisation over `[B, C, H, W]` for each channel. All tensors stay in f32 whatever the network computes in.
struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: f64,
}

impl BatchNorm {
    fn load(weights: &mut Weights, path: &str, width: i64, eps: f64) -> Result<Self, ModelError> {
        let mut take = |name: &str| weights.take(&format!("{path}.{name}"), &[width]);
        let (weight, bias) = (take("weight")?, take("bias")?);
        let (running_mean, running_var) = (take("running_mean")?, take("running_var")?);
        Ok(Self { weight, bias, running_mean, running_var, eps })
    }

    /// Weight and bias of the bias-free convolution `weight` followed by this norm with its running statistics.
    fn fold(&self, weight: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let scale = self.weight.f_div(&self.running_var.f_add_scalar(self.eps)?.f_sqrt()?)?;
        let bias = self.bias.f_sub(&self.running_mean.f_mul(&scale)?)?;
        Ok((weight.f_mul(&scale.f_view([-1, 1, 1, 1])?)?, bias))
    }

    /// With the batch's own statistics; the running ones move towards them.
    fn forward(&self, x: &Tensor) -> Forward {
        let (batch, _, height, width) = x.size4()?;
        if batch * height * width < 2 {
            let problem = "a batch norm cannot learn from one value a channel: larger batches or frames are needed";
            return Err(TchError::Shape(problem.to_owned()));
        }
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        let (mean, variance) = (Some(&self.running_mean), Some(&self.running_var));
        x.f_batch_norm(weight, bias, mean, variance, true, MOMENTUM, self.eps, true)
    }
}
