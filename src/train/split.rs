//! Which items are held out. What belongs together by the chosen rule stays together; a split depends on the seed and
//! on what is in the list, not on the list's order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::ValueEnum;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::dataset::Item;
use super::seed::rng;

/// What a split must not tear apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// Nothing: the split of most published figures, which knows the prompts and generators it is tested on.
    Random,
    /// Items of one prompt, whatever its capitals and spaces: tested on prompts that were never seen.
    Prompt,
    /// Items of one generator: tested on generators that were never seen. All items of unknown generator are together.
    Generator,
    /// Items of one group, as the list gives it; an item without a group is alone.
    Group,
}

/// Splits `items` into those to train on and those held out, by index, ascending. Whole units are drawn until about
/// `fraction` (0 to 1) of the items is held out: as near to it as the units allow, in the order in which they were
/// drawn. At least one unit is on each side where there are two and `fraction` is neither 0 nor 1.
pub fn hold_out(items: &[Item], by: SplitBy, fraction: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let target = items.len() as f64 * fraction.clamp(0.0, 1.0);
    let units = shuffled_units(items, by, seed);
    let must_differ = fraction > 0.0 && fraction < 1.0 && units.len() > 1;
    let mut held = Vec::new();
    let mut left = units.len();
    for unit in units {
        let with = (held.len() + unit.len()) as f64;
        let is_nearer = (with - target).abs() < (held.len() as f64 - target).abs();
        let is_last_chance = must_differ && held.is_empty() && left == 1;
        let leaves_none = must_differ && held.len() + unit.len() == items.len();
        if (is_nearer || is_last_chance) && !leaves_none {
            held.extend(unit);
        }
        left -= 1;
    }
    held.sort_unstable();
    let mut is_held = vec![false; items.len()];
    held.iter().for_each(|&index| is_held[index] = true);
    ((0..items.len()).filter(|&index| !is_held[index]).collect(), held)
}

/// `k` disjoint parts of about equal size, by index, ascending, which together are all items: what each fold of a
/// cross-validation holds out. With fewer units than `k`, the last parts are empty.
pub fn folds(items: &[Item], by: SplitBy, k: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut units = shuffled_units(items, by, seed);
    // The largest first, each to the smallest part so far: parts differ by one small unit at most.
    units.sort_by_key(|unit| std::cmp::Reverse(unit.len()));
    let mut parts = vec![Vec::new(); k];
    for unit in units {
        if let Some(smallest) = parts.iter_mut().min_by_key(|part| part.len()) {
            smallest.extend(unit);
        }
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    parts
}

/// Those of `others`, which are of other data sets, that may be trained on where `held_out` of `items` are held out: not
/// the same files, and nothing that must stay together with one of them. Names are each data set's own and say nothing.
pub fn apart(others: Vec<Item>, items: &[Item], held_out: &[usize], by: SplitBy) -> Vec<Item> {
    let file = |item: &Item| item.path.canonicalize().unwrap_or_else(|_| item.path.clone());
    let unit = |item: &Item| match by {
        SplitBy::Random => None,
        SplitBy::Group => item.group.clone(),
        SplitBy::Prompt | SplitBy::Generator => Some(key(item, by)),
    };
    let held: Vec<&Item> = held_out.iter().filter_map(|&index| items.get(index)).collect();
    let files: BTreeSet<PathBuf> = held.iter().map(|item| file(item)).collect();
    let units: BTreeSet<String> = held.iter().filter_map(|item| unit(item)).collect();
    let is_apart = |item: &Item| !files.contains(&file(item)) && !unit(item).is_some_and(|unit| units.contains(&unit));
    others.into_iter().filter(is_apart).collect()
}

/// The indices of all items, those together that must stay together.
fn shuffled_units(items: &[Item], by: SplitBy, seed: u64) -> Vec<Vec<usize>> {
    // In the order of their keys, so that the list's own order does not matter.
    let mut units: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        units.entry(key(item, by)).or_default().push(index);
    }
    let mut units: Vec<Vec<usize>> = units.into_values().collect();
    units.shuffle(&mut rng(seed, "split"));
    units
}

fn key(item: &Item, by: SplitBy) -> String {
    // The file, and the prompt where one file was judged for several.
    let itself = || format!("{}\0{}", item.name, item.prompt);
    match by {
        SplitBy::Random => itself(),
        SplitBy::Prompt => prompt_key(&item.prompt),
        SplitBy::Generator => item.generator.clone().unwrap_or_default(),
        SplitBy::Group => item.group.as_ref().map_or_else(itself, |group| format!("\0{group}")),
    }
}

/// What two spellings of one prompt have in common: lower case, single spaces.
pub fn prompt_key(prompt: &str) -> String {
    prompt.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
