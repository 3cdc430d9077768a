//! What is served on a GPU in bf16: the same layers with [our own kernels](crate::native::kernels) between the matrix
//! products. A network asks [`kernels::norm`] of its tokens or pixels once, and goes its usual way where they are not
//! served.

use tch::{Kind, TchError, Tensor};

use super::{Conv2d, Forward, LayerNorm, Linear, to_channels_first, to_channels_last};
use crate::native;
use crate::native::kernels::{self, Pointwise};

impl Linear {
    /// GELU(x Wᵀ + b), asked for as one operation. cuBLASLt's GELU is the one approximated by tanh, which differs from the
    /// exact one by less than 5e-4.
    pub(in crate::model) fn gelu(&self, x: &Tensor) -> Forward {
        product(x, &self.weight, Some(&self.bias), Pointwise::GeluTanh)
    }

    /// `sum` += x Wᵀ, in place. The bias is left for later.
    pub(in crate::model) fn accumulate(&self, sum: &Tensor, x: &Tensor) -> Result<(), TchError> {
        let (outputs, inputs) = self.weight.size2()?;
        sum.f_view([-1, outputs])?.f_addmm_(&x.f_view([-1, inputs])?, &self.weight.f_transpose(0, 1)?).map(drop)
    }

    /// `earlier` and this bias, in f32: what a sum that was [accumulated](Self::accumulate) lacks.
    pub(in crate::model) fn pending(&self, earlier: Option<&Tensor>) -> Forward {
        let bias = self.bias.f_detach()?.f_to_kind(Kind::Float)?;
        earlier.map_or(Ok(bias.shallow_clone()), |earlier| earlier.f_add(&bias))
    }
}

impl LayerNorm {
    /// Of `x` with `pending`, in f32, added to every row first. An error where `x` is not [normed](kernels::norm).
    pub(in crate::model) fn after(&self, x: &Tensor, pending: Option<&Tensor>) -> Forward {
        made(kernels::layer_norm(x, pending, &self.weight, &self.bias, self.eps, false)?)
    }

    /// Of silu(first half of `x`) · second half.
    pub(in crate::model) fn swiglu(&self, x: &Tensor) -> Forward {
        made(kernels::layer_norm(x, None, &self.weight, &self.bias, self.eps, true)?)
    }
}

impl Conv2d {
    /// pointwise(this convolution of `x`) + `shortcut`, all of them `[B, C, H, W]` laid out channels last.
    pub(in crate::model) fn then(
        &self,
        x: &Tensor,
        pointwise: Pointwise,
        shortcut: Option<&Tensor>,
    ) -> Result<Option<Tensor>, TchError> {
        if !kernels::used() {
            return Ok(None);
        }
        let rows = to_channels_last(x)?;
        if !kernels::serve(&rows) || !kernels::is_finished(self.outputs()?) {
            return Ok(None);
        }
        let shortcut = shortcut.map(to_channels_last).transpose()?;
        let (y, bias, pointwise) = match self.matrix_product(&rows, pointwise)? {
            Some(y) => (y, None, Pointwise::None),
            None => match self.depthwise(&rows, None, pointwise)? {
                Some(y) => (y, None, Pointwise::None),
                None => (to_channels_last(&self.convolve(x, None)?)?, self.bias.as_ref(), pointwise),
            },
        };
        let is_done = bias.is_none() && shortcut.is_none() && pointwise == Pointwise::None;
        let done = is_done || kernels::finish(&y, bias, shortcut.as_ref(), pointwise)?;
        if done { to_channels_first(&y).map(Some) } else { Ok(None) }
    }

    /// Where this convolution is a matrix product: of pixels, of groups of their channels, or of patches that do not
    /// overlap.
    fn matrix_product(&self, x: &Tensor, pointwise: Pointwise) -> Result<Option<Tensor>, TchError> {
        let (outputs, inputs, size, _) = self.weight.size4()?;
        let bias = self.bias.as_ref();
        let overlaps = self.stride != size || self.padding != 0;
        if overlaps || (pointwise != Pointwise::None && bias.is_none()) {
            return Ok(None);
        }
        if size == 1 && self.groups == 1 {
            return product(x, &self.weight.f_flatten(1, 3)?, bias, pointwise).map(Some);
        }
        if size == 1 && inputs > 1 && bias.is_none() {
            let mut shape = x.size();
            let each = outputs / self.groups;
            let rows = x.f_view([-1, self.groups, inputs])?;
            let y = Tensor::f_empty([rows.size3()?.0, self.groups, each], (x.kind(), x.device()))?;
            let weight = self.weight.f_reshape([self.groups, each, inputs])?.f_transpose(1, 2)?;
            rows.f_transpose(0, 1)?.f_bmm_out(&y.f_transpose(0, 1)?, &weight).map(drop)?;
            shape.pop();
            shape.push(outputs);
            return y.f_view(&shape[..]).map(Some);
        }
        let (batch, height, width, _) = x.size4()?;
        match &self.patches {
            Some(weight) if height % size == 0 && width % size == 0 => {
                let (tall, wide) = (height / size, width / size);
                let patches = x.f_view([batch, tall, size, wide, size, inputs])?.f_transpose(2, 3)?;
                let rows = Tensor::f_zeros([batch * tall * wide, weight.size2()?.1], (x.kind(), x.device()))?;
                let length = size * size * inputs;
                rows.f_narrow(1, 0, length)?.f_view(&patches.size()[..])?.f_copy_(&patches)?;
                product(&rows, weight, bias, pointwise)?.f_view([batch, tall, wide, outputs]).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Whether this is a convolution that [`depthwise`](Self::depthwise) serves.
    pub(in crate::model) fn is_depthwise(&self) -> bool {
        let size = self.taps.as_ref().and_then(|taps| taps.size().first().copied()).unwrap_or(0);
        let is_padded = self.padding == size / 2;
        self.groups > 1 && is_padded && kernels::is_convolved(self.groups, size, self.stride)
    }

    /// This depthwise convolution of `x` `[B, H, W, C]`, of which each pixel lacks `pending`.
    pub(in crate::model) fn depthwise(
        &self,
        x: &Tensor,
        pending: Option<&Tensor>,
        pointwise: Pointwise,
    ) -> Result<Option<Tensor>, TchError> {
        let Some(taps) = self.taps.as_ref().filter(|_| self.is_depthwise()) else { return Ok(None) };
        kernels::depthwise(x, pending, taps, self.bias.as_ref(), self.stride, pointwise)
    }
}

/// A depthwise convolution's weight `[C, 1, K, K]` as the kernel takes it.
pub(super) fn taps(weight: &Tensor) -> Result<Option<Tensor>, TchError> {
    let (channels, inputs, height, width) = weight.size4()?;
    if !may_be_served(weight) || inputs != 1 || channels == 1 || height != width {
        return Ok(None);
    }
    weight.f_squeeze_dim(1)?.f_permute([1, 2, 0])?.f_to_kind(Kind::Float)?.f_contiguous().map(Some)
}

/// The weight `[C, 3, K, K]` of a convolution of pictures, whose three channels suit no convolution, as that of a matrix
/// product: rows of a length that suits it.
pub(super) fn patches(weight: &Tensor) -> Result<Option<Tensor>, TchError> {
    let (outputs, inputs, height, width) = weight.size4()?;
    if !may_be_served(weight) || inputs != 3 || height != width {
        return Ok(None);
    }
    let rows = to_channels_last(weight)?.f_reshape([outputs, -1])?;
    let length = rows.size2()?.1;
    rows.f_pad([0, (length + 7) / 8 * 8 - length], "constant", 0.0).map(Some)
}

fn may_be_served(weight: &Tensor) -> bool {
    weight.device().is_cuda() && weight.kind() == Kind::BFloat16 && !weight.requires_grad()
}

/// What a kernel made, of which its layer has seen to it that there is one.
pub(in crate::model) fn made(y: Option<Tensor>) -> Forward {
    y.ok_or_else(|| TchError::Shape("no kernel takes this layer".to_owned()))
}

/// pointwise(x Wᵀ + b) over the last dimension; without a bias there must be nothing to do to every element.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, pointwise: Pointwise) -> Forward {
    let (outputs, inputs) = weight.size2()?;
    let mut shape = x.size();
    shape.pop();
    shape.push(outputs);
    match (bias, pointwise) {
        (Some(bias), Pointwise::GeluTanh) => {
            native::linear_gelu(&x.f_view([-1, inputs])?, weight, bias)?.f_view(&shape[..])
        }
        (bias, _) => x.f_linear(weight, bias),
    }
}
