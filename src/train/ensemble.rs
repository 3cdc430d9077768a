//! `pcqa-train ensemble`: trained experts to a bundle that is calibrated for the settings that it will be served with
//! (Eq. 4), with its provenance and a model card.

mod members;
mod statistics;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use safetensors::Dtype as Stored;

pub(super) use self::members::Member;
use super::bundle::seal;
use super::calibrate::{LEAST_ITEMS, Statistics};
use super::card::{self, Card};
use super::config::device;
use super::dataset::{DatasetArguments, Item};
use super::evaluate;
use super::fit::{DataChoice, Machine};
use super::inspect::describe;
use super::staging::Staging;
use super::trial;
use crate::model::{Calibration, Dtype, Manifest, MosScale};

/// Bundles trained experts, calibrated on items that none of them was trained on.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folders of the experts' runs, in the order that the experts will have
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    data: DataChoice,
    /// Data set for the model card's figures, which nothing was trained, chosen or calibrated on; read as --data is.
    /// Without it, the figures are of the items that calibrate, and the card says so
    #[arg(long, value_name = "DIR|LIST")]
    test: Option<PathBuf>,
    /// The bundle's directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a bundle that is there already
    #[arg(long)]
    force: bool,
    /// The bundle's name. Default: that of --out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The bundle's version
    #[arg(long, value_name = "VERSION", default_value = "1")]
    bundle_version: String,
    /// Licence of the weights, as an SPDX expression
    #[arg(long, value_name = "TEXT", default_value = "NOASSERTION")]
    licence: String,
    /// Lower end of the data set's scale. Default: its lowest MOS
    #[arg(long, value_name = "MOS", allow_negative_numbers = true)]
    mos_min: Option<f64>,
    /// Upper end of the data set's scale. Default: its highest MOS
    #[arg(long, value_name = "MOS", allow_negative_numbers = true)]
    mos_max: Option<f64>,
    /// Number formats that it will be served in, with commas between them; each is measured. bf16 takes minutes on
    /// processors without it
    #[arg(long, value_name = "FORMAT", value_enum, value_delimiter = ',', default_values = ["f32", "bf16"])]
    dtypes: Vec<ServedDtype>,
    /// How the experts' weights are stored
    #[arg(long, value_enum, default_value_t = StoredDtype::F32)]
    store: StoredDtype,
    /// Take the last checkpoints, not the best ones
    #[arg(long)]
    last: bool,
    /// Where to compute: cpu, cuda, cuda:N, auto
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    machine: Machine,
}

/// Number formats that bundles are served in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ServedDtype {
    F32,
    Bf16,
}

impl ServedDtype {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

/// Number formats of weights in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoredDtype {
    F32,
    F16,
}

/// Runs the command.
///
/// # Errors
///
/// Runs that do not belong together, too few items, or anything that keeps the bundle from being served.
pub fn ensemble(arguments: &Arguments) -> anyhow::Result<()> {
    let device = device::choose(&arguments.device)?;
    let members = members::read(&arguments.runs, arguments.last)?;
    let held_out = calibration_items(arguments, &members)?;
    let staging = Staging::new(&arguments.out, arguments.force)?;
    let directory = staging.path();
    let stored = if arguments.store == StoredDtype::F16 { Stored::F16 } else { Stored::F32 };
    let mut manifest = draft(arguments, &members, &held_out)?;
    manifest.files = members::write_files(&mut manifest, &members, directory, stored)?;

    // Statistics need a bundle that loads, which needs statistics: these are 0 and 1 until they are known.
    let draft = seal(&manifest, directory)?;
    let measured = statistics::measure(&draft, device, &arguments.dtypes(), &held_out, &arguments.machine)?;
    manifest.calibration = measured.calibration;
    (manifest.mos.mean, manifest.mos.std) = (measured.line.mean, measured.line.std);
    let (low, high) = (manifest.mos.min, manifest.mos.max);
    if !(low..=high).contains(&manifest.mos.mean) {
        bail!("mos.mean: is {}, expected {low} to {high}; --mos-min and --mos-max set the scale", manifest.mos.mean);
    }
    let bundle = seal(&manifest, directory)?;
    trial::try_out(&bundle)?;

    let test = match &arguments.test {
        Some(path) => Some(arguments.data_at(path).read()?),
        None => None,
    };
    let items = test.as_ref().map_or(held_out.as_slice(), |test| test.items.as_slice());
    let figures = evaluate::figures(&bundle, items, arguments.machine.decoder())?;
    let card = Card {
        manifest: &manifest,
        members: &members,
        tracks: &figures,
        fits: &measured.fits,
        calibration_items: held_out.len(),
        test: test.as_ref().map(|test| test.name.as_str()),
    };
    let path = directory.join(card::NAME);
    fs::write(&path, card.render()).with_context(|| format!("{}: cannot be written", path.display()))?;
    staging.publish()?;
    print!("{}", describe(&bundle)?);
    for (track, rows) in &figures {
        println!(
            "\n{}, {}\n{}",
            track.name(),
            test.as_ref().map_or("held out", |test| test.name.as_str()),
            evaluate::table(rows)
        );
    }
    Ok(())
}

impl Arguments {
    fn dtypes(&self) -> Vec<Dtype> {
        self.dtypes.iter().map(|dtype| dtype.dtype()).collect()
    }

    /// The data set at `path`, read as --data is.
    fn data_at(&self, path: &Path) -> DatasetArguments {
        match self.data.chosen() {
            Some(data) => DatasetArguments { data: path.to_owned(), list: None, ..data },
            None => DatasetArguments::new(path),
        }
    }
}

/// The items with a MOS that none of `members` was trained on: of --data, or of the data sets of the runs.
fn calibration_items(arguments: &Arguments, members: &[Member]) -> anyhow::Result<Vec<Item>> {
    let mut sources: Vec<DatasetArguments> = arguments.data.chosen().into_iter().collect();
    if sources.is_empty() {
        for data in members.iter().filter_map(|member| member.settings.data.as_ref()) {
            if !sources.contains(data) {
                sources.push(data.clone());
            }
        }
    }
    let mut items = Vec::new();
    for source in &sources {
        items.extend(source.read()?.items);
    }
    let all = items.len();
    items.retain(|item| {
        let known = (item.name.clone(), item.prompt.clone());
        let is_judged = members.iter().any(|member| member.spec.track == item.track);
        is_judged && item.mos.is_some() && !members.iter().any(|member| member.trained_on.contains(&known))
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

/// The manifest with everything but what has to be measured; weights are still paths.
fn draft(arguments: &Arguments, members: &[Member], held_out: &[Item]) -> anyhow::Result<Manifest> {
    let first = members.first().context("--runs: is empty")?;
    let out = arguments.out.file_name().map(|name| name.to_string_lossy().into_owned());
    let known = members.iter().filter_map(|member| member.record.mos_range).flatten();
    let (low, high) = known
        .chain(held_out.iter().filter_map(|item| item.mos))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), mos| (low.min(mos), high.max(mos)));
    let mut datasets: Vec<&str> = members.iter().map(|member| member.record.dataset.as_str()).collect();
    datasets.dedup();
    let experts: Vec<_> = members.iter().map(|member| member.spec.clone()).collect();
    let dtypes: Vec<String> = arguments.dtypes().iter().map(|dtype| dtype.name().to_owned()).collect();
    let placeholders = experts.iter().flat_map(|expert| {
        [false, true].map(|tta| Calibration {
            expert: expert.name.clone(),
            tta,
            input_size: expert.input_size,
            dtypes: dtypes.clone(),
            mu: 0.0,
            sigma: 1.0,
        })
    });
    Ok(Manifest {
        schema: 1,
        name: arguments.name.clone().or(out).unwrap_or_else(|| "ensemble".to_owned()),
        version: arguments.bundle_version.clone(),
        trained: true,
        licence: arguments.licence.clone(),
        provenance: members::provenance(members),
        max_frames: first.settings.max_frames,
        mos: MosScale {
            dataset: datasets.join(", "),
            mean: first.record.normal.mean,
            std: first.record.normal.std,
            min: arguments.mos_min.unwrap_or(low),
            max: arguments.mos_max.unwrap_or(high),
        },
        text: first.settings.text.clone().context("text: is missing")?,
        calibration: placeholders.collect(),
        experts,
        files: BTreeMap::new(),
    })
}

/// One entry of Eq. 4's statistics.
fn entry(expert: &str, input_size: u32, tta: bool, dtype: Dtype, statistics: Statistics) -> Calibration {
    Calibration {
        expert: expert.to_owned(),
        tta,
        input_size,
        dtypes: vec![dtype.name().to_owned()],
        mu: statistics.mu,
        sigma: statistics.sigma,
    }
}
