//! Which items may calibrate an ensemble, and which may judge it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::{Arguments, Member};
use crate::train::calibrate::LEAST_ITEMS;
use crate::train::dataset::{DatasetArguments, Item};
use crate::train::distil;
use crate::train::fit::digest;
use crate::train::split::prompt_key;

/// A file wherever its list is, and a prompt: one file may be judged for several.
type Identity = (PathBuf, String);

/// What the runs saw.
pub(super) struct Learnt {
    /// All that takes part in the runs and has a MOS.
    labelled: Vec<Item>,
    /// What an expert was trained on.
    trained_on: BTreeSet<Identity>,
    /// Names and prompts of that, of runs whose data are out of reach.
    by_name: BTreeSet<(String, String)>,
    prompts: BTreeSet<String>,
}

/// A data set that judges.
pub(in crate::train) struct Test {
    pub(in crate::train) name: String,
    pub(in crate::train) items: Vec<Item>,
    /// Its prompts, and how many of them experts were trained on with other files.
    pub(in crate::train) prompts: usize,
    pub(in crate::train) known_prompts: usize,
}

impl Learnt {
    /// Of `members`, whose data sets may be out of reach where `others` calibrate: items are then told apart by their
    /// names and prompts alone.
    pub(super) fn of(members: &[Member], others: bool) -> anyhow::Result<Self> {
        let mut sources: Vec<(&DatasetArguments, String)> = Vec::new();
        let (mut labelled, mut unlabelled, mut by_name) = (Vec::new(), Vec::new(), BTreeSet::new());
        for member in members {
            let mut read = || -> anyhow::Result<()> {
                if let Some(source) = &member.settings.data {
                    let found = match sources.iter().find(|(known, _)| *known == source) {
                        Some((_, found)) => found.clone(),
                        None => {
                            let items = source.read()?.items;
                            let found = digest(&items);
                            labelled.extend(items);
                            sources.push((source, found.clone()));
                            found
                        }
                    };
                    // A student's record is of what its teacher labelled too.
                    ensure!(
                        member.settings.teacher.is_some() || found == member.record.items_sha256,
                        "the data set {} is not what the run began with: other items, prompts or MOS; --data may name \
                         others to calibrate with",
                        member.record.dataset
                    );
                }
                if let Some(teacher) = &member.settings.teacher {
                    unlabelled.extend(distil::unlabelled(teacher)?.into_iter().flat_map(|(_, items)| items));
                }
                Ok(())
            };
            match read() {
                Ok(()) => {}
                Err(error) if others => {
                    eprintln!("expert {}: what it learnt from cannot be read: {error:#}", member.spec.name);
                    by_name.extend(member.trained_on.iter().cloned());
                }
                Err(error) => return Err(error.context(member.spec.name.clone())),
            }
        }
        let is_known = |item: &&Item| members.iter().any(|member| member.trained_on.contains(&named(item)));
        let trained_on = labelled.iter().chain(&unlabelled).filter(is_known).map(identity).collect();
        let prompts =
            members.iter().flat_map(|member| &member.trained_on).map(|(_, prompt)| prompt_key(prompt)).collect();
        labelled.retain(|item| item.mos.is_some());
        Ok(Self { labelled, trained_on, by_name, prompts })
    }

    fn trained_on(&self, item: &Item) -> bool {
        self.trained_on.contains(&identity(item)) || self.by_name.contains(&named(item))
    }
}

/// The items with a MOS that none of `members` was trained on: of --data, or of the data sets of the runs.
pub(super) fn calibration(arguments: &Arguments, members: &[Member], learnt: &Learnt) -> anyhow::Result<Vec<Item>> {
    let mut items = match arguments.data.chosen() {
        Some(data) => data.read()?.items,
        None => learnt.labelled.clone(),
    };
    let all = items.len();
    items.retain(|item| {
        let is_judged = members.iter().any(|member| member.spec.track == item.track);
        let is_known = members.iter().any(|member| member.trained_on.contains(&named(item)));
        is_judged && item.mos.is_some() && !is_known && !learnt.trained_on(item)
    });
    ensure!(
        !items.is_empty(),
        "every one of the {all} items was trained on, has no MOS or no expert: none is left to calibrate with"
    );
    for Member { spec, .. } in members {
        let count = items.iter().filter(|item| item.track == spec.track).count();
        ensure!(
            count >= LEAST_ITEMS,
            "expert {}: of the {} items that no expert was trained on, {count} are {track}s, too few to calibrate \
             with, expected {LEAST_ITEMS} or more; --data may name a list that has others",
            spec.name,
            items.len(),
            track = spec.track.name()
        );
    }
    Ok(items)
}

/// The data set at `path`, of which nothing was trained, chosen or calibrated on.
pub(super) fn test(
    arguments: &Arguments,
    path: &Path,
    members: &[Member],
    learnt: &Learnt,
    calibration: &[Item],
) -> anyhow::Result<Test> {
    let mut data = arguments.data_at(path).read()?;
    data.items.retain(|item| members.iter().any(|member| member.spec.track == item.track));
    let seen: BTreeSet<Identity> = learnt.labelled.iter().chain(calibration).map(identity).collect();
    let is_seen = |item: &&Item| seen.contains(&identity(item)) || learnt.trained_on(item);
    let count = data.items.iter().filter(is_seen).count();
    ensure!(
        count == 0,
        "--test: of the {} items of {}, {count} are among those that the experts were trained, chosen or calibrated on; \
         without --test the figures are of the items that calibrate, and the card says so",
        data.items.len(),
        data.list.display()
    );
    let prompts: BTreeSet<String> = data.items.iter().map(|item| prompt_key(&item.prompt)).collect();
    let known_prompts = prompts.intersection(&learnt.prompts).count();
    Ok(Test { name: data.name, items: data.items, prompts: prompts.len(), known_prompts })
}

fn named(item: &Item) -> (String, String) {
    (item.name.clone(), item.prompt.clone())
}

fn identity(item: &Item) -> Identity {
    (item.path.canonicalize().unwrap_or_else(|_| item.path.clone()), prompt_key(&item.prompt))
}
