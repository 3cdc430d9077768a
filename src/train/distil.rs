//! Distillation (section 4.5.4): what an ensemble says of every item, for a student to learn. A student of any backbone
//! is served as an ensemble of one expert.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;

use super::checkpoint::replace;
use super::config::TeacherSettings;
use super::dataset::{Dataset, DatasetArguments, Item};
use super::fit::{self, Machine, Normal};
use super::judging::Judge;
use super::loader::{Loader, LoaderOptions};
use super::progress;
use crate::model::{Bundle, Device, Dtype, LoadOptions, Track};

// Paragraphs are one line each: clap wraps them to the terminal.
const HELP: &str = "\
The loss of an item is the squared error against its normalised MOS and against the teacher's z, weighted by --share; of an item without MOS, against z alone. All of `fit` holds: settings, split, checkpoints, --resume. The teacher is asked once, before the first step; what it says is in teacher.csv.

--unlabelled takes folders and lists as --data does, with or without a column mos. Files and prompts (split.by) that are held out are left out of them. Held-out items are judged by their MOS, where there is none by the teacher's opinion.

The student begins as any expert does: as the settings' `bundle` has it, for example the one that `pcqa-train export --out start` writes, or with towers and a backbone of its own ([text], [[experts]]). It is served as any ensemble, of one expert:
  pcqa-train distil --data AIGIQA-20K --unlabelled renders/ --config student.toml --expert image_convnext --out student
  pcqa-train ensemble --runs student --out student-bundle
  pcqa-server --bundle student-bundle";

/// Trains a student: `fit`, with an ensemble's opinion as a second goal.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
#[group(id = "distil")]
pub struct Arguments {
    /// Directory of the ensemble's bundle. Without it the one that is compiled in
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// Share of the teacher's z in the loss of items that have a MOS as well, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    share: f64,
    /// Ask the teacher about the frames as they are only, not about their mirror image too
    #[arg(long)]
    no_tta: bool,
    /// Further data sets, of which only the teacher's opinion is learnt
    #[arg(long, value_name = "DIR|LIST", num_args = 1..)]
    unlabelled: Vec<PathBuf>,
    #[command(flatten)]
    fit: fit::Arguments,
}

/// Runs the command.
///
/// # Errors
///
/// As `fit`, and a teacher that cannot be asked.
pub fn distil(arguments: &Arguments) -> anyhow::Result<()> {
    let bundle = match &arguments.teacher {
        Some(path) => Some(path.canonicalize().with_context(|| format!("{}: cannot be read", path.display()))?),
        None => None,
    };
    let unlabelled = arguments.unlabelled.iter().map(|data| fit::absolute(&DatasetArguments::new(data)));
    let teacher = TeacherSettings {
        bundle: bundle.map(|path| path.to_string_lossy().into_owned()),
        share: arguments.share,
        tta: !arguments.no_tta,
        unlabelled: unlabelled.collect::<anyhow::Result<_>>()?,
    };
    fit::fit_with(&arguments.fit, |settings| settings.teacher = Some(teacher))
}

/// The teacher's z, in the run's folder: a run that goes on does not ask again.
const TEACHER: &str = "teacher.csv";

/// What a teacher says of a data set.
pub(super) struct Taught {
    /// The teacher's own scale, which the student's goals are on: `mos = mean + std * z`.
    pub(super) scale: Normal,
    /// Of each item; None of those of another track and of those that cannot be read.
    pub(super) z: Vec<Option<f64>>,
    /// Name, version and digest of the bundle.
    pub(super) name: String,
}

/// The data sets that only the teacher labels, with their names. What they have of MOS is left aside.
pub(super) fn unlabelled(settings: &TeacherSettings) -> anyhow::Result<Vec<(String, Vec<Item>)>> {
    let without_mos = |data: &DatasetArguments| {
        let Dataset { name, items, .. } = data.read()?;
        Ok((name, items.into_iter().map(|item| Item { mos: None, ..item }).collect()))
    };
    settings.unlabelled.iter().map(without_mos).collect()
}

/// Asks the teacher about those of `items` that are of `track`, or looks up what it said when the run in `folder` began.
pub(super) fn teach(
    settings: &TeacherSettings,
    items: &[Item],
    track: Track,
    folder: &Path,
    machine: &Machine,
    device: Device,
) -> anyhow::Result<Taught> {
    let bundle = match &settings.bundle {
        Some(directory) => Bundle::open(Path::new(directory)).with_context(|| directory.clone())?,
        None => Bundle::demo()?,
    };
    let manifest = bundle.manifest();
    ensure!(
        manifest.experts.iter().any(|expert| expert.track == track),
        "the teacher {} has no {} expert to learn from",
        manifest.name,
        track.name()
    );
    if !manifest.trained {
        eprintln!("the teacher {} is untrained: what it says means nothing", manifest.name);
    }
    let scale = Normal { mean: manifest.mos.mean, std: manifest.mos.std };
    let name = format!("{} {} ({})", manifest.name, manifest.version, bundle.digest());
    let path = folder.join(TEACHER);
    // What lies there before a run has begun may be of another teacher.
    let z = if fit::is_run(folder) {
        read(&path, items)?
    } else {
        let z = ask(&bundle, settings.tta, items, track, machine, device)?;
        write(&path, items, &z)?;
        z
    };
    ensure!(z.iter().any(Option::is_some), "the teacher could judge no {} item", track.name());
    Ok(Taught { scale, z, name })
}

fn ask(
    bundle: &Bundle,
    tta: bool,
    items: &[Item],
    track: Track,
    machine: &Machine,
    device: Device,
) -> anyhow::Result<Vec<Option<f64>>> {
    let dtype = if device == Device::Cpu { Dtype::F32 } else { Dtype::Bf16 };
    let mut judge = Judge::new(bundle, LoadOptions { device, dtype, tta })?;
    let loader = Loader::new(
        Arc::new(items.to_vec()),
        LoaderOptions {
            sides: judge.ensemble().sides(track),
            threads: machine.loaders(),
            max_frames: bundle.manifest().max_frames,
            cache_bytes: 0,
            decoder: machine.decoder(),
            ..LoaderOptions::default()
        },
    )?;
    let wanted: Vec<usize> =
        (0..items.len()).filter(|&index| items.get(index).is_some_and(|i| i.track == track)).collect();
    let bar = progress::count("teacher", wanted.len() as u64);
    let mut z = vec![None; items.len()];
    Judge::each_batch(&loader, track, &wanted, &bar, |indices, frames| {
        let batch: Vec<&Item> = indices.iter().filter_map(|&index| items.get(index)).collect();
        for (&index, said) in indices.iter().zip(judge.z(track, &batch, frames)?) {
            if let Some(place) = z.get_mut(index) {
                *place = said;
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(z)
}

fn write(path: &Path, items: &[Item], z: &[Option<f64>]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["path", "prompt", "z"])?;
    for (item, z) in items.iter().zip(z) {
        if let Some(z) = z {
            writer.write_record([&*item.path.to_string_lossy(), &item.prompt, &z.to_string()])?;
        }
    }
    replace(path, &writer.into_inner().map_err(|error| error.into_error())?)
}

fn read(path: &Path, items: &[Item]) -> anyhow::Result<Vec<Option<f64>>> {
    let shown = path.display().to_string();
    let mut known: BTreeMap<(PathBuf, String), f64> = BTreeMap::new();
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("{shown}: cannot be read"))?;
    for row in reader.deserialize() {
        let (path, prompt, z): (PathBuf, String, f64) = row.with_context(|| shown.clone())?;
        known.insert((path, prompt), z);
    }
    let said = |item: &Item| known.get(&(item.path.clone(), item.prompt.clone())).copied();
    Ok(items.iter().map(said).collect())
}
