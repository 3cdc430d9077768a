//! Mean and standard deviation of the experts' raw scores over made-up items.

use std::collections::BTreeMap;

use anyhow::Context;
use tch::Device;

use super::media::{PROMPTS, clip, picture};
use crate::media::Frames;
use crate::model::{Bundle, Calibration, Dtype, Ensemble, LoadOptions, Track};
use crate::train::trial;

const PICTURES: u64 = 64;
const CLIPS: u64 = 16;
const BATCH: usize = 16;

/// Statistics of every expert with or without test-time augmentation, measured in f32. They are said to hold for bf16
/// too: measured there, the demo's means differ by less than 0.005 sigma and its sigmas by 1.2 %, within the 2e-2 that
/// bf16 is allowed; but a processor without bf16 instructions takes minutes to find that out.
pub(super) fn measure(bundle: &Bundle, tta: bool) -> anyhow::Result<Vec<Calibration>> {
    let options = LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta };
    let ensemble = Ensemble::load(bundle, options)?;
    let tokenizer = trial::tokenizer(bundle)?;
    let prompts: Vec<_> = PROMPTS.iter().map(|prompt| tokenizer.encode(prompt)).collect();
    let mut raw: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for track in [Track::Image, Track::Video] {
        let items = items(bundle, track)?;
        for (batch, items) in items.chunks(BATCH).enumerate() {
            let prompts: Vec<_> = (0..items.len()).map(|i| &prompts[(batch + i) % prompts.len()]).collect();
            let text = ensemble.encode_prompts(&prompts)?;
            let (scores, _) = ensemble.score(track, &items.iter().collect::<Vec<_>>(), &text)?;
            for score in scores {
                for expert in score?.experts {
                    raw.entry(expert.name).or_default().push(expert.raw);
                }
            }
        }
    }
    let experts = bundle.manifest().experts.iter();
    experts
        .map(|expert| {
            let raw = raw.get(&expert.name).with_context(|| format!("expert {}: has no scores", expert.name))?;
            let (mu, sigma) = statistics(raw);
            Ok(Calibration {
                expert: expert.name.clone(),
                tta,
                input_size: expert.input_size,
                dtypes: [Dtype::F32, Dtype::Bf16].map(|dtype| dtype.name().to_owned()).into(),
                mu: rounded(mu),
                sigma: rounded(sigma),
            })
        })
        .collect()
}

fn items(bundle: &Bundle, track: Track) -> anyhow::Result<Vec<Frames>> {
    let mut experts = bundle.manifest().experts.iter().filter(|expert| expert.track == track);
    let side = experts.next().context("a track has no expert")?.input_size;
    let frames = |i: u64| 1 + (5 * i as u32) % bundle.manifest().max_frames;
    Ok(match track {
        Track::Image => (0..PICTURES).map(|i| picture(i, side)).collect(),
        Track::Video => (0..CLIPS).map(|i| clip(i, frames(i), side)).collect(),
    })
}

/// Mean and population standard deviation.
fn statistics(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// Processors differ in the last digits of a sum; five decimals are the same on all of them.
fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}
