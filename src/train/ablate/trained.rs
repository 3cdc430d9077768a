//! Ablations that train an expert for every cell.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use comfy_table::Table;

use super::shape::table;
use crate::model::Mixer;
use crate::train::config::{self, ExpertSettings, Settings};
use crate::train::dataset::DatasetArguments;
use crate::train::fit::{self, Machine};
use crate::train::report::{self, Chart, Report, Series, Thumbnails};
use crate::train::statistics::Metrics;

/// What is trained, and where.
#[derive(Debug, Args)]
pub(super) struct Trained {
    #[command(flatten)]
    pub(super) data: DatasetArguments,
    /// TOML file with the settings that all cells have in common, as `fit` reads it
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Folder of the runs; those that are there already go on or are taken as they are
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Only this expert of the settings
    #[arg(long, value_name = "NAME")]
    pub(super) expert: Option<String>,
    #[command(flatten)]
    pub(super) machine: Machine,
}

impl Trained {
    /// The settings with data and all experts written out.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::read(&self.config)?;
        settings.data = Some(fit::absolute(&self.data)?);
        let mut settings = config::all(&settings)?;
        if let Some(name) = &self.expert {
            settings = config::resolve(&settings, name)?;
        }
        Ok(settings)
    }

    /// Figures on the held-out items of the expert that `change` makes of `expert`, in the run called `name`.
    pub(super) fn cell(
        &self,
        settings: &Settings,
        expert: &ExpertSettings,
        name: &str,
        change: impl FnOnce(&mut Settings, &mut ExpertSettings),
    ) -> anyhow::Result<Metrics> {
        let settings = changed(settings, expert, name, change)?;
        let judged = fit::run_or_go_on(&settings, &self.out.join(name), &self.machine)?;
        Ok(Metrics::new(&judged))
    }

    /// Table 4.
    pub(super) fn mixers(&self) -> anyhow::Result<Table> {
        let settings = self.settings()?;
        let mut rows = Vec::new();
        for expert in &settings.experts {
            let mut cells = Vec::new();
            for (mixer, label) in [(Mixer::Dot, "dot"), (Mixer::Concat, "concat")] {
                let name = format!("{}-{label}", expert.name);
                cells.push(Some(self.cell(&settings, expert, &name, |_, expert| {
                    expert.mixer = mixer;
                    expert.head = None;
                })?));
            }
            rows.push((vec![expert.name.clone()], cells));
        }
        Ok(table(&["expert"], &["dot", "concat"], &rows))
    }

    /// Figure 4.
    pub(super) fn backbones(&self) -> anyhow::Result<Table> {
        let settings = self.settings()?;
        let (mut rows, mut series) = (Vec::new(), Vec::new());
        for expert in &settings.experts {
            let metrics = self.cell(&settings, expert, &expert.name, |_, _| {})?;
            let millions = fit::read_record(&self.out.join(&expert.name))?.parameters as f64 / 1e6;
            series.push(line(&expert.name, vec![(millions, main(&metrics))]));
            let labels = vec![expert.name.clone(), expert.backbone.kind.name().to_owned(), format!("{millions:.2} M")];
            rows.push((labels, vec![Some(metrics)]));
        }
        self.plot("Main score by size", "millions of parameters", series)?;
        Ok(table(&["expert", "backbone", "parameters"], &[""], &rows))
    }

    /// Figure 5.
    pub(super) fn resolutions(&self, sides: &[u32]) -> anyhow::Result<Table> {
        let settings = self.settings()?;
        let name = |expert: &ExpertSettings, side: u32| format!("{}-{side}", expert.name);
        // A side that a backbone cannot have comes to light before hours were spent on the others.
        for (expert, &side) in settings.experts.iter().flat_map(|expert| sides.iter().map(move |side| (expert, side))) {
            let name = name(expert, side);
            let settings = changed(&settings, expert, &name, |_, expert| expert.input_size = side)?;
            fit::begin(&settings, &self.out.join(name), &self.machine)?;
        }
        let (mut rows, mut series) = (Vec::new(), Vec::new());
        for expert in &settings.experts {
            let mut points = Vec::new();
            for &side in sides {
                let name = name(expert, side);
                let metrics = self.cell(&settings, expert, &name, |_, expert| expert.input_size = side)?;
                points.push((f64::from(side), main(&metrics)));
                rows.push((vec![expert.name.clone(), side.to_string()], vec![Some(metrics)]));
            }
            series.push(line(&expert.name, points));
        }
        self.plot("Main score by side", "side in pixels", series)?;
        Ok(table(&["expert", "side"], &[""], &rows))
    }

    fn plot(&self, title: &str, x_label: &str, series: Vec<Series>) -> anyhow::Result<()> {
        let chart = Chart { title: title.to_owned(), x_label: x_label.to_owned(), is_log: false, series };
        let facts = vec![("data".to_owned(), self.data.data.display().to_string())];
        let report = Report { title: title.to_owned(), facts, charts: vec![chart], sections: Vec::new() };
        let path = report::write(&self.out, &report, &mut Thumbnails::new(self.machine.decoder()))?;
        eprintln!("plot: {}", path.display());
        Ok(())
    }
}

/// The settings of the cell called `name`.
fn changed(
    settings: &Settings,
    expert: &ExpertSettings,
    name: &str,
    change: impl FnOnce(&mut Settings, &mut ExpertSettings),
) -> anyhow::Result<Settings> {
    let (mut settings, mut expert) = (settings.clone(), expert.clone());
    change(&mut settings, &mut expert);
    settings.experts = vec![expert];
    settings.check().with_context(|| name.to_owned())?;
    Ok(settings)
}

fn main(metrics: &Metrics) -> f64 {
    metrics.main.map_or(f64::NAN, |figure| figure.value)
}

fn line(label: &str, points: Vec<(f64, f64)>) -> Series {
    Series { label: label.to_owned(), points }
}
