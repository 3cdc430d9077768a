//! The temporal module of a video expert that begins as an image expert.

use std::collections::BTreeMap;

use rand::Rng;
use tch::{Kind, Tensor};

use crate::model::{ModelError, Parameters};
use crate::train::seed::rng;

/// Where temporal modules that hand on what they get have it: few of their values are below its negative. No higher
/// than that: an optimiser moves all of a sum's weights at once, and what is common to their inputs adds up.
const LEVEL: f64 = 1.5;

/// Moments of a convolution's window.
const NOW: usize = 1;
const NEXT: usize = 2;

/// What differences are multiplied by: frames of a clip differ by a tenth of what they are, and an optimiser's first steps
/// shift what a sum says of frames that are alike by nearly as much.
const GAIN: f32 = 16.0;
/// How much alike frames say that they are at most.
const ALIKE: f32 = 4.0;
/// Mean differences at which frames are alike no longer, of the least strict stillness and on.
const STRICTNESSES: [f32; 3] = [1.0, 0.5, 0.25];
/// More than differences are.
const FAR: f32 = 64.0;

/// `head` of an image expert, for embeddings of `channels`, as one of a video expert. Its new temporal module hands the
/// embeddings on, raised by a level that keeps them in the linear part of its activation, and the vision adapter takes
/// the level away again: of a clip that stands still it says nearly what the image expert says of a frame. Three
/// sixteenths of the channels, those that the adapter listens to least, say other things, and the adapter has yet to
/// learn what follows from them: two of three by how much neighbouring frames differ, along directions drawn by `by`; the
/// third whether they are alike, more or less strictly. Were all channels handed on, nothing would lead there: the mean
/// over time of what is linear does not know the frames' order, and the mean of differences does not know a clip that
/// moves in jumps from one that moves evenly.
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
    let roles = roles(weight, channels)?;
    let kept: Vec<f32> = roles.iter().map(|role| if *role == Role::Kept { 1.0 } else { 0.0 }).collect();
    let weight = weight.f_mul(&Tensor::f_from_slice(&kept)?.f_to_device(head.device())?)?;
    let raised = weight.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?.f_mul_scalar(LEVEL)?;
    let bias = bias.f_sub(&raised)?;
    tensors.insert("vision_adapter.weight".to_owned(), weight);
    tensors.insert("vision_adapter.bias".to_owned(), bias);
    for (name, layer) in [("conv1", differences(&roles, by)), ("conv2", summary(&roles))] {
        let tensor = |values: &[f32]| Tensor::f_from_slice(values)?.f_to_device(head.device());
        let weight = tensor(&layer.weight)?.f_reshape([channels, channels, 3])?;
        tensors.insert(format!("temporal.{name}.weight"), weight);
        tensors.insert(format!("temporal.{name}.bias"), tensor(&layer.bias)?);
    }
    Parameters::new("head", tensors, head.device())
}

/// What a channel of a new temporal module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Handed on.
    Kept,
    /// 1 for every frame: a frame whose next one has none is the last.
    Clock,
    /// By how much a frame is above the next one along a direction (`above`), or by how much below.
    Difference { direction: usize, above: bool },
    /// Whether a frame is like the next one.
    Stillness { number: usize },
}

/// Of each channel: of those that the adapter listens to least one is the clock, and three by three of the others are
/// two differences and a stillness.
fn roles(adapter: &Tensor, channels: i64) -> Result<Vec<Role>, ModelError> {
    let strength = adapter.f_square()?.f_sum_dim_intlist([0].as_slice(), false, Kind::Float)?;
    let order = Vec::<i64>::try_from(strength.f_argsort(0, false)?)?;
    let mut roles = vec![Role::Kept; channels.max(0) as usize];
    let directions = roles.len() / 16;
    for (place, channel) in order.into_iter().take(3 * directions + 1).enumerate() {
        if let Some(role) = roles.get_mut(channel as usize) {
            *role = match (place / 3, place % 3) {
                (direction, _) if direction == directions => Role::Clock,
                (number, 2) => Role::Stillness { number },
                (direction, half) => Role::Difference { direction, above: half == 0 },
            };
        }
    }
    Ok(roles)
}

/// A convolution over three moments, `[C, C, 3]`.
struct Convolution {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Convolution {
    /// Channels that are kept are handed on, raised by `level`.
    fn hand_on(roles: &[Role], level: f32) -> Self {
        let channels = roles.len();
        let mut layer = Self { weight: vec![0.0; channels * channels * 3], bias: vec![0.0; channels] };
        for (channel, _) in roles.iter().enumerate().filter(|(_, role)| **role == Role::Kept) {
            layer.add(channel, channel, NOW, 1.0);
            layer.bias[channel] = level;
        }
        layer
    }

    /// Adds to what `output` takes of `input` at a moment.
    fn add(&mut self, output: usize, input: usize, moment: usize, value: f32) {
        let channels = self.bias.len();
        if let Some(weight) = self.weight.get_mut((output * channels + input) * 3 + moment) {
            *weight += value;
        }
    }
}

/// Differences along directions of about the length of the gain; stillness is left to the next layer.
fn differences(roles: &[Role], by: u64) -> Convolution {
    let mut layer = Convolution::hand_on(roles, LEVEL as f32);
    if let Some(clock) = clock(roles) {
        layer.bias[clock] = 1.0;
    }
    let mut rng = rng(by, "weights/temporal");
    let reach = GAIN * (3.0 / roles.len() as f32).sqrt();
    let directions: Vec<Vec<f32>> =
        (0..roles.len() / 16).map(|_| roles.iter().map(|_| reach * rng.random_range(-1.0f32..1.0)).collect()).collect();
    for (output, role) in roles.iter().enumerate() {
        let Role::Difference { direction, above } = *role else { continue };
        let sign = if above { 1.0 } else { -1.0 };
        for (input, value) in directions.get(direction).into_iter().flatten().enumerate() {
            layer.add(output, input, NOW, sign * value);
            layer.add(output, input, NEXT, -sign * value);
        }
    }
    layer
}

/// Hands on what is kept and the differences, of which there are none of the last frame; frames that differ little are
/// alike. The last one differs from nothing by all that it is.
fn summary(roles: &[Role]) -> Convolution {
    let mut layer = Convolution::hand_on(roles, 0.0);
    let pairs = (roles.len() / 16) as f32;
    let clock = clock(roles);
    for (output, role) in roles.iter().enumerate() {
        match *role {
            Role::Kept => {}
            Role::Clock => layer.add(output, output, NOW, 1.0),
            Role::Difference { .. } => {
                layer.add(output, output, NOW, 1.0);
                layer.bias[output] = -FAR;
                if let Some(clock) = clock {
                    layer.add(output, clock, NEXT, FAR);
                }
            }
            Role::Stillness { number } => {
                let most = STRICTNESSES[number % STRICTNESSES.len()];
                layer.bias[output] = ALIKE;
                for (input, _) in roles.iter().enumerate().filter(|(_, of)| matches!(of, Role::Difference { .. })) {
                    layer.add(output, input, NOW, -ALIKE / (most * pairs));
                }
            }
        }
    }
    layer
}

fn clock(roles: &[Role]) -> Option<usize> {
    roles.iter().position(|role| *role == Role::Clock)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::{Activation, BackboneKind, ExpertSpec, Head, Mixer, Track};
    use crate::train::architecture::Architecture;
    use crate::train::initial::head;

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
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 19) as f32 - 9.0) / 9.0).collect();
            Tensor::from_slice(&values)
        };
        let forward = |spec: &ExpertSpec, head: &Parameters, features: &Tensor, counts: &[i64]| {
            let head = Head::load(spec, head.inference_weights(Kind::Float), 32, 6).unwrap();
            head.forward(features, counts, &numbers(12).reshape([2, 6])).unwrap()
        };
        let raw = |trace: &Tensor| Vec::<f32>::try_from(trace).unwrap();
        let adapter = of_image.learnable().find(|(key, _)| *key == "vision_adapter.weight").unwrap().1;
        let roles = roles(adapter, 32).unwrap();
        let mask = |of: fn(&Role) -> bool| {
            Tensor::from_slice(&roles.iter().map(|role| f32::from(of(role))).collect::<Vec<_>>())
        };
        let kept = mask(|role| *role == Role::Kept);
        assert_eq!(f64::try_from(kept.sum(Kind::Float)).unwrap(), 25.0);
        let pictures = numbers(64).reshape([2, 32]);
        let mean = (&pictures * &kept).sum_dim_intlist([1].as_slice(), true, Kind::Float) / 25.0;
        let pictures = (pictures - mean) * &kept;
        let once = forward(&image, &of_image, &pictures, &[1, 1]).raw;
        let still = forward(&video, &of_video, &pictures.repeat_interleave_self_int(3, 0, None), &[3, 3]);
        assert!(raw(&once).iter().zip(raw(&still.raw)).all(|(a, b)| (a - b).abs() < 1e-4));
        assert_ne!(raw(&once)[0], raw(&once)[1]);

        let differences = mask(|role| matches!(role, Role::Difference { .. }));
        let stillness = mask(|role| matches!(role, Role::Stillness { .. }));
        let of_item = |trace: &Tensor, item: i64, mask: &Tensor| {
            f64::try_from((trace.get(item) * mask).sum(Kind::Float)).unwrap()
        };
        assert!(of_item(&still.vision_pooled, 0, &differences).abs() < 2e-3);
        let whole = 2.0 * f64::from(ALIKE) * 2.0 / 3.0;
        assert!((of_item(&still.vision_pooled, 0, &stillness) - whole).abs() < 2e-2, "two of three have a next one");

        // Evenly, and in jumps of twice the way: the differences are the same, the stillness is not.
        let step = |times: i64| &pictures.get(0) + (times as f64) * 0.3 * &pictures.get(1);
        let clips = Tensor::stack(&[0, 1, 2, 3, 4, 0, 0, 2, 2, 4].map(step), 0);
        let moved = forward(&video, &of_video, &clips, &[5, 5]).vision_pooled;
        let of = |item, mask| of_item(&moved, item, mask);
        assert!((of(0, &differences) - of(1, &differences)).abs() < 1e-2 && of(0, &differences) > 0.02);
        assert!(of(1, &stillness) - of(0, &stillness) > 1.0, "{} {}", of(1, &stillness), of(0, &stillness));
    }
}
