//! Splits keep together what belongs together, whatever the list looks like.

use std::collections::BTreeSet;

use pcqa::train::{Item, SplitBy, apart, folds, hold_out, rng, seed};
use proptest::prelude::*;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::support::item;

const ALL: [SplitBy; 4] = [SplitBy::Random, SplitBy::Prompt, SplitBy::Generator, SplitBy::Group];

fn items() -> impl Strategy<Value = Vec<Item>> {
    let one = (0..8u32, proptest::option::of(0..4u32), proptest::option::of(0..5u32), any::<bool>());
    proptest::collection::vec(one, 0..60).prop_map(|rows| {
        let build = |(number, (prompt, generator, group, loud)): (usize, (u32, Option<u32>, Option<u32>, bool))| {
            let prompt = if loud { format!(" PROMPT  {prompt}") } else { format!("prompt {prompt}") };
            let generator = generator.map(|generator| generator.to_string());
            let group = group.map(|group| group.to_string());
            item(&format!("{number}.png"), &prompt, generator.as_deref(), group.as_deref())
        };
        rows.into_iter().enumerate().map(build).collect()
    })
}

/// What two items must not share over a split.
fn key(item: &Item, by: SplitBy) -> String {
    match by {
        SplitBy::Random => item.name.clone(),
        SplitBy::Prompt => item.prompt.trim().to_lowercase().replace("  ", " "),
        SplitBy::Generator => format!("{:?}", item.generator),
        SplitBy::Group => item.group.clone().unwrap_or_else(|| format!("alone {}", item.name)),
    }
}

fn keys(items: &[Item], indices: &[usize], by: SplitBy) -> BTreeSet<String> {
    indices.iter().map(|&index| key(&items[index], by)).collect()
}

fn names(items: &[Item], indices: &[usize]) -> BTreeSet<String> {
    indices.iter().map(|&index| items[index].name.clone()).collect()
}

proptest! {
    #[test]
    fn of_other_data_nothing_that_belongs_with_held_out_items_is_left(
        items in items(),
        others in items(),
        fraction in 0.05..0.95f64,
    ) {
        for by in ALL {
            let (_, held) = hold_out(&items, by, fraction, 1);
            let left = apart(others.clone(), &items, &held, by);
            let held: Vec<&Item> = held.iter().map(|&index| &items[index]).collect();
            for item in &others {
                let belongs = held.iter().any(|held| {
                    let same = by != SplitBy::Random && key(held, by) == key(item, by);
                    held.path == item.path || (same && (by != SplitBy::Group || item.group.is_some()))
                });
                prop_assert_eq!(left.contains(item), !belongs, "{:?} {:?}", by, item);
            }
        }
    }

    #[test]
    fn two_sides_share_no_unit(items in items(), fraction in 0.05..0.95f64, seed in any::<u64>()) {
        for by in ALL {
            let (train, held) = hold_out(&items, by, fraction, seed);
            let mut all = [train.clone(), held.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..items.len()).collect::<Vec<_>>());
            prop_assert!(train.is_sorted() && held.is_sorted());
            let (left, right) = (keys(&items, &train, by), keys(&items, &held, by));
            prop_assert!(left.is_disjoint(&right));
            let units = left.len() + right.len();
            prop_assert!(units < 2 || !(left.is_empty() || right.is_empty()), "{:?}: {:?} {:?}", by, left, right);
            if by == SplitBy::Random && units >= 2 {
                let target = items.len() as f64 * fraction;
                let allowed = target.round().clamp(1.0, items.len() as f64 - 1.0);
                prop_assert!((held.len() as f64 - allowed).abs() <= 1.0, "{} of {}", held.len(), target);
            }
        }
    }

    #[test]
    fn the_lists_order_does_not_matter(items in items(), seed in any::<u64>()) {
        let mut shuffled = items.clone();
        shuffled.shuffle(&mut rng(seed, "test"));
        for by in ALL {
            let (_, held) = hold_out(&items, by, 0.3, seed);
            let (_, again) = hold_out(&shuffled, by, 0.3, seed);
            prop_assert_eq!(names(&items, &held), names(&shuffled, &again));
        }
    }

    #[test]
    fn folds_hold_out_everything_once(items in items(), k in 1..7usize, seed in any::<u64>()) {
        for by in ALL {
            let parts = folds(&items, by, k, seed);
            prop_assert_eq!(parts.len(), k);
            let mut all = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..items.len()).collect::<Vec<_>>());
            let distinct: BTreeSet<String> = items.iter().map(|item| key(item, by)).collect();
            let over_parts: usize = parts.iter().map(|part| keys(&items, part, by).len()).sum();
            prop_assert_eq!(over_parts, distinct.len(), "no unit is in two parts");
            if by == SplitBy::Random {
                let sizes = parts.iter().map(Vec::len);
                prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            }
        }
    }
}

#[test]
fn another_seed_is_another_split() {
    let items: Vec<Item> = (0..100).map(|number| item(&format!("{number}.png"), "cat", None, None)).collect();
    let held = |seed| hold_out(&items, SplitBy::Random, 0.2, seed).1;
    assert_eq!(held(1), held(1));
    assert_ne!(held(1), held(2));
    assert_eq!(held(1).len(), 20);
}

#[test]
fn extremes_hold_out_nothing_and_everything() {
    let items: Vec<Item> = (0..5).map(|number| item(&format!("{number}.png"), "cat", None, None)).collect();
    assert_eq!(hold_out(&items, SplitBy::Random, 0.0, 1), ((0..5).collect(), vec![]));
    assert_eq!(hold_out(&items, SplitBy::Random, 1.0, 1), (vec![], (0..5).collect()));
    assert_eq!(hold_out(&[], SplitBy::Prompt, 0.5, 1), (vec![], vec![]));
}

#[test]
fn named_generators_are_independent_and_stay_what_they_are() {
    assert_ne!(seed(1, "a"), seed(1, "b"));
    assert_ne!(seed(1, "a"), seed(2, "a"));
    assert_ne!(rng(1, "a").random::<u64>(), rng(1, "b").random::<u64>());
    // Runs that were begun with another version must go on with this one.
    assert_eq!(seed(0, ""), 0x7a0b_81a1_f570_55af);
}
