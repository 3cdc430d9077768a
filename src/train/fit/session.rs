//! A run that goes on: epochs of steps, each epoch judged by the held-out items, with checkpoints between.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tch::Device;

use super::Normal;
use super::goals::Goals;
use super::history::{History, Step};
use super::learner::{Answers, Items, Learner};
use super::publish::{self, Curves};
use super::signals::Signals;
use crate::train::checkpoint::{Checkpoints, Epoch, Progress, replace};
use crate::train::config::Settings;
use crate::train::dataset::Item;
use crate::train::embeddings::Embeddings;
use crate::train::judging::judged;
use crate::train::loader::{Loaded, Loader};
use crate::train::print;
use crate::train::report::Thumbnails;
use crate::train::schedule::Schedule;
use crate::train::seed::seed;
use crate::train::statistics::{Judged, plcc, srcc};

/// Items that an error names.
const NAMED: usize = 4;
/// Predictions for the held-out items at the best epoch.
const HELD_OUT: &str = "held_out.csv";

/// A run with what feeds it.
pub(in crate::train) struct Session {
    /// Gives items as they are trained on.
    pub(super) loader: Loader,
    pub(super) run: Run,
}

/// Everything that a run holds while it goes on.
pub(super) struct Run {
    pub(super) folder: PathBuf,
    pub(super) settings: Settings,
    pub(super) items: Arc<Vec<Item>>,
    pub(super) train: Vec<usize>,
    pub(super) held_out: Vec<usize>,
    pub(super) schedule: Schedule,
    pub(super) goals: Goals,
    pub(super) normal: Normal,
    pub(super) embeddings: Embeddings,
    pub(super) learner: Learner,
    pub(super) checkpoints: Checkpoints,
    pub(super) progress: Progress,
    pub(super) history: History,
    pub(super) curves: Curves,
    /// The pcqa-decoder program.
    pub(super) decoder: PathBuf,
}

/// How the expert judges the held-out items.
struct HeldOut {
    /// Mean loss.
    loss: f64,
    judged: Vec<Judged>,
}

impl Session {
    /// Goes on to the last step, and gives the best epoch's predictions for the held-out items.
    pub(in crate::train) fn run(&mut self) -> anyhow::Result<Vec<Judged>> {
        let (steps, per_epoch) = (self.run.schedule.steps(), self.run.schedule.steps_per_epoch());
        let bar = bar(steps, self.run.progress.step);
        let signals = Signals::listen().context("signals cannot be awaited")?;
        while self.run.progress.step < steps {
            if signals.have_come() {
                bail!(self.run.stopped());
            }
            let epoch = self.run.progress.step / per_epoch;
            self.epoch(epoch as u32, &bar, &signals)?;
        }
        bar.finish_and_clear();
        self.run.end()
    }

    /// Goes on to the end of `epoch`, which may be under way.
    fn epoch(&mut self, epoch: u32, bar: &ProgressBar, signals: &Signals) -> anyhow::Result<()> {
        let run = &mut self.run;
        let steps = run.schedule.steps_per_epoch();
        let batches = run.schedule.batches(epoch).split_off((run.progress.step % steps) as usize);
        let mut pace = Pace::new();
        for loaded in self.loader.run(batches, seed(run.settings.seed, &format!("loader/epoch/{epoch}"))) {
            let step = run.learn(epoch, &loaded)?;
            pace.count(loaded.indices.len());
            bar.set_message(format!(
                "epoch {} loss {:.4} {:.1} items/s",
                step.epoch,
                step.loss,
                pace.items_per_second()
            ));
            bar.inc(1);
            let every = run.settings.keep.checkpoint_steps;
            let ends = run.progress.step.is_multiple_of(steps);
            if !ends && signals.have_come() {
                run.save()?;
                bail!(run.stopped());
            }
            if !ends && every > 0 && run.progress.step.is_multiple_of(every) {
                run.save()?;
            }
        }
        let pace = pace.items_per_second();
        let held_out = run.judge_held_out(&self.loader.without_augmentation())?;
        let line = run.end_epoch(epoch, held_out, pace)?;
        if std::io::stderr().is_terminal() {
            bar.println(line);
        } else {
            eprintln!("{line}, {pace:.1} items/s");
        }
        Ok(())
    }
}

impl Run {
    /// One step on the items of `loaded`.
    fn learn(&mut self, epoch: u32, loaded: &Loaded) -> anyhow::Result<Step> {
        self.note_unreadable(&loaded.failed)?;
        let learning_rate = self.schedule.learning_rate(self.progress.step);
        let items = loaded.indices.len();
        let mut step = Step {
            step: self.progress.step + 1,
            epoch: epoch + 1,
            learning_rate,
            loss: 0.0,
            gradient_norm: None,
            items,
        };
        // A batch of which nothing could be read is a step without a change.
        if items > 0 {
            let (targets, weights) = self.goals.of(&loaded.indices, self.learner.device())?;
            let batch = items_of(&self.embeddings, loaded, self.learner.device())?;
            let outcome = self.learner.step(&batch, &Answers { targets, weights }, learning_rate)?;
            if !outcome.went_on {
                bail!(self.no_number(outcome.loss, &step, &loaded.indices));
            }
            (step.loss, step.gradient_norm) = (outcome.loss, outcome.gradient_norm);
            // A step that was left out in half precision may have any loss.
            if outcome.gradient_norm.is_some() {
                self.progress.losses.0 += outcome.loss;
                self.progress.losses.1 += 1;
            }
        }
        self.history.append(&step)?;
        self.curves.step(&step)?;
        self.progress.step = step.step;
        self.progress.loss_scale = self.learner.loss_scale();
        Ok(step)
    }

    /// What is said of a run that a signal ended.
    fn stopped(&self) -> String {
        let (step, steps) = (self.progress.step, self.schedule.steps());
        format!(
            "stopped by a signal after step {step} of {steps}; --resume goes on from there, and of several runs the same \
             command"
        )
    }

    /// Why the run ends at `step`: no later one could mend a loss or a gradient that is no number.
    fn no_number(&self, loss: f64, step: &Step, items: &[usize]) -> String {
        let names = items.iter().filter_map(|&item| self.items.get(item)).map(|item| item.name.as_str());
        let mut shown: Vec<&str> = names.take(NAMED).collect();
        if items.len() > NAMED {
            shown.push("…");
        }
        format!(
            "the loss of step {} (epoch {}, learning rate {:e}) is {loss} and its gradient no finite number, with the \
             items {}; the checkpoints are from before it; a lower recipe.learning_rate, a longer recipe.warmup or \
             recipe.precision = \"f32\" may help",
            step.step,
            step.epoch,
            step.learning_rate,
            shown.join(", ")
        )
    }

    /// Says once of every item that it cannot be read; too many of them end the run.
    fn note_unreadable(&mut self, failed: &[(usize, String)]) -> anyhow::Result<()> {
        for (index, problem) in failed {
            let Some(item) = self.items.get(*index) else { continue };
            if self.progress.unreadable.contains_key(&item.name) {
                continue;
            }
            eprintln!("{problem}; left out");
            self.progress.unreadable.insert(item.name.clone(), problem.clone());
        }
        let (count, all) = (self.progress.unreadable.len(), self.train.len() + self.held_out.len());
        let limit = self.settings.keep.unreadable;
        if count as f64 > limit * all as f64 {
            let first: Vec<&str> = self.progress.unreadable.values().take(NAMED).map(String::as_str).collect();
            bail!(
                "{count} of {all} items cannot be read, more than the share of {limit} that keep.unreadable allows: {}",
                first.join("; ")
            );
        }
        Ok(())
    }

    /// Scores the held-out items as they are; None where there are none.
    fn judge_held_out(&mut self, viewer: &Loader) -> anyhow::Result<Option<HeldOut>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let networks = self.learner.served()?;
        let at_once = self.settings.recipe.at_once();
        let batches = self.held_out.chunks(at_once).map(<[usize]>::to_vec).collect();
        let mut result = HeldOut { loss: 0.0, judged: Vec::new() };
        for loaded in viewer.run(batches, 0) {
            self.note_unreadable(&loaded.failed)?;
            if loaded.indices.is_empty() {
                continue;
            }
            let raw = self.learner.judge(&networks, &items_of(&self.embeddings, &loaded, self.learner.device())?)?;
            for (&index, raw) in loaded.indices.iter().zip(raw) {
                let (goal, Some(item)) = (self.goals.get(index), self.items.get(index)) else { continue };
                let Some(wanted) = goal.mos.or(goal.teacher) else { continue };
                result.loss += (raw - wanted).powi(2);
                let mos = item.mos.unwrap_or_else(|| self.normal.mos(wanted));
                result.judged.push(judged(item, mos, self.normal.mos(raw)));
            }
        }
        result.loss /= result.judged.len().max(1) as f64;
        // Weights that overflowed with the last step: no loss has told yet.
        ensure!(result.loss.is_finite(), "a held-out item's score is no number; a lower learning rate may help");
        Ok(Some(result))
    }

    /// Notes the epoch and writes its checkpoint; gives a line about it.
    fn end_epoch(&mut self, epoch: u32, held_out: Option<HeldOut>, pace: f64) -> anyhow::Result<String> {
        let (sum, count) = std::mem::take(&mut self.progress.losses);
        let mut done = Epoch {
            epoch: epoch + 1,
            step: self.progress.step,
            loss: (count > 0).then(|| sum / count as f64),
            held_out_loss: None,
            srcc: None,
            plcc: None,
        };
        if let Some(held_out) = &held_out {
            let (predicted, mos): (Vec<f64>, Vec<f64>) =
                held_out.judged.iter().map(|judged| (judged.predicted, judged.mos)).unzip();
            done.held_out_loss = Some(held_out.loss);
            (done.srcc, done.plcc) = (srcc(&predicted, &mos), plcc(&predicted, &mos));
        }
        let main = |epoch: &Epoch| epoch.main().unwrap_or(f64::NEG_INFINITY);
        let so_far = self.progress.epochs.iter().map(main).fold(f64::NEG_INFINITY, f64::max);
        // Without anybody to judge, the last epoch is the best.
        if held_out.is_none() || self.progress.best.is_none() || main(&done) > so_far {
            self.progress.best = Some(self.progress.step);
            if let Some(held_out) = &held_out {
                self.write_held_out(&held_out.judged)?;
            }
        }
        let line = self.line(&done);
        self.curves.epoch(&done, pace)?;
        self.progress.epochs.push(done);
        self.save()?;
        Ok(line)
    }

    fn save(&self) -> anyhow::Result<()> {
        self.checkpoints.save(&self.progress, self.learner.files()?)
    }

    /// In the columns that `evaluate --predictions` reads.
    fn write_held_out(&self, judged: &[Judged]) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["name", "prompt", "mos", "score"])?;
        for judged in judged {
            let (mos, score) = (judged.mos.to_string(), judged.predicted.to_string());
            writer.write_record([&judged.name, &judged.prompt, &mos, &score])?;
        }
        replace(&self.folder.join(HELD_OUT), &writer.into_inner().map_err(|error| error.into_error())?)
    }

    fn line(&self, done: &Epoch) -> String {
        let figure =
            |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!(", {name} {value:.4}"));
        format!(
            "epoch {}/{}{}{}{}{}{}",
            done.epoch,
            self.settings.recipe.epochs,
            figure("loss", done.loss),
            figure("held out", done.held_out_loss),
            figure("SRCC", done.srcc),
            figure("PLCC", done.plcc),
            if self.progress.best == Some(done.step) { ", the best so far" } else { "" }
        )
    }

    /// The best epoch's predictions for the held-out items.
    fn read_held_out(&self) -> anyhow::Result<Vec<Judged>> {
        let path = self.folder.join(HELD_OUT);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let mut known = BTreeMap::new();
        let shown = || path.display().to_string();
        for row in csv::Reader::from_path(&path).with_context(shown)?.deserialize() {
            let (name, prompt, mos, score): (String, String, f64, f64) = row.with_context(shown)?;
            known.insert((name, prompt), (mos, score));
        }
        let judged = |&index: &usize| {
            let item = self.items.get(index)?;
            let &(mos, score) = known.get(&(item.name.clone(), item.prompt.clone()))?;
            Some(judged(item, mos, score))
        };
        Ok(self.held_out.iter().filter_map(judged).collect())
    }

    fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let recipe = &self.settings.recipe;
        let teacher = self.settings.teacher.iter().flat_map(|teacher| {
            let bundle = teacher.bundle.clone().unwrap_or_else(|| "the compiled-in bundle".to_owned());
            let share = format!("{} of the loss of items with a MOS, all of the others'", teacher.share);
            [fact("teacher", bundle), fact("its share", share)]
        });
        let facts = vec![
            fact("trained on", format!("{} items", self.train.len())),
            fact("held out", format!("{} items", self.held_out.len())),
            fact("left out", format!("{} items that cannot be read", self.progress.unreadable.len())),
            fact("epochs", recipe.epochs.to_string()),
            fact("batch", recipe.batch.to_string()),
            fact("learning rate", format!("{:e}", recipe.learning_rate)),
            fact("seed", self.settings.seed.to_string()),
            fact("device", self.settings.device.clone()),
        ];
        facts.into_iter().chain(teacher).collect()
    }

    /// Writes the page and says what came of it.
    fn end(&self) -> anyhow::Result<Vec<Judged>> {
        let name = &self.learner.spec().name;
        let mut thumbnails = Thumbnails::new(self.decoder.clone());
        let judged = self.read_held_out()?;
        publish::write_report(&self.folder, self.facts(), &self.progress, name, judged.clone(), &mut thumbnails)?;
        let best = self.progress.epochs.iter().find(|epoch| Some(epoch.step) == self.progress.best);
        if let Some(best) = best {
            print(&format!("{}: best is {}\n", self.folder.display(), self.line(best)))?;
        }
        let unreadable = self.progress.unreadable.len();
        if unreadable > 0 {
            eprintln!("{unreadable} items could not be read and were left out");
        }
        Ok(judged)
    }
}

/// What was loaded, as the networks take it.
fn items_of<'a>(embeddings: &'a Embeddings, loaded: &'a Loaded, device: Device) -> anyhow::Result<Items<'a>> {
    let text = embeddings.of(&loaded.indices, device)?;
    Ok(Items { frames: loaded.frames.iter().collect(), text, prompts: embeddings.ids(&loaded.indices)? })
}

/// Items per second of an epoch.
struct Pace {
    begun: Instant,
    items: usize,
}

impl Pace {
    fn new() -> Self {
        Self { begun: Instant::now(), items: 0 }
    }

    fn count(&mut self, items: usize) {
        self.items += items;
    }

    fn items_per_second(&self) -> f64 {
        self.items as f64 / self.begun.elapsed().max(Duration::from_millis(1)).as_secs_f64()
    }
}

fn bar(steps: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_position(done);
    bar.reset_eta();
    bar
}
