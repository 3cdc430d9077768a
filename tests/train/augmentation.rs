//! Augmentation stays within its ranges and treats all of a clip alike.

use pcqa::media::{FrameStack, Frames};
use pcqa::train::{Augmentation, Change, rng};
use proptest::prelude::*;

const NOTHING: Augmentation =
    Augmentation { flip: 0.0, crop_area: 1.0, crop_aspect: 1.0, brightness: 0.0, contrast: 0.0 };

/// A clip of `count` frames at two sides; every frame is the same where `same`.
fn clip(count: u32, same: bool) -> Frames {
    let level = |frame: u32, place: u32| (place * 37 + if same { 0 } else { frame * 101 }) as u8;
    let stack = |side: u32| FrameStack {
        side,
        rgb: (0..count).flat_map(|frame| (0..side * side * 3).map(move |place| level(frame, place))).collect(),
    };
    Frames { count, stacks: vec![stack(24), stack(17)] }
}

fn draw(augmentation: &Augmentation, seed: u64) -> Change {
    augmentation.draw(&mut rng(seed, "test"))
}

#[test]
fn switched_off_it_changes_nothing() {
    for seed in 0..20 {
        assert_eq!(draw(&NOTHING, seed).apply(&clip(3, false)), clip(3, false));
    }
}

#[test]
fn a_mirror_image_mirrored_is_the_image() {
    let change = draw(&Augmentation { flip: 1.0, ..NOTHING }, 1);
    let mirrored = change.apply(&clip(2, false));
    assert_ne!(mirrored, clip(2, false));
    let (before, after) = (&clip(2, false).stacks[0].rgb[..72], &mirrored.stacks[0].rgb[..72]);
    assert_eq!(before[..3], after[69..], "the first pixel of a row is the last");
    assert_eq!(change.apply(&mirrored), clip(2, false));
}

#[test]
fn levels_go_where_they_are_multiplied_to() {
    let two_levels = |a: u8, b: u8| {
        let rgb = [a, b].repeat(6 * 6 * 3 / 2);
        Frames { count: 1, stacks: vec![FrameStack { side: 6, rgb }] }
    };
    let still = Change { flip: false, width: 1.0, height: 1.0, left: 0.0, top: 0.0, brightness: 1.0, contrast: 1.0 };
    assert_eq!(Change { brightness: 1.5, ..still }.apply(&two_levels(100, 200)), two_levels(150, 255));
    assert_eq!(Change { contrast: 0.5, ..still }.apply(&two_levels(100, 200)), two_levels(125, 175));
    assert_eq!(Change { contrast: 2.0, ..still }.apply(&two_levels(100, 200)), two_levels(50, 250));
}

#[test]
fn a_crop_is_the_part_that_was_drawn() {
    // The left half is dark, the right half is light.
    let rgb: Vec<u8> = (0..40 * 40).flat_map(|pixel| [if pixel % 40 < 20 { 10 } else { 240 }; 3]).collect();
    let halves = Frames { count: 1, stacks: vec![FrameStack { side: 40, rgb }] };
    let crop = |left| Change { flip: false, width: 0.4, height: 0.4, left, top: 0.5, brightness: 1.0, contrast: 1.0 };
    let levels = |left| crop(left).apply(&halves).stacks[0].rgb.clone();
    assert!(levels(0.0).iter().all(|&level| level == 10));
    assert!(levels(1.0).iter().all(|&level| level == 240));
    assert_eq!(levels(0.5).len(), 40 * 40 * 3);
}

proptest! {
    #[test]
    fn draws_keep_to_their_ranges(
        crop_area in 0.1..1.0f64, crop_aspect in 1.0..2.0f64, brightness in 0.0..0.5f64, contrast in 0.0..0.5f64,
        seed in any::<u64>(),
    ) {
        let augmentation = Augmentation { flip: 0.5, crop_area, crop_aspect, brightness, contrast };
        let change = draw(&augmentation, seed);
        prop_assert!(change.width > 0.0 && change.width <= 1.0 && change.height > 0.0 && change.height <= 1.0);
        let aspect = change.width / change.height;
        prop_assert!((1.0 / crop_aspect - 1e-9..=crop_aspect + 1e-9).contains(&aspect));
        // A side that would be longer than the picture is cut, which leaves at most a factor of the aspect less.
        prop_assert!(change.width * change.height >= crop_area / crop_aspect - 1e-9);
        prop_assert!((0.0..=1.0).contains(&change.left) && (0.0..=1.0).contains(&change.top));
        prop_assert!((change.brightness - 1.0).abs() <= brightness + 1e-9);
        prop_assert!((change.contrast - 1.0).abs() <= contrast + 1e-9);
    }

    #[test]
    fn all_frames_of_a_clip_are_changed_alike(seed in any::<u64>()) {
        let changed = draw(&Augmentation::default(), seed).apply(&clip(3, true));
        prop_assert_eq!(changed.count, 3);
        for (stack, before) in changed.stacks.iter().zip(&clip(3, true).stacks) {
            prop_assert_eq!(stack.rgb.len(), before.rgb.len());
            let size = stack.rgb.len() / 3;
            prop_assert_eq!(&stack.rgb[..size], &stack.rgb[size..2 * size]);
            prop_assert_eq!(&stack.rgb[..size], &stack.rgb[2 * size..]);
        }
    }
}

#[test]
fn half_of_all_is_mirrored() {
    let mirrored = (0..2000).filter(|&seed| draw(&Augmentation::default(), seed).flip).count();
    assert!((900..1100).contains(&mirrored), "{mirrored}");
}

#[test]
fn one_setting_does_not_change_what_another_draws() {
    let usual = draw(&Augmentation::default(), 7);
    let without = draw(&Augmentation { flip: 0.0, crop_area: 1.0, crop_aspect: 1.0, ..Augmentation::default() }, 7);
    assert_eq!((usual.brightness, usual.contrast), (without.brightness, without.contrast));
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let cases = [
        ("flip", Augmentation { flip: 1.5, ..NOTHING }),
        ("crop_area", Augmentation { crop_area: 0.0, ..NOTHING }),
        ("crop_area", Augmentation { crop_area: f64::NAN, ..NOTHING }),
        ("crop_aspect", Augmentation { crop_aspect: 0.9, ..NOTHING }),
        ("brightness", Augmentation { brightness: -0.1, ..NOTHING }),
        ("contrast", Augmentation { contrast: 1.1, ..NOTHING }),
    ];
    for (name, augmentation) in cases {
        let refusal = augmentation.check().unwrap_err().to_string();
        assert!(refusal.starts_with(name), "{name}: {refusal}");
    }
    Augmentation::default().check().unwrap();
    let toml = toml::to_string(&Augmentation::default()).unwrap();
    assert_eq!(toml::from_str::<Augmentation>(&toml).unwrap(), Augmentation::default());
    assert_eq!(toml::from_str::<Augmentation>("flip = 0.25").unwrap().flip, 0.25);
    assert!(toml::from_str::<Augmentation>("flop = 0.25").is_err());
}
