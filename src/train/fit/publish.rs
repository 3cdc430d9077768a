//! What people look at while a run goes on and when it is done: TensorBoard's event files and a page.

use std::path::Path;

use super::history::{self, Step};
use crate::train::checkpoint::{Epoch, Progress};
use crate::train::events::Events;
use crate::train::floors::floors;
use crate::train::report::{self, Chart, Report, Section, Series, Thumbnails};
use crate::train::statistics::{Judged, Metrics};

/// Directory of the event files in a run's folder.
const EVENTS: &str = "events";
/// Points of a curve; more only make the page slow.
const MOST_POINTS: usize = 1000;

/// The event file of this start of a run.
pub(super) struct Curves {
    events: Events,
}

impl Curves {
    pub(super) fn create(run: &Path) -> anyhow::Result<Self> {
        Ok(Self { events: Events::create(&run.join(EVENTS))? })
    }

    pub(super) fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let mut values = vec![("loss/train", step.loss), ("learning_rate", step.learning_rate)];
        values.extend(step.gradient_norm.map(|norm| ("gradient_norm", norm)));
        self.events.scalars(step.step, &values)
    }

    pub(super) fn epoch(&mut self, epoch: &Epoch, items_per_second: f64) -> anyhow::Result<()> {
        let figures =
            [("loss/held_out", epoch.held_out_loss), ("held_out/srcc", epoch.srcc), ("held_out/plcc", epoch.plcc)];
        let mut values = vec![("items_per_second", items_per_second)];
        values.extend(figures.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
        self.events.scalars(epoch.step, &values)
    }
}

/// Writes `report.html`: how the run in folder `run` went, and how its best epoch judges the held-out items.
pub(super) fn write_report(
    run: &Path,
    facts: Vec<(String, String)>,
    progress: &Progress,
    name: &str,
    judged: Vec<Judged>,
    thumbnails: &mut Thumbnails,
) -> anyhow::Result<()> {
    let steps = history::read(run)?;
    let mut rows = Vec::new();
    if !judged.is_empty() {
        rows.push((name.to_owned(), Metrics::new(&judged)));
        rows.extend(floors(&judged).into_iter().map(|(name, metrics)| (name.to_owned(), metrics)));
    }
    let section = Section { title: "Held-out items at the best epoch".to_owned(), rows, judged };
    let report = Report {
        title: format!("Run of {name}"),
        facts,
        charts: vec![losses(&steps, progress), figures(progress), rates(&steps)],
        sections: vec![section],
        ..Report::default()
    };
    report::write(run, &report, thumbnails)?;
    Ok(())
}

fn losses(steps: &[Step], progress: &Progress) -> Chart {
    let held_out = progress.epochs.iter().filter_map(|epoch| Some((epoch.step as f64, epoch.held_out_loss?)));
    let means = progress.epochs.iter().filter_map(|epoch| Some((epoch.step as f64, epoch.loss?)));
    chart(
        "Loss (squared error of normalised MOS, or of a teacher's z)",
        true,
        vec![
            series("step", thinned(steps, |step| step.loss)),
            series("mean of the epoch", means.collect()),
            series("held out", held_out.collect()),
        ],
    )
}

fn figures(progress: &Progress) -> Chart {
    let of = |value: fn(&Epoch) -> Option<f64>| -> Vec<(f64, f64)> {
        progress.epochs.iter().filter_map(|epoch| Some((epoch.step as f64, value(epoch)?))).collect()
    };
    chart("Held-out items", false, vec![series("SRCC", of(|epoch| epoch.srcc)), series("PLCC", of(|epoch| epoch.plcc))])
}

fn rates(steps: &[Step]) -> Chart {
    chart("Learning rate", false, vec![series("learning rate", thinned(steps, |step| step.learning_rate))])
}

fn chart(title: &str, is_log: bool, series: Vec<Series>) -> Chart {
    Chart { title: title.to_owned(), x_label: "step".to_owned(), is_log, series }
}

fn series(label: &str, points: Vec<(f64, f64)>) -> Series {
    Series { label: label.to_owned(), points }
}

fn thinned(steps: &[Step], value: impl Fn(&Step) -> f64) -> Vec<(f64, f64)> {
    let every = steps.len().div_ceil(MOST_POINTS).max(1);
    steps.iter().step_by(every).map(|step| (step.step as f64, value(step))).collect()
}
