//! Alone or in any batch, at any place, with any companions: the same score. Random batches of the demo bundle.

use std::cell::RefCell;
use std::collections::HashMap;

use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Asked, Bundle, Device, Dtype, Ensemble, EnsembleScore, LoadOptions, Track};
use pcqa::text::TokenIds;
use pcqa::train::hash_init::bits;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const SIDE: u32 = 56;
const START: u32 = 49406;
const END: u32 = 49407;

/// A picture or clip by its number, and a prompt.
type Item = (usize, TokenIds);

/// What tells items apart.
type Key = (usize, Box<[u32]>);

/// Random media, one network, and what each item scores alone.
struct House {
    network: Ensemble,
    track: Track,
    media: Vec<Frames>,
    alone: RefCell<HashMap<Key, EnsembleScore>>,
}

impl House {
    /// Media of `lengths` frames each; every third differs from the one before it in its last pixel only.
    fn new(track: Track, dtype: Dtype, lengths: &[u32]) -> Self {
        Self::padding(track, dtype, lengths, None)
    }

    /// Batches of up to so many frames are padded to fixed sizes.
    fn padding(track: Track, dtype: Dtype, lengths: &[u32], padded: Option<u32>) -> Self {
        // On a busy machine, threads that share such small networks mostly wait for each other.
        tch::set_num_threads(1);
        let options = LoadOptions { device: Device::Cpu, dtype, tta: false };
        let network = Ensemble::load(&Bundle::demo().unwrap(), options).unwrap();
        let network = match padded {
            Some(frames) => network.in_fixed_sizes(frames, true).unwrap(),
            None => network,
        };
        let mut media: Vec<Frames> = Vec::new();
        for (index, &count) in lengths.iter().enumerate() {
            let mut clip = noise(index, count);
            if index % 3 == 2 && media[index - 1].count == count {
                clip = media[index - 1].clone();
                *clip.stacks[0].rgb.last_mut().unwrap() ^= 0x80;
            }
            media.push(clip);
        }
        Self { network, track, media, alone: RefCell::default() }
    }

    /// Scores random batches of 1 to `largest` items and compares each item with itself alone by `distance`.
    fn check(&self, cases: u32, largest: usize, distance: impl Fn(&EnsembleScore, &EnsembleScore) -> f64, most: f64) {
        let batches = prop::collection::vec((0..self.media.len(), prompt()), 1..=largest);
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
        let seeded = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner = TestRunner::new_with_rng(config, seeded);
        let outcome = runner.run(&batches, |batch| {
            for (item, together) in batch.iter().zip(self.score(&batch)) {
                let gap = distance(&self.score_alone(item), &together);
                prop_assert!(gap <= most, "item {} is {gap} from its score alone", item.0);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
        let scores: Vec<f64> = self.alone.borrow().values().map(|score| score.z).collect();
        let spread = |pick: fn(f64, f64) -> f64| scores.iter().copied().reduce(pick).unwrap();
        assert!(spread(f64::max) - spread(f64::min) > 0.1, "all items score alike: nothing was told apart");
    }

    fn score_alone(&self, item: &Item) -> EnsembleScore {
        let key = (item.0, item.1.ids.clone());
        self.alone.borrow_mut().entry(key).or_insert_with(|| self.score(std::slice::from_ref(item)).remove(0)).clone()
    }

    fn score(&self, batch: &[Item]) -> Vec<EnsembleScore> {
        let prompts: Vec<&TokenIds> = batch.iter().map(|(_, prompt)| prompt).collect();
        let items: Vec<&Frames> = batch.iter().map(|&(index, _)| &self.media[index]).collect();
        let text = self.network.encode_prompts(&prompts).unwrap();
        let (scores, _) = self.network.score(self.track, &items, &text).unwrap();
        scores.into_iter().map(Result::unwrap).collect()
    }
}

/// Up to 75 words: empty, short and as long as the context allows.
fn prompt() -> impl Strategy<Value = TokenIds> {
    prop::collection::vec(0..START, 0..=75)
        .prop_map(|words| TokenIds { ids: [START].into_iter().chain(words).chain([END]).collect(), truncated: false })
}

/// Tiles of random colours, so that pictures differ in more than their noise.
fn noise(index: usize, count: u32) -> Frames {
    let tiles: Vec<u32> = bits("tiles", index as u64).take(49 * 3 * count as usize).collect();
    let mut noise = bits("noise", index as u64);
    let mut rgb = Vec::new();
    for (time, y, x) in (0..count).flat_map(|t| (0..SIDE).flat_map(move |y| (0..SIDE).map(move |x| (t, y, x)))) {
        let tile = ((time * 49 + y / 16 * 7 + x / 16) * 3) as usize;
        rgb.extend(tiles[tile..tile + 3].iter().map(|tile| ((tile & 0xe0) + (noise.next().unwrap() & 0x1f)) as u8));
    }
    Frames { count, stacks: vec![FrameStack { side: SIDE, rgb }] }
}

/// The greatest difference of the experts' z.
fn z(alone: &EnsembleScore, together: &EnsembleScore) -> f64 {
    let pairs = alone.experts.iter().zip(&together.experts);
    pairs.map(|(a, b)| (a.z - b.z).abs()).fold((alone.z - together.z).abs(), f64::max)
}

/// The greatest difference of the experts' raw scores.
fn raw(alone: &EnsembleScore, together: &EnsembleScore) -> f64 {
    alone.experts.iter().zip(&together.experts).map(|(a, b)| (a.raw - b.raw).abs()).fold(0.0, f64::max)
}

const LENGTHS: [u32; 9] = [1, 5, 5, 16, 2, 2, 9, 1, 1];

#[test]
fn images_score_as_alone() {
    House::new(Track::Image, Dtype::F32, &[1; 12]).check(24, 12, z, 1e-4);
}

#[test]
fn clips_score_as_alone() {
    House::new(Track::Video, Dtype::F32, &LENGTHS).check(16, 6, z, 1e-4);
}

#[test]
fn in_bf16_raw_scores_stay_near_those_alone() {
    House::new(Track::Image, Dtype::Bf16, &[1; 6]).check(6, 6, raw, 2e-2);
    House::new(Track::Video, Dtype::Bf16, &LENGTHS[..5]).check(3, 4, raw, 2e-2);
}

#[test]
fn in_fixed_sizes_images_score_as_alone() {
    // Larger batches are not padded.
    House::padding(Track::Image, Dtype::F32, &[1; 12], Some(7)).check(16, 12, z, 1e-4);
}

#[test]
fn in_fixed_sizes_clips_score_as_alone() {
    House::padding(Track::Video, Dtype::F32, &LENGTHS, Some(64)).check(8, 6, z, 1e-4);
}

#[test]
fn padding_changes_no_score_and_is_not_scored() {
    let (plain, padded) = (House::new(Track::Image, Dtype::F32, &[1; 12]), |frames| {
        House::padding(Track::Image, Dtype::F32, &[1; 12], Some(frames))
    });
    let prompt = TokenIds { ids: [START, 320, END].into(), truncated: false };
    let batch: Vec<Item> = (0..5).map(|index| (index, prompt.clone())).collect();
    let padded = padded(8);
    assert_eq!(padded.network.fixed_sizes(), [1, 2, 3, 4, 6, 8]);
    assert!(plain.network.fixed_sizes().is_empty());
    // What a larger batch left behind is in the padding.
    let others: Vec<Item> = (4..12).map(|index| (index, prompt.clone())).collect();
    assert_eq!(padded.score(&others).len(), 8);
    let scores = padded.score(&batch);
    assert_eq!(scores.len(), 5);
    for (padded, plain) in scores.iter().zip(plain.score(&batch)) {
        let gap = z(&plain, padded);
        assert!(gap <= 1e-4, "{gap}");
    }
}

#[test]
fn batches_that_are_asked_for_one_behind_the_other_score_as_one_by_one() {
    let house = House::padding(Track::Video, Dtype::F32, &LENGTHS, Some(64));
    let prompt = TokenIds { ids: [START, 320, END].into(), truncated: false };
    let text = house.network.encode_prompts(&[&prompt]).unwrap();
    let batches: Vec<Vec<&Frames>> = house.media.chunks(3).map(|media| media.iter().collect()).collect();
    let ask = |batch: &Vec<&Frames>| {
        let text = text.expand([batch.len() as i64, -1], false);
        house.network.ask(Track::Video, batch, &text).unwrap()
    };
    let mos = |asked: &Asked| -> Vec<f64> {
        let (scores, _) = house.network.answer(asked).unwrap();
        scores.into_iter().map(|score| score.unwrap().mos).collect()
    };
    let asked: Vec<Asked> = batches.iter().map(ask).collect();
    let behind: Vec<Vec<f64>> = asked.iter().map(mos).collect();
    let one_by_one: Vec<Vec<f64>> = batches.iter().map(|batch| mos(&ask(batch))).collect();
    assert!(batches.len() > 1 && behind[0] != behind[1]);
    assert_eq!(behind, one_by_one);
}
