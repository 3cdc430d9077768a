//! Whether a bundle can really be served: every number looked at, every network loaded, and one item of each track scored.

use std::collections::BTreeSet;

use anyhow::Context;
use rayon::prelude::*;
use safetensors::Dtype;
use tch::Device;

use super::convert::numbers_of;
use crate::media::{FrameStack, Frames};
use crate::model::{Bundle, Dtype as NumberFormat, Ensemble, LoadOptions, ModelError, Track, parse_file};
use crate::text::Tokenizer;

/// Looks at every number of `bundle`, loads it on the CPU with and without test-time augmentation, as its calibration says,
/// in f32 where that is calibrated, and scores a grey item with each.
///
/// # Errors
///
/// Names the file and what is wrong with it.
pub fn try_out(bundle: &Bundle) -> anyhow::Result<()> {
    check_numbers(bundle)?;
    let tokenizer = tokenizer(bundle)?;
    let prompt = tokenizer.encode("a photo of a cat");
    for (tta, dtype) in settings(bundle) {
        let ensemble = Ensemble::load(bundle, LoadOptions { device: Device::Cpu, dtype, tta })?;
        let text = ensemble.encode_prompts(&[&prompt])?;
        let tracks: BTreeSet<Track> = bundle.manifest().experts.iter().map(|expert| expert.track).collect();
        for track in tracks {
            let frames = grey(track, bundle.manifest().max_frames, &ensemble.sides(track));
            let (scores, _) = ensemble.score(track, &[&frames], &text)?;
            scores.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
    }
    Ok(())
}

/// Refuses weights that are no numbers, and variances below 0: what one word needs shows in no trial.
fn check_numbers(bundle: &Bundle) -> Result<(), ModelError> {
    for name in bundle.manifest().files.keys().filter(|name| name.ends_with(".safetensors")) {
        let file = bundle.file(name)?;
        let tensors = parse_file(name, file.bytes())?.tensors();
        tensors.par_iter().try_for_each(|(key, tensor)| {
            if ![Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64].contains(&tensor.dtype()) {
                return Ok(());
            }
            let least = if key.ends_with("running_var") { 0.0 } else { f32::MIN };
            let fits = |number: &f32| (least..=f32::MAX).contains(number);
            match numbers_of(tensor.dtype(), tensor.data()).find(|number| !fits(number)) {
                Some(number) => {
                    let expected = if least == 0.0 { "finite numbers, none below 0" } else { "finite numbers" };
                    let problem = format!("has {number:?} among its values, expected {expected}");
                    Err(ModelError::Tensor { file: name.clone(), key: key.clone(), problem })
                }
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// The bundle's tokenizer.
pub(super) fn tokenizer(bundle: &Bundle) -> anyhow::Result<Tokenizer> {
    let text = &bundle.manifest().text;
    let file = bundle.file(&text.tokenizer)?;
    Tokenizer::from_json(file.bytes(), text.context_length).with_context(|| text.tokenizer.clone())
}

fn settings(bundle: &Bundle) -> Vec<(bool, NumberFormat)> {
    let calibration = &bundle.manifest().calibration;
    let ttas: BTreeSet<bool> = calibration.iter().map(|entry| entry.tta).collect();
    let dtype = |tta| {
        let f32_too = calibration.iter().any(|entry| entry.tta == tta && entry.dtypes.iter().any(|name| name == "f32"));
        if f32_too { NumberFormat::F32 } else { NumberFormat::Bf16 }
    };
    ttas.into_iter().map(|tta| (tta, dtype(tta))).collect()
}

/// A grey image, or a grey clip of two frames, at every side.
fn grey(track: Track, max_frames: u32, sides: &[u32]) -> Frames {
    let count = if track == Track::Video { max_frames.min(2) } else { 1 };
    let stack = |side: u32| FrameStack { side, rgb: vec![128; count as usize * (side * side * 3) as usize] };
    Frames { count, stacks: sides.iter().copied().map(stack).collect() }
}
