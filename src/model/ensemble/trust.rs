//! Whether a GPU's [own kernels](kernels) say what libtorch's operations say. They were measured on one kind of GPU and
//! are compiled for the one at hand: one that they are wrong on must not serve wrong scores.

use tch::Tensor;

use super::{Ensemble, Fault, upload};
use crate::media::{FrameStack, Frames};
use crate::model::{ModelError, Track};
use crate::native::kernels;

/// Most that embeddings may differ by, as part of their length: several times what bf16 makes of full-size networks
/// against f32, which is 0.005 (ConvNeXt-S) to 0.016 (a text tower), and a fraction of what a kernel does that misses
/// something.
const LIMIT: f64 = 0.05;

/// Pictures of one comparison: more than one, and no power of two, so that kernels have places left over.
const PICTURES: u32 = 3;

impl Ensemble {
    /// Reads a prompt and looks at a few pictures both ways, with every network.
    pub(super) fn trusts_kernels(&self) -> bool {
        let furthest = self.furthest().or_else(|error| match self.diagnose(&error) {
            // What was given back since may suffice.
            Fault::Memory => self.furthest(),
            Fault::Batch | Fault::Lost => Err(error),
        });
        match furthest {
            Ok((network, difference)) if difference <= LIMIT => {
                tracing::info!(network, difference, "kernels agree with libtorch's operations");
                true
            }
            Ok((network, difference)) => {
                tracing::warn!(network, difference, limit = LIMIT, "kernels are wrong on this GPU, which goes without");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "kernels fail on this GPU, which goes without");
                false
            }
        }
    }

    /// The network whose embeddings differ most, and by how much.
    fn furthest(&self) -> Result<(&str, f64), ModelError> {
        let _no_grad = tch::no_grad_guard();
        let mut furthest = ("", 0.0);
        let mut compare = |network, with: &Tensor, without: &Tensor| -> Result<(), ModelError> {
            let difference = difference(with, without)?;
            if difference > furthest.1 {
                furthest = (network, difference);
            }
            Ok(())
        };
        for (spec, tower) in self.manifest.text.towers.iter().zip(&self.towers) {
            let embedding = |with: bool| {
                let _kernels = kernels::scope(self.options.device, with);
                tower.forward(&[&tower.any_prompt()])
            };
            compare(spec.name.as_str(), &embedding(true)?, &embedding(false)?)?;
        }
        for track in [Track::Image, Track::Video] {
            let sides = self.sides(track);
            if sides.is_empty() {
                continue;
            }
            let uploaded = upload(&[&pictures(&sides)], &sides, self.options.device)?;
            let features = |with: bool| {
                let _kernels = kernels::scope(self.options.device, with);
                self.features(track, &uploaded)
            };
            let (with, without) = (features(true)?, features(false)?);
            for (member, (with, without)) in self.members_of(track).zip(with.iter().zip(&without)) {
                for (with, without) in with.iter().zip(without) {
                    compare(&member.spec.name, with, without)?;
                }
            }
        }
        Ok(furthest)
    }
}

/// Stripes and gradients that differ from picture to picture and have edges at the borders.
fn pictures(sides: &[u32]) -> Frames {
    let stack = |&side: &u32| {
        let pixel = |picture: u32, y: u32, x: u32| {
            let stripes = if (x / 5 + y / (3 + picture)).is_multiple_of(2) { 40 } else { 200 };
            [stripes, (255 * x / side) as u8, (255 * y / side) as u8]
        };
        let rows = (0..PICTURES).flat_map(|picture| (0..side).map(move |y| (picture, y)));
        let rgb = rows.flat_map(|(picture, y)| (0..side).flat_map(move |x| pixel(picture, y, x))).collect();
        FrameStack { side, rgb }
    };
    Frames { count: PICTURES, stacks: sides.iter().map(stack).collect() }
}

/// Length of the row of `a - b` that is the longest as part of the length of that row of `b`. Infinite where any is no
/// number.
fn difference(a: &Tensor, b: &Tensor) -> Result<f64, ModelError> {
    let length = |x: &Tensor| x.f_norm_scalaropt_dim(2.0, [-1], false);
    let difference = length(&a.f_sub(b)?)?.f_div(&length(b)?)?.f_max()?.f_double_value(&[])?;
    Ok(if difference.is_nan() { f64::INFINITY } else { difference })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::{Bundle, Dtype, LoadOptions};

    #[test]
    fn one_wrong_row_is_seen() {
        let b = Tensor::randn([3, 64], (Kind::Float, Device::Cpu));
        let rounded = b.to_kind(Kind::BFloat16).to_kind(Kind::Float);
        assert!(difference(&rounded, &b).unwrap() < LIMIT / 10.0);
        for wrong in [0.0, f64::NAN] {
            let a = b.copy();
            let _ = a.get(1).fill_(wrong);
            let difference = difference(&a, &b).unwrap();
            assert!(difference > LIMIT, "{difference}");
        }
    }

    #[test]
    fn pictures_are_looked_at_on_every_track() {
        let options = LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta: false };
        let ensemble = Ensemble::load(&Bundle::demo().unwrap(), options).unwrap();
        assert!(ensemble.trusts_kernels());
        assert_eq!(ensemble.furthest().unwrap(), ("", 0.0));
        let stacks = pictures(&[7]).stacks;
        let third = 7 * 7 * 3;
        assert_ne!(stacks[0].rgb[..third], stacks[0].rgb[third..2 * third]);
    }
}
