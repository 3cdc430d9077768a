//! `pcqa-train ensemble`: trained experts to a bundle that is calibrated for the settings that it will be served with
//! (Eq. 4), with its provenance and a model card.

mod items;
mod members;
mod statistics;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use safetensors::Dtype as Stored;

pub(super) use self::items::Test;
use self::items::{Learnt, calibration, test};
pub(super) use self::members::Member;
use super::bundle::seal;
use super::calibrate::Statistics;
use super::card::{self, Card};
use super::config::device;
use super::dataset::{DatasetArguments, Item};
use super::evaluate;
use super::fit::{DataChoice, Machine};
use super::inspect::describe;
use super::staging::Staging;
use super::trial;
use crate::model::{Calibration, Dtype, Manifest, MosScale, Track};

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
    /// Whose scale the bundle's is: the line from z to MOS is that of this track's items alone. Not needed where the data
    /// sets of both tracks have one scale
    #[arg(long, value_name = "TRACK", value_enum)]
    mos_track: Option<MosTrack>,
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

/// Tracks that a scale is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MosTrack {
    Image,
    Video,
}

impl MosTrack {
    fn track(self) -> Track {
        match self {
            Self::Image => Track::Image,
            Self::Video => Track::Video,
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
    let learnt = Learnt::of(&members, arguments.data.chosen().is_some())?;
    let held_out = calibration(arguments, &members, &learnt)?;
    let test = arguments.test.as_ref().map(|path| test(arguments, path, &members, &learnt, &held_out)).transpose()?;
    let staging = Staging::new(&arguments.out, arguments.force)?;
    let directory = staging.path();
    let stored = if arguments.store == StoredDtype::F16 { Stored::F16 } else { Stored::F32 };
    let mut manifest = draft(arguments, &members, &held_out)?;
    manifest.files = members::write_files(&mut manifest, &members, directory, stored)?;

    // Statistics need a bundle that loads, which needs statistics: these are 0 and 1 until they are known.
    let draft = seal(&manifest, directory)?;
    let measured = statistics::measure(&draft, device, &arguments.dtypes(), &held_out, &arguments.machine)?;
    let scale = arguments.mos_track.map(MosTrack::track);
    let line = measured.line(scale)?;
    manifest.calibration = measured.calibration;
    (manifest.mos.mean, manifest.mos.std) = (line.mean, line.std);
    let (low, high) = (manifest.mos.min, manifest.mos.max);
    if !(low..=high).contains(&manifest.mos.mean) {
        bail!("mos.mean: is {}, expected {low} to {high}; --mos-min and --mos-max set the scale", manifest.mos.mean);
    }
    let bundle = seal(&manifest, directory)?;
    trial::try_out(&bundle)?;

    let items = test.as_ref().map_or(held_out.as_slice(), |test| test.items.as_slice());
    let figures = evaluate::figures(&bundle, items, device, &arguments.machine)?;
    let card = Card {
        manifest: &manifest,
        members: &members,
        tracks: &figures,
        fits: &measured.fits,
        calibration_items: held_out.len(),
        test: test.as_ref(),
        scale,
    };
    let path = directory.join(card::NAME);
    fs::write(&path, card.render()).with_context(|| format!("{}: cannot be written", path.display()))?;
    staging.publish()?;
    let mut text = describe(&bundle)?;
    for (track, rows) in &figures {
        let data = test.as_ref().map_or("held out", |test| test.name.as_str());
        text += &format!("\n{}, {data}\n{}\n", track.name(), evaluate::table(rows));
        if let Some(sentence) = other_scale(scale, *track) {
            text += &format!("{sentence}\n");
        }
    }
    Ok(super::print(&text)?)
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

/// What is to be said of figures of `track` in a bundle whose scale is that of `scale` alone.
pub(super) fn other_scale(scale: Option<Track>, track: Track) -> Option<String> {
    let scale = scale.filter(|scale| *scale != track)?;
    Some(format!(
        "Scores of {}s are on the scale of {}s here, not on that of their own MOS: RMSE compares two scales.",
        track.name(),
        scale.name()
    ))
}

/// The manifest with everything but what has to be measured; weights are still paths.
fn draft(arguments: &Arguments, members: &[Member], held_out: &[Item]) -> anyhow::Result<Manifest> {
    let first = members.first().context("--runs: is empty")?;
    let out = arguments.out.file_name().map(|name| name.to_string_lossy().into_owned());
    let wanted = arguments.mos_track.map(MosTrack::track);
    let counts = |track: Track| wanted.is_none_or(|wanted| wanted == track);
    let of_scale = || members.iter().filter(|member| counts(member.spec.track));
    let scale = of_scale().next().with_context(|| {
        let track = wanted.map_or("", Track::name);
        format!("--mos-track: is {track}, but there is no {track} expert")
    })?;
    let known = of_scale().filter_map(|member| member.record.mos_range).flatten();
    let (low, high) = known
        .chain(held_out.iter().filter(|item| counts(item.track)).filter_map(|item| item.mos))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), mos| (low.min(mos), high.max(mos)));
    let mut datasets: Vec<&str> = of_scale().map(|member| member.record.dataset.as_str()).collect();
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
            mean: scale.record.normal.mean,
            std: scale.record.normal.std,
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
