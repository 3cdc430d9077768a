//! Rows to items: what is there, what is a number, what comes twice.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Item;
use super::folder::{Folder, ending_track};
use super::format::{Format, Layout};
use super::problems::{Kind, Problems};
use super::table::Row;
use crate::model::Track;
use crate::train::progress;

/// Characters of a bad MOS that are shown: columns may be shifted, and a prompt be in its place.
const SHOWN: usize = 20;

/// Far beyond any scale: a greater number is a mistake, and would drown every other in sums.
const LARGEST_MOS: f64 = 1e6;

/// The usable rows. Every other one becomes an entry of `problems`.
pub(super) fn into_items(rows: Vec<Row>, layout: &Layout, folder: &mut Folder, problems: &mut Problems) -> Vec<Item> {
    let bar = progress::count("looking for files", rows.len() as u64);
    let mut items = Vec::with_capacity(rows.len());
    let mut seen: HashMap<(PathBuf, String), (u64, Option<f64>)> = HashMap::new();
    for row in bar.wrap_iter(rows.into_iter()) {
        let line = row.line;
        match into_item(row, layout, folder) {
            Err((kind, text)) => problems.add(line, kind, text),
            Ok(item) => match seen.get(&(item.path.clone(), item.prompt.clone())) {
                Some((first, mos)) => {
                    let other = if *mos == item.mos { "" } else { ", with another MOS" };
                    problems.add(line, Kind::Duplicate, format!("{} is on line {first} already{other}", item.name));
                }
                None => {
                    seen.insert((item.path.clone(), item.prompt.clone()), (line, item.mos));
                    items.push(item);
                }
            },
        }
    }
    bar.finish_and_clear();
    drop_false_generators(&mut items, layout, problems);
    items
}

fn into_item(row: Row, layout: &Layout, folder: &mut Folder) -> Result<Item, (Kind, String)> {
    let cells = row.cells.map_err(|problem| (Kind::Row, problem))?;
    let cell = |column: usize| cells.get(column).map(String::as_str).unwrap_or_default();
    let optional = |column: Option<usize>| column.map(cell).filter(|text| !text.is_empty()).map(str::to_owned);
    let name = cell(layout.path).to_owned();
    if name.is_empty() {
        return Err((Kind::Row, "names no file".to_owned()));
    }
    let prompt = cell(layout.prompt).to_owned();
    if prompt.is_empty() {
        return Err((Kind::Prompt, name));
    }
    let mos = match optional(layout.mos) {
        None if layout.mos.is_some() && layout.format != Format::Table => {
            return Err((Kind::Mos, format!("{name} has none")));
        }
        None => None,
        Some(text) => match text.parse::<f64>() {
            Ok(mos) if mos.abs() <= LARGEST_MOS => Some(mos),
            _ => {
                let start: String = text.chars().take(SHOWN).collect();
                return Err((Kind::Mos, format!("{name} has {start:?}, no number of at most {LARGEST_MOS}")));
            }
        },
    };
    let path = folder.find(&name).map_err(|problem| (Kind::File, problem))?;
    let Some(track) = ending_track(&path) else {
        return Err((Kind::Ending, name));
    };
    // A data set of videos has its GIFs to be moving.
    let is_clip =
        layout.format == Format::T2vqaDb && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gif"));
    Ok(Item {
        generator: optional(layout.generator).or_else(|| layout.format.generator_in(&name)),
        group: optional(layout.group),
        track: if is_clip { Track::Video } else { track },
        name,
        path,
        prompt,
        mos,
    })
}

/// What stands before the number in a file's name is no generator where most files have one of their own.
fn drop_false_generators(items: &mut [Item], layout: &Layout, problems: &mut Problems) {
    if layout.generator.is_some() {
        return;
    }
    let mut files: HashMap<&str, usize> = HashMap::new();
    items.iter().flat_map(|item| &item.generator).for_each(|generator| *files.entry(generator).or_default() += 1);
    let (named, alone) = (files.values().sum::<usize>(), files.values().filter(|&&count| count == 1).count());
    if 2 * alone > named {
        items.iter_mut().for_each(|item| item.generator = None);
        problems.notes.push("the file names do not say which generator made what".to_owned());
    }
}
