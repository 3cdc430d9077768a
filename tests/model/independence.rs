//! A score is its item's alone.

use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Dtype, Ensemble, Track};
use pcqa::text::TokenIds;

use crate::support::{GOLDEN, distance, elements, frames};

const TOLERANCE: f64 = 1e-4;

#[test]
fn items_of_a_batch_score_as_alone() {
    for ensemble in GOLDEN.ensembles.values() {
        for (track, tta, lengths) in [
            (Track::Image, false, vec![1; 7]),
            (Track::Image, true, vec![1; 3]),
            (Track::Video, false, vec![16, 1, 5, 2, 9]),
            (Track::Video, true, vec![3, 16]),
        ] {
            let network = ensemble.load(tta, Dtype::F32).unwrap();
            let sides = network.sides(track);
            let items: Vec<Frames> = lengths.iter().enumerate().map(|(item, &n)| clip(item, n, &sides)).collect();
            let prompts: Vec<TokenIds> = (0..items.len()).map(prompt).collect();
            let text = network.encode_prompts(&prompts.iter().collect::<Vec<_>>()).unwrap();
            let (together, _) = network.score(track, &items.iter().collect::<Vec<_>>(), &text).unwrap();
            assert_eq!(together.len(), items.len());
            for ((item, prompt), batched) in items.iter().zip(&prompts).zip(&together) {
                let alone = score_alone(&network, track, item, prompt);
                for (a, b) in alone.experts.iter().zip(&batched.experts) {
                    assert!((a.z - b.z).abs() <= TOLERANCE, "{}: {} alone, {} in a batch", a.name, a.z, b.z);
                }
                assert!((alone.z - batched.z).abs() <= TOLERANCE);
            }
            assert!((together[0].z - together[1].z).abs() > 1e-3, "different items ought to differ");
        }
    }
}

#[test]
fn prompts_of_a_batch_encode_as_alone() {
    let network = GOLDEN.ensembles["b"].load(false, Dtype::F32).unwrap();
    let prompts: Vec<TokenIds> = (0..9).map(prompt).collect();
    let together = network.encode_prompts(&prompts.iter().collect::<Vec<_>>()).unwrap();
    let width: i64 = network.text_dims().iter().map(|(_, dim)| dim).sum();
    assert_eq!(together.size(), [9, width]);
    for (row, prompt) in (0..).zip(&prompts) {
        let alone = network.encode_prompts(&[prompt]).unwrap();
        assert!(distance(&elements(&alone), &elements(&together.get(row))) <= 1e-5);
    }
}

#[test]
fn the_same_item_scores_the_same_every_time() {
    let network = GOLDEN.ensembles["a"].load(true, Dtype::F32).unwrap();
    let item = clip(3, 4, &network.sides(Track::Video));
    let first = score_alone(&network, Track::Video, &item, &prompt(1));
    for _ in 0..3 {
        assert_eq!(score_alone(&network, Track::Video, &item, &prompt(1)), first);
    }
}

#[test]
fn tta_changes_nothing_on_a_symmetric_picture_and_something_on_others() {
    let ensemble = &GOLDEN.ensembles["a"];
    let (plain, tta) = (ensemble.load(false, Dtype::F32).unwrap(), ensemble.load(true, Dtype::F32).unwrap());
    let sides = plain.sides(Track::Image);
    let lopsided = clip(0, 1, &sides);
    let symmetric = Frames { count: 1, stacks: lopsided.stacks.iter().map(mirrored).collect() };
    let gap = |item: &Frames| {
        let raw = |network: &Ensemble| score_alone(network, Track::Image, item, &prompt(2)).experts;
        let pairs = raw(&plain).into_iter().zip(raw(&tta));
        pairs.map(|(plain, tta)| (plain.raw - tta.raw).abs()).fold(0.0, f64::max)
    };
    assert!(gap(&symmetric) <= 1e-5, "{}", gap(&symmetric));
    assert!(gap(&lopsided) > 1e-3, "{}", gap(&lopsided));
}

fn score_alone(network: &Ensemble, track: Track, item: &Frames, prompt: &TokenIds) -> pcqa::model::EnsembleScore {
    let text = network.encode_prompts(&[prompt]).unwrap();
    network.score(track, &[item], &text).unwrap().0.remove(0)
}

fn clip(item: usize, count: usize, sides: &[u32]) -> Frames {
    let names: Vec<String> = (0..count).map(|frame| format!("clip {item}/{frame}")).collect();
    frames(&names.iter().map(String::as_str).collect::<Vec<_>>(), sides)
}

/// Start of text, `3 * item` other tokens, end of text.
fn prompt(item: usize) -> TokenIds {
    let words = (0..3 * item as u32).map(|word| 1000 * (word + 1) + item as u32);
    let ids = [49406].into_iter().chain(words).chain([49407]).collect();
    TokenIds { ids, truncated: false }
}

/// The picture whose right half mirrors its left one.
fn mirrored(stack: &FrameStack) -> FrameStack {
    let side = stack.side as usize;
    let pixel = |y: usize, x: usize| &stack.rgb[(y * side + x) * 3..][..3];
    let rows = (0..side).flat_map(|y| (0..side).map(move |x| (y, x.min(side - 1 - x))));
    FrameStack { side: stack.side, rgb: rows.flat_map(|(y, x)| pixel(y, x).to_vec()).collect() }
}
