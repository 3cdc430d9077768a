//! `pcqa-train evaluate`: how well a bundle, and any other system whose predictions are in a file, follow the opinions of
//! a data set; beside them what can be had without looking at a pixel.

mod outcome;
mod predictions;
mod scoring;
mod system;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use tch::Device;

use self::outcome::{Outcome, TrackOutcome};
use self::predictions::PredictionsFile;
use self::scoring::ScoringOptions;
pub use self::table::table;
use super::config::device;
use super::dataset::{DatasetArguments, Item};
use super::fit::Machine;
use super::loader::{LoaderOptions, decoder_beside_this};
use super::report::Thumbnails;
use super::statistics::Metrics;
use crate::model::{Bundle, Track};

/// Scores a labelled data set and says how well the scores follow its opinions.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(flatten)]
    data: DatasetArguments,
    /// Directory of the bundle that scores. Without it the one that is compiled in
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Score nothing: compare the systems of --predictions alone
    #[arg(long, requires = "predictions", conflicts_with_all = ["bundle", "predict_to", "no_tta", "shuffle_prompts", "device", "loaders"])]
    no_bundle: bool,
    /// Predictions of another system, which become a row of the table under NAME (default: the file's): CSV with the
    /// columns `name` and `score`, or these two without a header. May be given again
    #[arg(long, value_name = "[NAME=]FILE")]
    predictions: Vec<PredictionsFile>,
    /// Write the ensemble's scores on the bundle's scale, also of items without MOS, as CSV with the columns `name` and
    /// `score`
    #[arg(long, value_name = "FILE")]
    predict_to: Option<PathBuf>,
    /// Write a page for people to this directory: report.html, which needs nothing else
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Look at the frames as they are only, not at their mirror image too (test-time augmentation): half the work
    #[arg(long)]
    no_tta: bool,
    /// Also score every item for another item's prompt: a judge that reads prompts gets worse by it
    #[arg(long)]
    shuffle_prompts: bool,
    /// Write one JSON object with every figure instead of tables
    #[arg(long)]
    json: bool,
    /// Where to compute: cpu, cuda, cuda:N, auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads that read and decode. Default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    loaders: Option<u16>,
    /// The pcqa-decoder program, which opens videos
    #[arg(long, value_name = "FILE", default_value_os_t = decoder_beside_this())]
    decoder: PathBuf,
}

// Paragraphs are one line each: clap wraps them to the terminal.
const HELP: &str = "\
Rows: the ensemble and each of its experts alone, with and without test-time augmentation as far as the bundle is calibrated for it; the systems of --predictions; the floors. Each row is of the items that it has a prediction for.

Floors predict the MOS without a pixel: from the generator's name, from the prompt's words, from both. They are fitted on the same items, each predicted by a model that saw no item of its prompt. Public data sets let them reach an SRCC of 0.7: what a judge is worth is what it adds.

SRCC, PLCC, KRCC are Spearman's, Pearson's and Kendall's (tau-b) correlations. `fitted` is after the logistic curve of four parameters that fits best. RMSE is on the data set's scale. main = (SRCC + PLCC) / 2. `within generator` is the mean SRCC among the items of one generator. Below each figure is its 95 % interval, by resampling prompts.

Items that cannot be read are left out, listed on standard error and counted.

Examples:
  pcqa-train evaluate --data AGIQA-3K
  pcqa-train evaluate --data T2VQA-DB --bundle out/bundle --report out/report --json > out/figures.json
  pcqa-train evaluate --data AGIQA-3K --column mos_align --predictions StairIQA=stair.csv --predictions simple.csv
  pcqa-train evaluate --data unlabelled.csv --predict-to scores.csv";

/// Unreadable items that are named one by one.
const MOST_NAMED: usize = 20;

/// Runs the command.
///
/// # Errors
/// Data, predictions or a bundle that cannot be used, and places that cannot be written.
pub fn evaluate(arguments: &Arguments) -> anyhow::Result<()> {
    let data = arguments.data.read()?;
    let predictions = arguments.predictions.iter().map(PredictionsFile::read).collect::<anyhow::Result<Vec<_>>>()?;
    predictions.iter().try_for_each(|predictions| predictions.check_use(&data.items))?;
    let bundle = match (arguments.no_bundle, &arguments.bundle) {
        (true, _) => None,
        (false, Some(directory)) => Some(Bundle::open(directory).with_context(|| directory.display().to_string())?),
        (false, None) => Some(Bundle::demo()?),
    };

    let options = ScoringOptions {
        tta: !arguments.no_tta,
        shuffle_prompts: arguments.shuffle_prompts,
        device: if bundle.is_some() { device::choose(&arguments.device)? } else { Device::Cpu },
        loaders: arguments.loaders.map_or_else(|| LoaderOptions::default().threads, usize::from),
        decoder: arguments.decoder.clone(),
    };
    let (mut tracks, mut left_out) = (by_track(&data.items), Vec::new());
    if let Some(bundle) = &bundle {
        tracks.retain(|(track, items)| {
            let is_scored = has_expert(bundle, *track);
            if !is_scored {
                let sentence = format!("{} {}s, which no expert of the bundle scores", items.len(), track.name());
                eprintln!("left out: {sentence}");
                left_out.push(sentence);
            }
            is_scored
        });
        ensure!(!tracks.is_empty(), "{}: has nothing that the bundle scores", data.list.display());
    }
    let is_labelled = tracks.iter().any(|(_, items)| items.iter().any(|item| item.mos.is_some()));
    if !is_labelled && arguments.predict_to.is_none() {
        bail!(
            "{}: has no MOS, so there is nothing to compare with; --predict-to FILE writes scores",
            data.list.display()
        );
    }
    arguments.check_places()?;
    let mut outcome = Outcome::new(&data, bundle.as_ref(), left_out);
    for (track, items) in tracks {
        let mut systems = Vec::new();
        if let Some(bundle) = &bundle {
            let scored = scoring::score(bundle, track, &items, &options)?;
            ensure!(
                scored.failed.len() < items.len(),
                "none of the {} {}s can be scored; the first: {}",
                items.len(),
                track.name(),
                scored.failed[0].1
            );
            name_failures(&scored.failed, items.len());
            outcome
                .failed
                .extend(scored.failed.into_iter().map(|(index, problem)| (items[index].name.clone(), problem)));
            systems.extend(scored.systems);
        }
        systems.extend(predictions.iter().map(|predictions| predictions.system(&items)));
        outcome.tracks.push(TrackOutcome::new(track, items, systems));
    }
    let text = match (arguments.json, is_labelled) {
        (true, _) => serde_json::to_string_pretty(&outcome.json())? + "\n",
        (false, true) => outcome.text(),
        (false, false) => String::new(),
    };
    // First what needs no file, and whatever becomes of it: the scores may have taken hours.
    let printed = super::print(&text);
    if let Some(file) = &arguments.predict_to {
        predictions::write(file, &outcome)?;
    }
    if let Some(directory) = &arguments.report {
        let mut thumbnails = Thumbnails::new(arguments.decoder.clone());
        let path = super::report::write(directory, &outcome.report(), &mut thumbnails)?;
        eprintln!("report: {}", path.display());
    }
    printed.context("the figures cannot be printed")
}

impl Arguments {
    /// Whether there is a place for what is to be written, before anything is scored.
    fn check_places(&self) -> anyhow::Result<()> {
        if let Some(directory) = &self.report {
            fs::create_dir_all(directory).with_context(|| format!("{}: cannot be made", directory.display()))?;
        }
        let is_place = self.predict_to.as_ref().is_none_or(|file| !file.is_dir());
        ensure!(
            is_place,
            "--predict-to: {}: is a folder",
            self.predict_to.as_deref().unwrap_or(Path::new("")).display()
        );
        let folder = self.predict_to.as_ref().and_then(|file| file.parent());
        if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
            ensure!(folder.is_dir(), "--predict-to: {}: is no folder", folder.display());
        }
        Ok(())
    }
}

/// Whether `bundle` scores items of `track`.
fn has_expert(bundle: &Bundle, track: Track) -> bool {
    bundle.manifest().experts.iter().any(|expert| expert.track == track)
}

/// One track's table: every system's name and figures.
pub(super) type TrackFigures = (Track, Vec<(String, Metrics)>);

/// The rows of the table of `bundle` on `items`, track by track: its experts together and alone, without and with
/// test-time augmentation, with other items' prompts, and the floors.
///
/// # Errors
/// A bundle or items that cannot be used.
pub(super) fn figures(
    bundle: &Bundle,
    items: &[Item],
    device: Device,
    machine: &Machine,
) -> anyhow::Result<Vec<TrackFigures>> {
    let (loaders, decoder) = (machine.loaders(), machine.decoder());
    let options = ScoringOptions { tta: true, shuffle_prompts: true, device, loaders, decoder };
    let mut all = Vec::new();
    for (track, items) in by_track(items) {
        if !has_expert(bundle, track) {
            continue;
        }
        let scored = scoring::score(bundle, track, &items, &options)?;
        name_failures(&scored.failed, items.len());
        all.push((track, TrackOutcome::new(track, items, scored.systems).rows()));
    }
    Ok(all)
}

/// The items of each track that the data set has.
fn by_track(items: &[Item]) -> Vec<(Track, Arc<Vec<Item>>)> {
    let tracks: BTreeSet<Track> = items.iter().map(|item| item.track).collect();
    let of = |track| Arc::new(items.iter().filter(|item| item.track == track).cloned().collect::<Vec<_>>());
    tracks.into_iter().map(|track| (track, of(track))).collect()
}

/// Says on stderr which items have no score.
fn name_failures(failed: &[(usize, String)], items: usize) {
    failed.iter().take(MOST_NAMED).for_each(|(_, problem)| eprintln!("{problem}"));
    if failed.len() > MOST_NAMED {
        eprintln!("and {} more", failed.len() - MOST_NAMED);
    }
    if !failed.is_empty() {
        eprintln!("left out: {} of {items} items", failed.len());
    }
}
