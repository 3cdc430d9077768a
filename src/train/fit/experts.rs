//! Which experts one command trains, and in which folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::setup::check_split;
use super::{ALL, folds};
use crate::model::Track;
use crate::train::config::{self, Settings};
use crate::train::dataset::Item;

/// Whether `names` stands for several experts.
pub(super) fn are_several(names: &str) -> bool {
    names == ALL || names.contains(',')
}

/// The settings of each expert that `name` asks for, with the folder of its run: that expert of `settings` or, where
/// there is one, its only one, in `out`; or, where they are `several`, those that it names or all, each in a folder of
/// its name in `out`.
pub(super) fn chosen(
    settings: &Settings,
    name: Option<&str>,
    several: bool,
    out: &Path,
) -> anyhow::Result<Vec<(Settings, PathBuf)>> {
    let settings = config::all(settings)?;
    let names: Vec<&str> = settings.experts.iter().map(|expert| expert.name.as_str()).collect();
    let name = match (name, names.as_slice()) {
        (Some(ALL), _) => return every(&settings, out),
        (Some(names), _) if several => {
            let one = |name| anyhow::Ok((config::resolve(&settings, name)?, out.join(name)));
            return names.split(',').map(str::trim).map(one).collect();
        }
        (Some(name), _) | (None, &[name]) => name,
        (None, _) => {
            bail!("--expert: is missing; it is one of {}, or {ALL} for one after the other", names.join(", "))
        }
    };
    Ok(vec![(config::resolve(&settings, name)?, out.to_owned())])
}

/// The run of that index, with its folder, among those of all `experts`, of each of which there are as many as `folds`,
/// where there are any.
pub(super) fn only(
    experts: Vec<(Settings, PathBuf)>,
    folds: Option<usize>,
    index: usize,
) -> anyhow::Result<(Settings, PathBuf)> {
    let parts = folds.unwrap_or(1).max(1);
    let count = experts.len() * parts;
    let Some((mut settings, mut folder)) = experts.into_iter().nth(index / parts) else {
        bail!("--only: is {index}, but there are {count} runs, the last one has {}", count.saturating_sub(1));
    };
    if folds.is_some() {
        let fold = index % parts;
        settings.split.fold = Some(fold);
        folder.push(folds::folder(fold));
    }
    Ok((settings, folder))
}

/// Every expert of a track that there is something to learn of; says which are left out.
fn every(settings: &Settings, out: &Path) -> anyhow::Result<Vec<(Settings, PathBuf)>> {
    let (items, tracks) = tracks(settings)?;
    let mut chosen = Vec::new();
    for expert in &settings.experts {
        if tracks.contains(&expert.track) {
            check_split(settings, &items, expert.track).with_context(|| expert.name.clone())?;
            chosen.push((config::resolve(settings, &expert.name)?, out.join(&expert.name)));
        } else {
            eprintln!("{}: is skipped, as the data have no {} to learn from", expert.name, expert.track.name());
        }
    }
    ensure!(!chosen.is_empty(), "--expert {ALL}: the data have nothing that any of the experts could learn from");
    Ok(chosen)
}

/// The items, and the tracks of those that have a MOS or, with a teacher, of any.
fn tracks(settings: &Settings) -> anyhow::Result<(Vec<Item>, BTreeSet<Track>)> {
    let data = settings.data.as_ref().context("data: is missing")?;
    let dataset = data.scan()?;
    dataset.check(data.strict)?;
    let items = dataset.items;
    let is_useful = |item: &&Item| item.mos.is_some() || settings.teacher.is_some();
    let mut tracks: BTreeSet<Track> = items.iter().filter(is_useful).map(|item| item.track).collect();
    for unlabelled in settings.teacher.iter().flat_map(|teacher| &teacher.unlabelled) {
        tracks.extend(unlabelled.scan()?.items.iter().map(|item| item.track));
    }
    Ok((items, tracks))
}
