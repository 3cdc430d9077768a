//! From settings to a run that is ready for its next step: a new one, or one that goes on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::goals::{Goal, Goals};
use super::history::History;
use super::learner::{Arithmetic, Learner, Plan};
use super::publish::Curves;
use super::record::{self, Record};
use super::session::{Run, Session};
use super::start::Start;
use super::{Machine, Normal};
use crate::model::{Device, TextSpec, Track};
use crate::native;
use crate::train::calibrate::LEAST_ITEMS;
use crate::train::checkpoint::{Checkpoints, Progress};
use crate::train::config::{ExpertSettings, Precision, Settings, device};
use crate::train::dataset::{Dataset, Item};
use crate::train::distil;
use crate::train::embeddings::{Embeddings, file_digest};
use crate::train::loader::{Loader, LoaderOptions};
use crate::train::schedule::Schedule;
use crate::train::split::{SplitBy, apart, folds, hold_out};

/// Starts a run of `settings`, which name one expert, in `folder`, and writes down what it begins with.
pub(super) fn begin(settings: &Settings, folder: &Path, machine: &Machine) -> anyhow::Result<Session> {
    let (settings, device) = settle(settings)?;
    let data = Data::prepare(&settings, folder, machine, device)?;
    let (learner, start) = data.start(&settings, device)?;
    eprint!("{start}");
    data.record(&settings, &learner, &start)?.write(folder)?;
    record::write_split(folder, &data.items, &data.train, &data.held_out)?;
    // Last: a folder with settings is a run.
    record::write_settings(folder, &settings)?;
    data.session(settings, folder, machine, learner, Progress::default())
}

/// Goes on with the run in `folder`.
pub(super) fn resume(folder: &Path, machine: &Machine) -> anyhow::Result<Session> {
    let (settings, device) = settle(&record::read_settings(folder)?)?;
    let begun = record::read_record(folder)?;
    let checkpoint = Checkpoints::open(folder)?.newest()?;
    check_weights(text(&settings)?, &begun, checkpoint.is_none())?;
    let data = Data::prepare(&settings, folder, machine, device)?;
    if begun.items_sha256 != record::digest(&data.items) || begun.normal != data.normal {
        bail!("the data set {} is not what the run began with: other items, prompts or MOS", begun.dataset);
    }
    let (learner, progress) = match checkpoint {
        Some((directory, progress)) => {
            let learner = Learner::resume(data.plan(&settings, device)?, &directory, progress.loss_scale)
                .with_context(|| directory.display().to_string())?;
            (learner, progress)
        }
        None => (data.start(&settings, device)?.0, Progress::default()),
    };
    let step = progress.step;
    let session = data.session(settings, folder, machine, learner, progress)?;
    let (shown, steps) = (folder.display(), session.run.schedule.steps());
    if step < steps {
        eprintln!("{shown}: goes on after step {step} of {steps}");
    } else {
        eprintln!("{shown}: is finished, all {steps} steps are done");
    }
    Ok(session)
}

/// Whether the files that the run still reads are those that it began with: its text towers, and before its first
/// checkpoint what the expert starts from too.
fn check_weights(text: &TextSpec, begun: &Record, starts: bool) -> anyhow::Result<()> {
    for (path, digest) in &begun.weights_sha256 {
        let is_tower = text.towers.iter().any(|tower| tower.weights == *path);
        ensure!(
            !(is_tower || starts) || file_digest(Path::new(path))? == *digest,
            "{path}: is not the file that the run began with, whose SHA-256 is {digest}"
        );
    }
    Ok(())
}

/// Whether the run in `folder` is one of `settings`.
pub(super) fn is_of(settings: &Settings, folder: &Path) -> anyhow::Result<bool> {
    Ok(settle(settings)?.0 == record::read_settings(folder)?)
}

/// `settings` with everything that depends on the machine written out, and the device.
fn settle(settings: &Settings) -> anyhow::Result<(Settings, Device)> {
    let mut settings = settings.clone();
    let device = device::choose(&settings.device)?;
    if device != Device::Cpu {
        // Batches have few shapes: looking for the fastest convolution of each pays.
        tch::Cuda::cudnn_set_benchmark(true);
    }
    settings.device = device::name(device);
    if settings.recipe.precision == Precision::Auto {
        let is_fast = matches!(device, Device::Cuda(gpu) if native::multiplies_bf16(gpu));
        settings.recipe.precision = if is_fast { Precision::Bf16 } else { Precision::F32 };
    }
    if settings.threads == 0 {
        settings.threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u32);
    }
    tch::set_num_threads(settings.threads as i32);
    Ok((settings, device))
}

fn expert(settings: &Settings) -> anyhow::Result<&ExpertSettings> {
    match settings.experts.as_slice() {
        [expert] => Ok(expert),
        several => bail!("a run has one expert, but the settings have {}", several.len()),
    }
}

fn text(settings: &Settings) -> anyhow::Result<&TextSpec> {
    settings.text.as_ref().context("text: is missing")
}

/// The items of a run and what is to be learnt of them.
struct Data {
    name: String,
    items: Arc<Vec<Item>>,
    train: Vec<usize>,
    held_out: Vec<usize>,
    goals: Goals,
    normal: Normal,
    embeddings: Embeddings,
    teacher: Option<distil::Taught>,
    /// Names of the data sets that only the teacher labels, and how many of their items are trained on.
    unlabelled: BTreeMap<String, usize>,
}

impl Data {
    fn prepare(settings: &Settings, folder: &Path, machine: &Machine, device: Device) -> anyhow::Result<Self> {
        let dataset = settings.data.as_ref().context("data: is missing")?.read()?;
        let (mut train, mut held_out) = split(settings, &dataset)?;
        let Dataset { name, mut items, .. } = dataset;
        let own = items.len();
        let mut ranges: Vec<(String, Range<usize>)> = Vec::new();
        let teacher = match &settings.teacher {
            Some(teacher) => {
                for (name, others) in distil::unlabelled(teacher)? {
                    let (labelled, all) = (items.len(), others.len());
                    let others = apart(others, &items, &held_out, settings.split.by);
                    let left_out = all - others.len();
                    if left_out > 0 {
                        eprintln!("{name}: {left_out} of {all} items are left out: they belong with held-out ones");
                    }
                    items.extend(others);
                    train.extend(labelled..items.len());
                    ranges.push((name, labelled..items.len()));
                }
                Some(distil::teach(teacher, &items, expert(settings)?.track, folder, machine, device)?)
            }
            None => None,
        };
        let track = expert(settings)?.track;
        let taught = |index: usize| teacher.as_ref().and_then(|teacher| teacher.z.get(index).copied().flatten());
        let useful = |&index: &usize| {
            let item: Option<&Item> = items.get(index);
            item.is_some_and(|item| item.track == track && (item.mos.is_some() || taught(index).is_some()))
        };
        train.retain(useful);
        held_out.retain(useful);
        // Folders of one name count together.
        let mut unlabelled = BTreeMap::new();
        for (name, range) in ranges {
            *unlabelled.entry(name).or_default() += train.iter().filter(|&index| range.contains(index)).count();
        }
        let has_mos = items.iter().any(|item| item.mos.is_some());
        let why = if has_mos || teacher.is_some() { "" } else { ": the list has no MOS" };
        ensure!(!train.is_empty(), "{name}: no {} item is left to train on{why}", track.name());
        check_split(settings, items.get(..own).unwrap_or_default(), track)?;
        let share = settings.split.held_out;
        if settings.split.folds.is_none() && share > 0.0 && held_out.len() < LEAST_ITEMS {
            eprintln!(
                "split.held_out: is {share}, which holds {} {} items out; an ensemble is calibrated on {LEAST_ITEMS} \
                 or more: another seed or a greater share holds out others",
                held_out.len(),
                track.name()
            );
        }
        let normal = match &teacher {
            Some(teacher) => teacher.scale,
            None => Normal::of(&mos(&items, &train))?,
        };
        let goal =
            |(index, item): (usize, &Item)| Goal { mos: item.mos.map(|mos| normal.raw(mos)), teacher: taught(index) };
        let share = settings.teacher.as_ref().map_or(0.0, |teacher| teacher.share);
        let goals = Goals::new(items.iter().enumerate().map(goal).collect(), share);
        let prompts: Vec<&str> = items.iter().map(|item| item.prompt.as_str()).collect();
        let embeddings = Embeddings::compute(text(settings)?, &prompts, device, &machine.text_cache())?;
        if embeddings.truncated() > 0 {
            eprintln!("{} items have prompts that are longer than the towers read", embeddings.truncated());
        }
        eprintln!("{name}: {} items to train on, {} held out", train.len(), held_out.len());
        Ok(Self { name, items: Arc::new(items), train, held_out, goals, normal, embeddings, teacher, unlabelled })
    }

    fn start(&self, settings: &Settings, device: Device) -> anyhow::Result<(Learner, Start)> {
        Learner::start(self.plan(settings, device)?, settings.fresh, settings.seed)
    }

    fn plan<'a>(&self, settings: &'a Settings, device: Device) -> anyhow::Result<Plan<'a>> {
        Ok(Plan {
            expert: expert(settings)?,
            recipe: &settings.recipe,
            text: text(settings)?,
            text_dim: self.embeddings.dim(),
            arithmetic: Arithmetic { device, precision: settings.recipe.precision },
        })
    }

    fn record(&self, settings: &Settings, learner: &Learner, start: &Start) -> anyhow::Result<Record> {
        let mut weights: BTreeMap<String, String> =
            start.digests().map(|(path, digest)| (path.to_owned(), digest.to_owned())).collect();
        for tower in &text(settings)?.towers {
            weights.insert(tower.weights.clone(), file_digest(Path::new(&tower.weights))?);
        }
        let all: Vec<usize> = (0..self.items.len()).collect();
        let known = mos(&self.items, &all);
        let range = known.iter().fold(None, |range: Option<[f64; 2]>, &mos| {
            Some(range.map_or([mos, mos], |[low, high]| [low.min(mos), high.max(mos)]))
        });
        Ok(Record {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dataset: self.name.clone(),
            items_sha256: record::digest(&self.items),
            train_items: self.train.len(),
            held_out_items: self.held_out.len(),
            mos_range: range,
            normal: self.normal,
            weights_sha256: weights,
            parameters: learner.parameters(),
            threads: tch::get_num_threads(),
            teacher: self.teacher.as_ref().map(|teacher| teacher.name.clone()),
            unlabelled: self.unlabelled.clone(),
        })
    }

    fn session(
        self,
        settings: Settings,
        folder: &Path,
        machine: &Machine,
        learner: Learner,
        progress: Progress,
    ) -> anyhow::Result<Session> {
        let options = LoaderOptions {
            sides: vec![learner.spec().input_size],
            augment: settings.augmentation.clone(),
            threads: machine.loaders(),
            max_frames: settings.max_frames,
            cache_bytes: machine.cache_bytes(),
            decoder: machine.decoder(),
            ..LoaderOptions::default()
        };
        let loader = Loader::new(Arc::clone(&self.items), options)?;
        let schedule = Schedule::new(self.train.clone(), &settings.recipe, settings.seed);
        let run = Run {
            folder: folder.to_owned(),
            checkpoints: Checkpoints::open(folder)?,
            history: History::open(folder, progress.step)?,
            curves: Curves::create(folder)?,
            decoder: machine.decoder(),
            schedule,
            items: self.items,
            train: self.train,
            held_out: self.held_out,
            goals: self.goals,
            normal: self.normal,
            embeddings: self.embeddings,
            learner,
            progress,
            settings,
        };
        Ok(Session { loader, run })
    }
}

/// Whether every run of `settings` has something of `track` to be judged by, where anything is to be held out: one run, or
/// one for each of the folds. Found before the first run begins.
pub(super) fn check_split(settings: &Settings, items: &[Item], track: Track) -> anyhow::Result<()> {
    let split = &settings.split;
    let is_judge = |&index: &usize| {
        items.get(index).is_some_and(|item| item.track == track && (item.mos.is_some() || settings.teacher.is_some()))
    };
    if settings.teacher.is_some() && !items.iter().any(|item| item.track == track) {
        // What only the teacher labels is never held out.
        return Ok(());
    }
    let (track, by) = (track.name(), format!("{:?}", split.by).to_lowercase());
    let Some(count) = split.folds else {
        let (_, held_out) = hold_out(items, split.by, split.held_out, settings.seed);
        ensure!(
            split.held_out == 0.0 || held_out.iter().any(is_judge),
            "split.held_out: is {}, which holds no {track} item out, split by {by}; a greater share or another seed may, \
             and 0 holds none out",
            split.held_out
        );
        return Ok(());
    };
    for (fold, part) in folds(items, split.by, count, settings.seed).iter().enumerate() {
        ensure!(
            part.iter().any(is_judge),
            "split.folds: is {count}, and fold {fold}, split by {by}, holds no {track} item out"
        );
    }
    Ok(())
}

/// Indices of the items that are trained on and of those that are held out. Every item of the data set takes part,
/// whatever its track, so that the experts of one data set hold out the same ones.
fn split(settings: &Settings, dataset: &Dataset) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
    let split = &settings.split;
    let (Some(count), Some(fold)) = (split.folds, split.fold) else {
        let parts = hold_out(&dataset.items, split.by, split.held_out, settings.seed);
        ensure!(
            split.held_out == 0.0 || !(parts.0.is_empty() || parts.1.is_empty()),
            "split.by: is {by}, but all {items} items belong together by it{hint}; choose another one, or \
             split.held_out = 0 to hold none out",
            by = format!("{:?}", split.by).to_lowercase(),
            items = dataset.items.len(),
            hint = if split.by == SplitBy::Generator { ": the list names less than two generators" } else { "" }
        );
        return Ok(parts);
    };
    let parts = folds(&dataset.items, split.by, count, settings.seed);
    let held_out = parts.get(fold).cloned().context("split.fold: is not one of the folds")?;
    let others = parts.into_iter().enumerate().filter(|(part, _)| *part != fold);
    let mut train: Vec<usize> = others.flat_map(|(_, items)| items).collect();
    train.sort_unstable();
    Ok((train, held_out))
}

fn mos(items: &[Item], indices: &[usize]) -> Vec<f64> {
    indices.iter().filter_map(|&index| items.get(index)?.mos).collect()
}
