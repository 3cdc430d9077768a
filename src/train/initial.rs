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
const LEVEL: f64 = 4.0;

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

/// `head` of an image expert, for embeddings of `channels`, as one of a video expert. Its new temporal module hands the
/// embeddings on, raised by a level that keeps them in the linear part of its activation, and the vision adapter takes
/// the level away again: of a clip that stands still it says what the image expert says of a frame. An eighth of the
/// channels, those that the adapter listens to least, says how much neighbouring frames differ instead, along directions
/// drawn by `by`; the adapter has yet to learn what follows from that. Were all channels handed on, nothing would lead
/// there: the mean over time of what is linear does not know the frames' order.
///
/// A head without an adapter stays without one, and is refused where it is loaded.
///
/// # Errors
///
/// When the device fails.
pub fn with_temporal(head: &Parameters, channels: i64, by: u64) -> Result<Parameters, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let mut tensors: BTreeMap<String, Tensor> =
        head.learnable().map(|(key, tensor)| (key.to_owned(), tensor.detach())).collect();
    let (Some(weight), Some(bias)) = (tensors.get("vision_adapter.weight"), tensors.get("vision_adapter.bias")) else {
        return Parameters::new("head", tensors, head.device());
    };
    let kept = listened_to(weight, channels)?;
    let weight = weight.f_mul(&Tensor::f_from_slice(&kept)?.f_to_device(head.device())?)?;
    let raised = weight.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?.f_mul_scalar(LEVEL)?;
    let bias = bias.f_sub(&raised)?;
    tensors.insert("vision_adapter.weight".to_owned(), weight);
    tensors.insert("vision_adapter.bias".to_owned(), bias);
    for (name, layer) in [("conv1", differences(&kept, by)), ("conv2", inside(&kept))] {
        let tensor = |values: &[f32]| Tensor::f_from_slice(values)?.f_to_device(head.device());
        let weight = tensor(&layer.weight)?.f_reshape([channels, channels, 3])?;
        tensors.insert(format!("temporal.{name}.weight"), weight);
        tensors.insert(format!("temporal.{name}.bias"), tensor(&layer.bias)?);
    }
    Parameters::new("head", tensors, head.device())
}

/// 1 for the channels that keep their place, 0 for an even number of others.
fn listened_to(adapter: &Tensor, channels: i64) -> Result<Vec<f32>, ModelError> {
    let strength = adapter.f_square()?.f_sum_dim_intlist([0].as_slice(), false, Kind::Float)?;
    let order = Vec::<i64>::try_from(strength.f_argsort(0, false)?)?;
    let mut kept = vec![1.0; channels.max(0) as usize];
    for channel in order.into_iter().take(kept.len() / 16 * 2) {
        if let Some(kept) = kept.get_mut(channel as usize) {
            *kept = 0.0;
        }
    }
    Ok(kept)
}

/// A convolution over three moments, `[C, C, 3]`.
struct Convolution {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Convolution {
    /// Channels that are `kept` are handed on, raised by `level`.
    fn hand_on(kept: &[f32], level: f32) -> Self {
        let channels = kept.len();
        let mut weight = vec![0.0; channels * channels * 3];
        for (channel, &keep) in kept.iter().enumerate() {
            weight[(channel * channels + channel) * 3 + 1] = keep;
        }
        Self { weight, bias: kept.iter().map(|keep| keep * level).collect() }
    }

    /// Where the weights of `output` for a moment (before, now, after) of `input` are.
    fn at(&mut self, output: usize, input: usize, moment: usize) -> Option<&mut f32> {
        let channels = self.bias.len();
        self.weight.get_mut((output * channels + input) * 3 + moment)
    }
}

/// The free channels are pairs: by how much a frame is above the next one along a direction, and by how much below.
fn differences(kept: &[f32], by: u64) -> Convolution {
    let mut layer = Convolution::hand_on(kept, LEVEL as f32);
    let mut rng = rng(by, "weights/temporal");
    let reach = (3.0 / kept.len() as f32).sqrt();
    let free: Vec<usize> = (0..kept.len()).filter(|&channel| kept[channel] == 0.0).collect();
    for pair in free.chunks_exact(2) {
        for input in 0..kept.len() {
            let direction = reach * rng.random_range(-1.0f32..1.0);
            for (&output, sign) in pair.iter().zip([1.0, -1.0]) {
                for (moment, value) in [(1, direction), (2, -direction)] {
                    if let Some(weight) = layer.at(output, input, moment) {
                        *weight = sign * value;
                    }
                }
            }
        }
    }
    layer
}

/// Hands all on, but for differences of the last frame, which has no next one: they need the level that the next one's
/// other channels have on average, and so differ by the mean of its embedding too, which is small.
fn inside(kept: &[f32]) -> Convolution {
    let mut layer = Convolution::hand_on(kept, 0.0);
    let share = kept.iter().sum::<f32>().recip();
    for output in (0..kept.len()).filter(|&channel| kept[channel] == 0.0) {
        layer.bias[output] = -(LEVEL as f32);
        for (input, &keep) in kept.iter().enumerate() {
            if let Some(weight) = layer.at(output, input, 2) {
                *weight = keep * share;
            }
        }
        if let Some(weight) = layer.at(output, output, 1) {
            *weight = 1.0;
        }
    }
    layer
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
    fn a_video_experts_head_says_of_a_still_clip_what_the_image_experts_says() {
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
        let of_image = head(&image, 32, 6, 5, 4, 1, Device::Cpu).unwrap();
        let of_video = with_temporal(&of_image, 32, 1).unwrap();
        let numbers = |count: i64| {
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
            Tensor::from_slice(&values)
        };
        let forward = |spec: &ExpertSpec, head: &Parameters, features: &Tensor, counts: &[i64]| {
            let head = Head::load(spec, head.inference_weights(Kind::Float), 32, 6).unwrap();
            head.forward(features, counts, &numbers(12).reshape([2, 6])).unwrap()
        };
        let raw = |trace: &Tensor| Vec::<f32>::try_from(trace).unwrap();
        let adapter = of_image.learnable().find(|(key, _)| *key == "vision_adapter.weight").unwrap().1;
        let kept = listened_to(adapter, 32).unwrap();
        assert_eq!(kept.iter().sum::<f32>(), 28.0);
        let mask = Tensor::from_slice(&kept);
        let pictures = numbers(64).reshape([2, 32]);
        let mean = (&pictures * &mask).sum_dim_intlist([1].as_slice(), true, Kind::Float) / 28.0;
        let pictures = (pictures - mean) * mask;
        let once = forward(&image, &of_image, &pictures, &[1, 1]).raw;
        let still = forward(&video, &of_video, &pictures.repeat_interleave_self_int(3, 0, None), &[3, 3]);
        assert!(raw(&once).iter().zip(raw(&still.raw)).all(|(a, b)| (a - b).abs() < 1e-4));
        assert_ne!(raw(&once)[0], raw(&once)[1]);

        let free = Tensor::from_slice(&kept).neg() + 1.0;
        let change = |trace: &Tensor| f64::try_from((trace * &free).sum(Kind::Float)).unwrap();
        let unmoved = change(&still.vision_pooled);
        assert!(unmoved.abs() < 2e-3, "nothing changes in a clip that stands still: {unmoved}");
        let clip = numbers(192).reshape([6, 32]);
        assert!(change(&forward(&video, &of_video, &clip, &[3, 3]).vision_pooled) > 0.5);
    }

    #[test]
    fn tensors_of_one_seed_differ_and_seeds_too() {
        let draw = |key: &str, by: u64| values(key, &[4, 4], rng(by, key));
        assert_eq!(draw("a.weight", 1), draw("a.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("b.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("a.weight", 2));
    }
}
