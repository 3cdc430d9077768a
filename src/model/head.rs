//! From a backbone's embeddings and a prompt's embedding to a raw score (sections 3.2 and 3.3): temporal module,
//! adapters, mixer, two-layer head. Computed in f32 always: it costs next to nothing.

use tch::{Device, Kind, TchError, Tensor};

use super::ops::{Forward, Linear, activate, multiply};
use super::{Activation, ExpertSpec, Mixer, ModelError, Track, Weights};
use crate::native;

/// One expert's head.
pub struct Head {
    temporal: Option<Temporal>,
    prompt_adapter: Linear,
    vision_adapter: Linear,
    adapter_activation: Activation,
    mixer: Mixer,
    fc1: Linear,
    fc2: Linear,
    head_activation: Activation,
}

/// Every step of a head, for a batch of B items; f32.
pub struct HeadTrace {
    /// v, one embedding an item, `[B, C]`.
    pub vision_pooled: Tensor,
    /// p, `[B, L]`.
    pub prompt_latent: Tensor,
    /// q, `[B, L]`.
    pub vision_latent: Tensor,
    /// `[B, L]` of the dot mixer, `[B, 2L]` of the concat mixer.
    pub merged: Tensor,
    /// f, `[B]`.
    pub raw: Tensor,
}

impl Head {
    /// Takes all of `weights`, which were parsed in f32, for embeddings of `channels` and prompt embeddings of
    /// `text_dim`. Video experts have the temporal module, image experts do not.
    pub fn load(spec: &ExpertSpec, mut weights: Weights, channels: i64, text_dim: i64) -> Result<Self, ModelError> {
        let temporal = match spec.track {
            Track::Image => None,
            Track::Video => Some(Temporal::load(&mut weights, channels, spec.temporal_activation)?),
        };
        let prompt_adapter = Linear::load(&mut weights, "prompt_adapter", -1, text_dim)?;
        let prompt_latent = prompt_adapter.outputs()?;
        let vision_rows = if spec.mixer == Mixer::Dot { prompt_latent } else { -1 };
        let vision_adapter = Linear::load(&mut weights, "vision_adapter", vision_rows, channels)?;
        let merged = match spec.mixer {
            Mixer::Dot => prompt_latent,
            Mixer::Concat => vision_adapter.outputs()? + prompt_latent,
        };
        let fc1 = Linear::load(&mut weights, "mlp.fc1", -1, merged)?;
        let fc2 = Linear::load(&mut weights, "mlp.fc2", 1, fc1.outputs()?)?;
        weights.finish(|_| false)?;
        let (adapter_activation, head_activation) = (spec.adapter_activation, spec.head_activation);
        let mixer = spec.mixer;
        Ok(Self { temporal, prompt_adapter, vision_adapter, adapter_activation, mixer, fc1, fc2, head_activation })
    }

    /// `features` `[N, C]` are the embeddings of all items' frames one after the other, of which item i has
    /// `counts[i]`; `text` is `[B, D]`. An image expert takes one frame an item.
    pub fn forward(&self, features: &Tensor, counts: &[i64], text: &Tensor) -> Result<HeadTrace, ModelError> {
        let vision_pooled = match &self.temporal {
            Some(temporal) => temporal.forward(features, counts)?,
            None if counts.iter().all(|&count| count == 1) => features.shallow_clone(),
            None => return Err(ModelError::Input("an image expert takes one frame an item".to_owned())),
        };
        let prompt_latent = activate(self.prompt_adapter.forward(text)?, self.adapter_activation)?;
        let vision_latent = activate(self.vision_adapter.forward(&vision_pooled)?, self.adapter_activation)?;
        let merged = match self.mixer {
            Mixer::Dot => vision_latent.f_mul(&prompt_latent)?,
            Mixer::Concat => Tensor::f_cat(&[&vision_latent, &prompt_latent], -1)?,
        };
        let hidden = activate(self.fc1.forward(&merged)?, self.head_activation)?;
        let raw = self.fc2.forward(&hidden)?.f_squeeze_dim(-1)?;
        Ok(HeadTrace { vision_pooled, prompt_latent, vision_latent, merged, raw })
    }
}

/// Two convolutions over time, then the mean over the real frames.
struct Temporal {
    conv1: Conv1d,
    conv2: Conv1d,
    activation: Activation,
}

impl Temporal {
    fn load(weights: &mut Weights, channels: i64, activation: Activation) -> Result<Self, ModelError> {
        let conv1 = Conv1d::load(weights, "temporal.conv1", channels)?;
        let conv2 = Conv1d::load(weights, "temporal.conv2", channels)?;
        Ok(Self { conv1, conv2, activation })
    }

    /// Items shorter than the longest are padded with zeros, and the padding is zero again before each next step: each
    /// item comes out as it would alone.
    fn forward(&self, features: &Tensor, counts: &[i64]) -> Forward {
        let batch = Padded::new(features, counts)?;
        let mut x = batch.frames;
        for conv in [&self.conv1, &self.conv2] {
            x = multiply(activate(conv.forward(&x)?, self.activation)?, &batch.mask)?;
        }
        x.f_sum_dim_intlist([-1].as_slice(), false, None)?.f_div(&batch.counts)
    }
}

/// Items of different lengths, side by side.
struct Padded {
    /// `[B, C, T]`, 0 where an item has no frame.
    frames: Tensor,
    /// `[B, 1, T]`, 1 where an item has a frame.
    mask: Tensor,
    /// `[B, 1]`
    counts: Tensor,
}

impl Padded {
    fn new(features: &Tensor, counts: &[i64]) -> Result<Self, TchError> {
        let (total, channels) = features.size2()?;
        let longest = counts.iter().copied().max().unwrap_or(0);
        if counts.iter().any(|&count| count < 1) || counts.iter().sum::<i64>() != total {
            return Err(TchError::Shape(format!("{total} frames are not those of items with {counts:?}")));
        }
        let (kind, device, items) = (features.kind(), features.device(), counts.len() as i64);
        let slots: Vec<i64> =
            (0..).zip(counts).flat_map(|(item, &n)| (0..n).map(move |t| item * longest + t)).collect();
        let slots = native::uploaded(Tensor::f_from_slice(&slots)?, device)?;
        let empty = Tensor::f_zeros([items * longest, channels], (kind, device))?;
        let frames = empty.f_index_copy(0, &slots, features)?.f_reshape([items, longest, channels])?;
        let counts = native::uploaded(Tensor::f_from_slice(counts)?, device)?.f_reshape([items, 1])?;
        let mask = Tensor::f_arange(longest, (Kind::Int64, device))?.f_lt_tensor(&counts)?;
        Ok(Self {
            frames: frames.f_transpose(1, 2)?,
            mask: mask.f_unsqueeze(1)?.f_to_kind(kind)?,
            counts: counts.f_to_kind(kind)?,
        })
    }
}

/// Kernel 3, one zero on each side, as many channels out as in.
struct Conv1d {
    weight: Tensor,
    bias: Tensor,
}

impl Conv1d {
    fn load(weights: &mut Weights, path: &str, channels: i64) -> Result<Self, ModelError> {
        let weight = weights.take(&format!("{path}.weight"), &[channels, channels, 3])?;
        let bias = weights.take(&format!("{path}.bias"), &[channels])?;
        Ok(Self { weight: weights.cast(&weight)?, bias: weights.cast(&bias)? })
    }

    fn forward(&self, x: &Tensor) -> Forward {
        if x.device() == Device::Cpu { self.convolve(x) } else { self.multiply(x) }
    }

    fn convolve(&self, x: &Tensor) -> Forward {
        x.f_conv1d(&self.weight, Some(&self.bias), [1], [1], [1], 1)
    }

    /// The same as a matrix product: a GPU looks for the kernels of a convolution anew for every number and length of
    /// items, which takes longer than the product.
    fn multiply(&self, x: &Tensor) -> Forward {
        let windows = x.f_pad([1, 1], "constant", 0.0)?.f_unfold(2, 3, 1)?;
        let windows = windows.f_transpose(1, 2)?.f_flatten(2, 3)?;
        windows.f_linear(&self.weight.f_flatten(1, 2)?, Some(&self.bias))?.f_transpose(1, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_over_time_is_the_product_that_gpus_do() {
        let float = (Kind::Float, Device::Cpu);
        let conv = Conv1d { weight: Tensor::randn([5, 5, 3], float), bias: Tensor::randn([5], float) };
        for length in [1, 2, 7] {
            let x = Tensor::randn([3, 5, length], float);
            let (convolved, product) = (conv.convolve(&x).unwrap(), conv.multiply(&x).unwrap());
            assert_eq!(convolved.size(), product.size());
            let gap = (convolved - product).abs().max().double_value(&[]);
            assert!(gap < 1e-5, "{gap} at length {length}");
        }
    }
}
