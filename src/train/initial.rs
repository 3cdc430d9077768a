//! Values of weights that nobody has trained: norms and layer scales 1, biases 0, positions small, and everything else
//! uniform with variance 1 / fan-in (LeCun), so that signals keep their size on their way through the network.

mod temporal;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

pub use self::temporal::with_temporal;
use super::seed::rng;
use crate::model::{ExpertSpec, Mixer, ModelError, Parameters, Track};

/// Half the width of the uniform distribution of learnt positions: a standard deviation of 0.02.
const POSITIONS: f32 = 0.034_641;

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
    fn tensors_of_one_seed_differ_and_seeds_too() {
        let draw = |key: &str, by: u64| values(key, &[4, 4], rng(by, key));
        assert_eq!(draw("a.weight", 1), draw("a.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("b.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("a.weight", 2));
    }
}
