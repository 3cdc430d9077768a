//! Values of weights that nobody has trained: norms and layer scales 1, biases 0, positions small, and everything else
//! uniform with variance 1 / fan-in (LeCun), so that signals keep their size on their way through the network.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::seed::rng;
use crate::model::{ExpertSpec, Mixer, ModelError, Parameters, Track};

/// Half the width of the uniform distribution of learnt positions: a standard deviation of 0.02.
const POSITIONS: f32 = 0.034_641;

/// Where temporal modules that hand on what they get have it: few embeddings have anything below its negative.
const LEVEL: f64 = 2.0;

/// `of` with all values drawn anew by `by`; `part` tells networks of one seed apart.
///
/// # Errors
///
/// When the device fails.
pub fn redrawn(of: &Parameters, part: &str, by: u64) -> Result<Parameters, ModelError> {
    let all = of.learnable().chain(of.buffers());
    let shapes = all.map(|(key, tensor)| (key.to_owned(), tensor.size())).collect();
    drawn(shapes, part, by, of.device())
}

/// A new head for embeddings of `channels` and prompt embeddings of `text_dim`.
///
/// # Errors
///
/// When the device fails.
pub fn head(
    spec: &ExpertSpec,
    channels: i64,
    text_dim: i64,
    latent: i64,
    hidden: i64,
    by: u64,
    device: Device,
) -> Result<Parameters, ModelError> {
    let mut shapes = Vec::new();
    let mut layer = |name: &str, shape: &[i64]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape.iter().take(1).copied().collect()));
    };
    layer("prompt_adapter", &[latent, text_dim]);
    layer("vision_adapter", &[latent, channels]);
    if spec.track == Track::Video {
        layer("temporal.conv1", &[channels, channels, 3]);
        layer("temporal.conv2", &[channels, channels, 3]);
    }
    layer("mlp.fc1", &[hidden, if spec.mixer == Mixer::Concat { 2 * latent } else { latent }]);
    layer("mlp.fc2", &[1, hidden]);
    drawn(shapes, "head", by, device)
}

/// `head` of an image expert, for embeddings of `channels`, as one of a video expert that says the same of a clip that
/// stands still: its new temporal module hands the embeddings on, raised by a level that keeps them in the linear part
/// of its activation, and the vision adapter takes the level away again. A head without an adapter stays without one, and
/// is refused where it is loaded.
///
/// # Errors
///
/// When the device fails.
pub fn with_temporal(head: &Parameters, channels: i64) -> Result<Parameters, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let float = (Kind::Float, head.device());
    let mut tensors: BTreeMap<String, Tensor> =
        head.learnable().map(|(key, tensor)| (key.to_owned(), tensor.detach())).collect();
    if let (Some(weight), Some(bias)) = (tensors.get("vision_adapter.weight"), tensors.get("vision_adapter.bias")) {
        let raised = weight.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?.f_mul_scalar(LEVEL)?;
        let bias = bias.f_sub(&raised)?;
        tensors.insert("vision_adapter.bias".to_owned(), bias);
    }
    let none = Tensor::f_zeros([channels, channels], float)?;
    let same = Tensor::f_stack(&[&none, &Tensor::f_eye(channels, float)?, &none], 2)?;
    for (conv, level) in [("conv1", LEVEL), ("conv2", 0.0)] {
        tensors.insert(format!("temporal.{conv}.weight"), same.copy());
        tensors.insert(format!("temporal.{conv}.bias"), Tensor::f_full([channels], level, float)?);
    }
    Parameters::new("head", tensors, head.device())
}

fn drawn(shapes: Vec<(String, Vec<i64>)>, part: &str, by: u64, device: Device) -> Result<Parameters, ModelError> {
    let tensors = shapes.into_iter().map(|(key, shape)| {
        let values = values(&key, &shape, rng(by, &format!("weights/{part}.{key}")));
        let tensor = Tensor::f_from_slice(&values)?.f_reshape(shape)?;
        Ok((key, tensor))
    });
    Parameters::new(part, tensors.collect::<Result<Vec<_>, ModelError>>()?, device)
}

fn values(key: &str, shape: &[i64], mut rng: ChaCha8Rng) -> Vec<f32> {
    let count = shape.iter().product::<i64>().unsigned_abs() as usize;
    let constant = |value: f32| vec![value; count];
    let mut uniform = |scale: f32| (0..count).map(|_| scale * rng.random_range(-1.0f32..1.0)).collect::<Vec<f32>>();
    match key.rsplit('.').next().unwrap_or(key) {
        "running_var" | "gamma" => constant(1.0),
        "running_mean" => constant(0.0),
        "pos_embed" | "cls_token" => uniform(POSITIONS),
        name if name.ends_with("bias") => constant(0.0),
        _ if shape.len() == 1 => constant(1.0),
        _ => {
            let fan_in: i64 = shape.iter().skip(1).product();
            uniform((3.0 / fan_in.max(1) as f64).sqrt() as f32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, BackboneKind, Head};
    use crate::train::architecture::Architecture;

    #[test]
    fn signals_keep_their_size() {
        let weights = values("mlp.fc1.weight", &[64, 256], rng(1, "test"));
        let variance = weights.iter().map(|w| f64::from(w * w)).sum::<f64>() / weights.len() as f64;
        assert!((variance * 256.0 - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn norms_are_the_identity() {
        assert!(values("norm.weight", &[8], rng(1, "test")).iter().all(|&value| value == 1.0));
        assert!(values("norm.bias", &[8], rng(1, "test")).iter().all(|&value| value == 0.0));
        assert!(values("norm.running_mean", &[8], rng(1, "test")).iter().all(|&value| value == 0.0));
        assert!(values("norm.running_var", &[8], rng(1, "test")).iter().all(|&value| value == 1.0));
    }

    #[test]
    fn an_image_experts_head_says_the_same_of_a_clip_that_stands_still() {
        let spec = |track| {
            let backbone = Architecture::demo(BackboneKind::Eva02).backbone("backbone");
            ExpertSpec {
                name: "expert".to_owned(),
                track,
                backbone,
                head: "head".to_owned(),
                input_size: 56,
                mixer: Mixer::Concat,
                temporal_activation: Activation::Relu,
                adapter_activation: Activation::None,
                head_activation: Activation::Gelu,
            }
        };
        let (image, video) = (spec(Track::Image), spec(Track::Video));
        let of_image = head(&image, 8, 6, 5, 4, 1, Device::Cpu).unwrap();
        let of_video = with_temporal(&of_image, 8).unwrap();
        let numbers = |count: i64| {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
            Tensor::from_slice(&values)
        };
        let (text, pictures) = (numbers(12).reshape([2, 6]), numbers(16).reshape([2, 8]));
        let raw = |spec: &ExpertSpec, head: &Parameters, features: &Tensor, counts: &[i64]| {
            let head = Head::load(spec, head.inference_weights(Kind::Float), 8, 6).unwrap();
            Vec::<f32>::try_from(head.forward(features, counts, &text).unwrap().raw).unwrap()
        };
        let clips = pictures.repeat_interleave_self_int(3, 0, None);
        let (once, moving) = (raw(&image, &of_image, &pictures, &[1, 1]), raw(&video, &of_video, &clips, &[3, 3]));
        assert!(once.iter().zip(&moving).all(|(a, b)| (a - b).abs() < 1e-5), "{once:?} {moving:?}");
        assert_ne!(once[0], once[1]);
    }

    #[test]
    fn tensors_of_one_seed_differ_and_seeds_too() {
        let draw = |key: &str, by: u64| values(key, &[4, 4], rng(by, key));
        assert_eq!(draw("a.weight", 1), draw("a.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("b.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("a.weight", 2));
    }
}
