//! Scores that must not depend on how the device comes by them.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::ensure;
use pcqa::media::Frames;
use pcqa::model::{Device, Dtype, Ensemble, EnsembleScore, Track};
use pcqa::native::InferenceMode;
use serde_json::{Value, json};

use super::{Fast, House, Outcome};

/// Tolerances of a raw score, in the two number formats.
const F32: f64 = 1e-4;
const BF16: f64 = 2e-2;
const TRACKS: [(&str, Track); 2] = [("image", Track::Image), ("video", Track::Video)];

pub(super) fn parity(house: &House) -> Outcome {
    let _mode = InferenceMode::enter()?;
    let (device, mut figures, mut ok) = (house.args.device, serde_json::Map::new(), true);
    let network = house.serve(Device::Cpu, Dtype::F32, House::PLAIN)?;
    let mut expected = Vec::new();
    for (name, track) in TRACKS {
        let items = house.items(track, 0, if track == Track::Image { 4 } else { 2 });
        let scores = house.score(&network, track, &items.iter().collect::<Vec<_>>(), 0)?;
        expected.push((name, track, items, scores));
    }
    drop(network);
    for (dtype, limit) in [(Dtype::F32, F32), (Dtype::Bf16, BF16)] {
        let network = house.serve(device, dtype, House::FAST)?;
        for (name, track, items, expected) in &expected {
            let items: Vec<&Frames> = items.iter().collect();
            // The second time it is replayed.
            for time in ["first", "again"] {
                let gap = raw_gap(expected, &house.score(&network, *track, &items, 0)?);
                ok &= gap <= limit;
                let key = format!("{name} {} {time}", dtype.name());
                figures.insert(key, json!({"raw_difference": gap, "limit": limit}));
            }
        }
    }
    let raw: Vec<Vec<f64>> = expected.iter().map(|(_, _, _, scores)| raw(&scores[0])).collect();
    figures.insert("raw of the first items, f32 on the CPU".to_owned(), json!(raw));
    Ok(Some((ok, Value::Object(figures))))
}

pub(super) fn neighbours(house: &House) -> Outcome {
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    for (dtype, limit) in [(Dtype::F32, F32), (Dtype::Bf16, BF16)] {
        let network = house.serve(house.args.device, dtype, House::FAST)?;
        for (name, track) in TRACKS {
            let count = house.args.max_batch_frames.min(if track == Track::Image { 24 } else { 6 });
            let items = house.items(track, 0, count.into());
            let items: Vec<&Frames> = items.iter().collect();
            let mut alone = Vec::new();
            for (index, item) in items.iter().enumerate() {
                alone.extend(house.score(&network, track, &[item], index)?);
            }
            let mut most = 0.0f64;
            for size in [2, 3, 5, 7, 11, 24].into_iter().filter(|&size| size <= items.len()) {
                let first = (items.len() - size) / 2;
                let together = house.score(&network, track, &items[first..first + size], first)?;
                let alone = &alone[first..first + size];
                // In f32 z is what must not change, in bf16 the raw score.
                most = most.max(if dtype == Dtype::F32 { z_gap(alone, &together) } else { raw_gap(alone, &together) });
            }
            let spread = spread(&alone);
            ok &= most <= limit && spread > 0.0;
            let key = format!("{name} {}", dtype.name());
            figures.insert(key, json!({"difference": most, "limit": limit, "spread_of_raw": spread}));
        }
    }
    Ok(Some((ok, Value::Object(figures))))
}

pub(super) fn graphs(house: &House) -> Outcome {
    if house.args.device == Device::Cpu {
        return Ok(None);
    }
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    let with = house.serve(house.args.device, Dtype::Bf16, House::FAST)?;
    let without = house.serve(house.args.device, Dtype::Bf16, Fast { graphs: false, ..House::FAST })?;
    for (name, track) in TRACKS {
        let (mut most, mut seconds) = (0.0f64, [0.0f64; 2]);
        let sizes: Vec<u32> = with.fixed_sizes().to_vec();
        for &size in &sizes {
            // What is recorded with the first is replayed with others.
            for first in [0, 1000] {
                let items = house.filling(track, first, size);
                let items: Vec<&Frames> = items.iter().collect();
                let mut score = |network: &Ensemble, time: usize| {
                    let begin = Instant::now();
                    let scores = house.score(network, track, &items, 0);
                    seconds[time] += if first > 0 { begin.elapsed().as_secs_f64() } else { 0.0 };
                    scores
                };
                let (a, b) = (score(&without, 0)?, score(&with, 1)?);
                most = most.max(raw_gap(&a, &b));
            }
        }
        let recorded = with.recorded_sizes(track);
        ok &= most <= BF16 && recorded == sizes.len() && without.recorded_sizes(track) == 0;
        let figure = json!({"difference": most, "limit": BF16, "is_equal": most == 0.0, "sizes": sizes,
                            "recorded": recorded, "seconds_without": seconds[0], "seconds_with": seconds[1]});
        figures.insert(name.to_owned(), figure);
    }
    Ok(Some((ok, Value::Object(figures))))
}

/// Our own kernels against libtorch's, and both against f32 on the same device.
pub(super) fn kernels(house: &House) -> Outcome {
    if house.args.device == Device::Cpu {
        return Ok(None);
    }
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    let count = house.args.max_batch_frames.min(24);
    let exact = house.serve(house.args.device, Dtype::F32, House::PLAIN)?;
    let without = house.serve(house.args.device, Dtype::Bf16, House::PLAIN)?;
    let with = house.serve(house.args.device, Dtype::Bf16, Fast { graphs: false, ..House::FAST })?;
    for (name, track) in TRACKS {
        let items = house.filling(track, 0, count);
        let items: Vec<&Frames> = items.iter().collect();
        let f32 = house.score(&exact, track, &items, 0)?;
        let without = house.score(&without, track, &items, 0)?;
        let with = house.score(&with, track, &items, 0)?;
        let (between, of_with, of_without) = (raw_gap(&without, &with), raw_gap(&f32, &with), raw_gap(&f32, &without));
        ok &= between <= BF16 && of_with <= BF16 && between > 0.0;
        let figure = json!({"difference": between, "limit": BF16, "from_f32_with": of_with,
                            "from_f32_without": of_without});
        figures.insert(name.to_owned(), figure);
    }
    Ok(Some((ok, Value::Object(figures))))
}

/// Batches of changing sizes and new prompts, each asked for before the one before it is answered.
pub(super) fn ahead(house: &House) -> Outcome {
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    let network = house.serve(house.args.device, Dtype::Bf16, House::FAST)?;
    for (name, track) in TRACKS {
        let most = house.args.max_batch_frames;
        let sizes: Vec<u32> = [1, most, most, most / 2, 3, 3, most, most, 1, 1].into();
        let batches: Vec<Vec<Frames>> =
            sizes.iter().zip(0..).map(|(&size, batch)| house.filling(track, 1000 * batch, size)).collect();
        let batches: Vec<Vec<&Frames>> = batches.iter().map(|batch| batch.iter().collect()).collect();
        let mut one_by_one = Vec::new();
        // The first time graphs are recorded.
        for _ in 0..2 {
            let score = |(index, batch): (usize, &Vec<&Frames>)| house.score(&network, track, batch, index);
            one_by_one = batches.iter().enumerate().map(score).collect::<anyhow::Result<_>>()?;
        }
        let mut difference = 0.0f64;
        for depth in [1, 2] {
            let mut underway = VecDeque::new();
            let mut answers = Vec::new();
            for (index, batch) in batches.iter().enumerate() {
                underway.push_back(house.ask(&network, track, batch, index)?);
                if underway.len() > depth {
                    answers.extend(underway.pop_front().map(|asked| network.answer(&asked)));
                }
            }
            answers.extend(underway.iter().map(|asked| network.answer(asked)));
            ensure!(answers.len() == batches.len(), "{} answers", answers.len());
            for (alone, answer) in one_by_one.iter().zip(answers) {
                let scores = answer?.0.into_iter().collect::<Result<Vec<_>, _>>()?;
                difference = difference.max(raw_gap(alone, &scores));
            }
        }
        // The same work in the same order of the device.
        ok &= difference == 0.0;
        figures.insert(name.to_owned(), json!({"difference": difference, "limit": 0, "sizes": sizes}));
    }
    Ok(Some((ok, Value::Object(figures))))
}

fn raw(score: &EnsembleScore) -> Vec<f64> {
    score.experts.iter().map(|expert| expert.raw).collect()
}

/// The greatest difference of the experts' raw scores.
fn raw_gap(a: &[EnsembleScore], b: &[EnsembleScore]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.experts.iter().zip(&b.experts));
    pairs.map(|(a, b)| (a.raw - b.raw).abs()).fold(if a.len() == b.len() { 0.0 } else { f64::INFINITY }, f64::max)
}

/// The greatest difference of the experts' z.
fn z_gap(a: &[EnsembleScore], b: &[EnsembleScore]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.experts.iter().zip(&b.experts));
    pairs.map(|(a, b)| (a.z - b.z).abs()).fold(if a.len() == b.len() { 0.0 } else { f64::INFINITY }, f64::max)
}

/// Between the highest and the lowest raw score of the first expert: nothing is told apart where it is 0.
fn spread(scores: &[EnsembleScore]) -> f64 {
    let raw = || scores.iter().filter_map(|score| score.experts.first()).map(|expert| expert.raw);
    raw().fold(f64::NEG_INFINITY, f64::max) - raw().fold(f64::INFINITY, f64::min)
}
