//! `pcqa-train check`: what a data set is, before anybody trains on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use comfy_table::{Table, presets};

use super::dataset::{Dataset, DatasetArguments, Item, Kind, Problem};
use super::loader::{Loader, LoaderOptions, decoder_beside_this};
use super::progress;
use super::split::prompt_key;
use crate::model::Track;

/// Problems that are printed; a file gets all of them.
const SHOWN: usize = 20;
/// Bins of the histogram, and the length of its longest bar in characters.
const BINS: usize = 10;
const BAR: usize = 40;

/// What to check.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// The data set.
    #[command(flatten)]
    pub dataset: DatasetArguments,
    /// Write every problem to this file, one a line; only the first 20 are printed
    #[arg(long, value_name = "FILE")]
    pub problems: Option<PathBuf>,
    /// Decode every file as well. Takes as long as an epoch's loading
    #[arg(long)]
    pub decode: bool,
    /// The `pcqa-decoder` executable, for videos. Default: beside this one
    #[arg(long, value_name = "FILE", default_value_os_t = decoder_beside_this(), hide_default_value = true)]
    pub decoder: PathBuf,
}

/// Reads the data set, and decodes it where that is asked for. Returns what is in it and what is wrong with it, in
/// words, and the error that [`Dataset::check`] makes of that.
///
/// # Errors
/// A list that cannot be read at all; a file for the problems that cannot be written.
pub fn check(arguments: &Arguments) -> anyhow::Result<(String, anyhow::Result<()>)> {
    let mut dataset = arguments.dataset.scan()?;
    if arguments.decode {
        decode(&mut dataset, &arguments.decoder)?;
    }
    if let Some(file) = &arguments.problems {
        write_problems(&dataset, file).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    Ok((describe(&dataset)?, dataset.check(arguments.dataset.strict)))
}

/// Moves the items that do not decode to the problems.
fn decode(dataset: &mut Dataset, decoder: &Path) -> anyhow::Result<()> {
    let items = Arc::new(std::mem::take(&mut dataset.items));
    let options =
        LoaderOptions { sides: vec![16], cache_bytes: 0, decoder: decoder.to_owned(), ..LoaderOptions::default() };
    let loader = Loader::new(items.clone(), options)?;
    let bar = progress::count("decoding", items.len() as u64);
    let mut failed = BTreeMap::new();
    let batches = (0..items.len()).collect::<Vec<_>>().chunks(16).map(<[usize]>::to_vec).collect();
    for loaded in loader.run(batches, 0) {
        bar.inc((loaded.indices.len() + loaded.failed.len()) as u64);
        failed.extend(loaded.failed);
    }
    bar.finish_and_clear();
    drop(loader);
    for (index, item) in Arc::unwrap_or_clone(items).into_iter().enumerate() {
        match failed.remove(&index) {
            None => dataset.items.push(item),
            Some(text) => dataset.problems.entries.push(Problem { line: None, kind: Kind::Media, text }),
        }
    }
    Ok(())
}

fn write_problems(dataset: &Dataset, file: &Path) -> std::io::Result<()> {
    let lines: Vec<String> = dataset.problems.entries.iter().map(|problem| format!("{problem}\n")).collect();
    fs::write(file, lines.concat())
}

fn describe(dataset: &Dataset) -> anyhow::Result<String> {
    let mut text = String::new();
    let Dataset { name, list, items, problems, .. } = dataset;
    writeln!(text, "data set    {name}")?;
    writeln!(text, "list        {}", list.display())?;
    writeln!(text, "rows        {}, {} usable", problems.rows, items.len())?;
    let scores: Vec<f64> = items.iter().filter_map(|item| item.mos).collect();
    match (&dataset.column, Spread::of(&scores)) {
        (Some(column), Some(Spread { min, max, mean, deviation })) => writeln!(
            text,
            "mos         column {column}: {min:.3} to {max:.3}, mean {mean:.3}, standard deviation {deviation:.3}"
        )?,
        // Without items there is nothing to say of them.
        _ if items.is_empty() => {}
        _ => writeln!(text, "mos         none: these items can be predicted, not trained on")?,
    }
    for note in &problems.notes {
        writeln!(text, "note        {note}")?;
    }
    if !items.is_empty() {
        writeln!(text, "\n{}", counts(items))?;
    }
    if let Some(Spread { min, max, .. }) = Spread::of(&scores) {
        writeln!(text, "\n{}", histogram(&scores, min, max))?;
    }
    if items.iter().any(|item| item.generator.is_some()) {
        writeln!(text, "\n{}", generators(items))?;
    }
    if let Some(summary) = problems.summary() {
        writeln!(text, "\n{summary}")?;
        problems.entries.iter().take(SHOWN).try_for_each(|problem| writeln!(text, "{problem}"))?;
        if let Some(rest) = problems.entries.len().checked_sub(SHOWN).filter(|&rest| rest > 0) {
            writeln!(text, "and {rest} more; --problems FILE writes all of them")?;
        }
    }
    Ok(text)
}

fn counts(items: &[Item]) -> Table {
    let mut table = table(&["track", "items", "with mos", "prompts", "items per prompt", "generators", "groups"]);
    let tracks = [Track::Image, Track::Video].into_iter().map(|track| (track.name(), Some(track)));
    for (name, track) in tracks.chain([("all", None)]) {
        let chosen: Vec<&Item> = items.iter().filter(|item| track.is_none_or(|track| item.track == track)).collect();
        if chosen.is_empty() || chosen.len() == items.len() && track.is_none() && !is_mixed(items) {
            continue;
        }
        let mut prompts: BTreeMap<String, usize> = BTreeMap::new();
        chosen.iter().for_each(|item| *prompts.entry(prompt_key(&item.prompt)).or_default() += 1);
        let (fewest, most) = (prompts.values().min(), prompts.values().max());
        let generators: BTreeSet<_> = chosen.iter().filter_map(|item| item.generator.as_ref()).collect();
        let groups: BTreeSet<_> = chosen.iter().filter_map(|item| item.group.as_ref()).collect();
        table.add_row([
            name.to_owned(),
            chosen.len().to_string(),
            chosen.iter().filter(|item| item.mos.is_some()).count().to_string(),
            prompts.len().to_string(),
            format!("{} to {}", fewest.unwrap_or(&0), most.unwrap_or(&0)),
            generators.len().to_string(),
            groups.len().to_string(),
        ]);
    }
    table
}

fn is_mixed(items: &[Item]) -> bool {
    items.windows(2).any(|pair| matches!(pair, [a, b] if a.track != b.track))
}

fn histogram(scores: &[f64], min: f64, max: f64) -> Table {
    let width = (max - min) / BINS as f64;
    // A MOS that all have is one bin.
    let mut bins = vec![0usize; if width > 0.0 { BINS } else { 1 }];
    let last = bins.len() - 1;
    for score in scores {
        bins[(((score - min) / width) as usize).min(last)] += 1;
    }
    let highest = bins.iter().copied().max().unwrap_or(1).max(1);
    let mut table = table(&["mos from", "to", "items", ""]);
    for (bin, &count) in bins.iter().enumerate() {
        let low = min + width * bin as f64;
        table.add_row([
            format!("{low:.2}"),
            format!("{:.2}", low + width),
            count.to_string(),
            "#".repeat(count * BAR / highest),
        ]);
    }
    table
}

fn generators(items: &[Item]) -> Table {
    let mut by_generator: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in items {
        by_generator.entry(item.generator.as_deref().unwrap_or("unknown")).or_default().push(item);
    }
    let mut table = table(&["generator", "items", "mean mos", "standard deviation"]);
    for (generator, items) in by_generator {
        let scores: Vec<f64> = items.iter().filter_map(|item| item.mos).collect();
        let (mean, deviation) = Spread::of(&scores).map_or_else(Default::default, |spread| {
            (format!("{:.3}", spread.mean), format!("{:.3}", spread.deviation))
        });
        table.add_row([generator.to_owned(), items.len().to_string(), mean, deviation]);
    }
    table
}

/// Where numbers lie.
struct Spread {
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
}

impl Spread {
    fn of(numbers: &[f64]) -> Option<Self> {
        let min = numbers.iter().copied().reduce(f64::min)?;
        let max = numbers.iter().copied().reduce(f64::max)?;
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count;
        Some(Self { min, max, mean, deviation: variance.sqrt() })
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
