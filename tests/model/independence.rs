//! A score is its item's alone.

use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Dtype, Ensemble, EnsembleScore, ModelError, Track};
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
            let together: Vec<EnsembleScore> = together.into_iter().map(Result::unwrap).collect();
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
fn items_of_the_same_bytes_are_looked_at_once() {
    let network = GOLDEN.ensembles["a"].load(true, Dtype::F32).unwrap();
    for (track, lengths, distinct) in
        [(Track::Image, vec![1, 1, 1], 3), (Track::Video, vec![3, 5, 2], 10), (Track::Video, vec![16, 1, 2], 19)]
    {
        let sides = network.sides(track);
        let media: Vec<Frames> = lengths.iter().enumerate().map(|(item, &n)| clip(item, n, &sides)).collect();
        // The third one comes as an own copy, as from another caller.
        let copy = media[2].clone();
        let items = [&media[0], &media[2], &media[0], &media[1], &copy, &media[0]];
        let prompts: Vec<TokenIds> = (0..items.len()).map(prompt).collect();
        let text = network.encode_prompts(&prompts.iter().collect::<Vec<_>>()).unwrap();
        let traces = network.trace(track, &items, &text).unwrap();
        for view in traces.iter().flat_map(|trace| &trace.views) {
            assert_eq!(view.features.size()[0], distinct);
            assert_eq!(view.head.raw.size(), [6]);
        }
        let (scores, _) = network.score(track, &items, &text).unwrap();
        for ((item, prompt), score) in items.iter().zip(&prompts).zip(scores) {
            let alone = score_alone(&network, track, item, prompt);
            assert!((alone.z - score.unwrap().z).abs() <= TOLERANCE);
        }
    }
}

#[test]
fn clips_that_differ_in_the_last_byte_or_in_length_are_not_the_same() {
    let network = GOLDEN.ensembles["a"].load(false, Dtype::F32).unwrap();
    let sides = network.sides(Track::Video);
    let (short, whole) = (clip(0, 2, &sides), clip(0, 3, &sides));
    let mut other = whole.clone();
    *other.stacks[0].rgb.last_mut().unwrap() ^= 1;
    let items = [&short, &whole, &other];
    let text = network.encode_prompts(&[&prompt(1); 3]).unwrap();
    let traces = network.trace(Track::Video, &items, &text).unwrap();
    assert!(traces.iter().all(|trace| trace.views[0].features.size()[0] == 8));
}

#[test]
fn what_cannot_be_scored_spoils_no_other_item() {
    let network = GOLDEN.ensembles["b"].load(false, Dtype::F32).unwrap();
    for track in [Track::Image, Track::Video] {
        let items = [0, 1, 2].map(|item| clip(item, 1, &network.sides(track)));
        let prompts = [0, 1, 2].map(prompt);
        let text = network.encode_prompts(&prompts.each_ref()).unwrap();
        let mut spoilt = text.get(1);
        let _ = spoilt.fill_(f64::INFINITY);
        let (scores, _) = network.score(track, &items.each_ref(), &text).unwrap();
        match &scores[1] {
            Err(ModelError::NotFinite { what, .. }) => assert!(what.contains("expert"), "{what}"),
            other => panic!("{other:?}"),
        }
        for place in [0, 2] {
            let alone = score_alone(&network, track, &items[place], &prompts[place]);
            assert!((scores[place].as_ref().unwrap().z - alone.z).abs() <= TOLERANCE);
        }
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

fn score_alone(network: &Ensemble, track: Track, item: &Frames, prompt: &TokenIds) -> EnsembleScore {
    let text = network.encode_prompts(&[prompt]).unwrap();
    network.score(track, &[item], &text).unwrap().0.remove(0).unwrap()
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
