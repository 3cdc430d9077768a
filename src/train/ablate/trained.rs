//! Ablations that train an expert for every cell.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::shape::floor_rows;
use crate::model::{Mixer, Track};
use crate::train::config::{self, ExpertSettings, Settings};
use crate::train::dataset::DatasetArguments;
use crate::train::fit::{self, Machine};
use crate::train::report::{self, Chart, Comparison, Report, Series, Thumbnails};
use crate::train::statistics::{Judged, Metrics};

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

/// The held-out items of each track: those of every cell.
pub(super) type Seen = BTreeMap<Track, Vec<Judged>>;

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

    /// Figures on the held-out items, which go to `seen`, of the expert that `change` makes of `expert`, in the run called
    /// `name`.
    pub(super) fn cell(
        &self,
        settings: &Settings,
        expert: &ExpertSettings,
        name: &str,
        seen: &mut Seen,
        change: impl FnOnce(&mut Settings, &mut ExpertSettings),
    ) -> anyhow::Result<Metrics> {
        let settings = changed(settings, expert, name, change)?;
        let judged = fit::run_or_go_on(&settings, &self.out.join(name), &self.machine)?;
        let metrics = Metrics::new(&judged);
        seen.entry(expert.track).or_insert(judged);
        Ok(metrics)
    }

    /// Table 4.
    pub(super) fn mixers(&self) -> anyhow::Result<Comparison> {
        let settings = self.settings()?;
        let (mut rows, mut seen) = (Vec::new(), Seen::new());
        for expert in &settings.experts {
            let mut cells = Vec::new();
            for (mixer, label) in [(Mixer::Dot, "dot"), (Mixer::Concat, "concat")] {
                let name = format!("{}-{label}", expert.name);
                cells.push(Some(self.cell(&settings, expert, &name, &mut seen, |_, expert| {
                    expert.mixer = mixer;
                    expert.head = None;
                })?));
            }
            rows.push((vec![expert.name.clone()], cells));
        }
        rows.extend(floor_rows(&seen, 1, 2));
        Ok(Comparison { labels: vec!["expert"], headings: vec!["dot", "concat"], rows })
    }

    /// Figure 4.
    pub(super) fn backbones(&self) -> anyhow::Result<Comparison> {
        let settings = self.settings()?;
        let (mut rows, mut series, mut seen) = (Vec::new(), Vec::new(), Seen::new());
        for expert in &settings.experts {
            let metrics = self.cell(&settings, expert, &expert.name, &mut seen, |_, _| {})?;
            let millions = fit::read_record(&self.out.join(&expert.name))?.parameters as f64 / 1e6;
            series.push(line(&expert.name, vec![(millions, main(&metrics))]));
            let labels = vec![expert.name.clone(), expert.backbone.kind.name().to_owned(), format!("{millions:.2} M")];
            rows.push((labels, vec![Some(metrics)]));
        }
        let labels = vec!["expert", "backbone", "parameters"];
        rows.extend(floor_rows(&seen, labels.len(), 1));
        self.page(
            "Main score by size",
            "millions of parameters",
            series,
            Comparison { labels, headings: vec![""], rows },
        )
    }

    /// Figure 5.
    pub(super) fn resolutions(&self, sides: &[u32]) -> anyhow::Result<Comparison> {
        let settings = self.settings()?;
        let name = |expert: &ExpertSettings, side: u32| format!("{}-{side}", expert.name);
        // A side that a backbone cannot have comes to light before hours were spent on the others.
        for (expert, &side) in settings.experts.iter().flat_map(|expert| sides.iter().map(move |side| (expert, side))) {
            let name = name(expert, side);
            let settings = changed(&settings, expert, &name, |_, expert| expert.input_size = side)?;
            fit::begin(&settings, &self.out.join(name), &self.machine)?;
        }
        let (mut rows, mut series, mut seen) = (Vec::new(), Vec::new(), Seen::new());
        for expert in &settings.experts {
            let mut points = Vec::new();
            for &side in sides {
                let name = name(expert, side);
                let metrics = self.cell(&settings, expert, &name, &mut seen, |_, expert| expert.input_size = side)?;
                points.push((f64::from(side), main(&metrics)));
                rows.push((vec![expert.name.clone(), side.to_string()], vec![Some(metrics)]));
            }
            series.push(line(&expert.name, points));
        }
        rows.extend(floor_rows(&seen, 2, 1));
        let comparison = Comparison { labels: vec!["expert", "side"], headings: vec![""], rows };
        self.page("Main score by side", "side in pixels", series, comparison)
    }

    /// Writes the plot of `series` with the figures behind it, which it gives back.
    fn page(
        &self,
        title: &str,
        x_label: &str,
        series: Vec<Series>,
        comparison: Comparison,
    ) -> anyhow::Result<Comparison> {
        let chart = Chart { title: title.to_owned(), x_label: x_label.to_owned(), is_log: false, series };
        let facts = vec![("data".to_owned(), self.data.data.display().to_string())];
        let report = Report {
            title: title.to_owned(),
            facts,
            charts: vec![chart],
            comparison: Some(comparison.clone()),
            ..Report::default()
        };
        let path = report::write(&self.out, &report, &mut Thumbnails::new(self.machine.decoder()))?;
        eprintln!("plot: {}", path.display());
        Ok(comparison)
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
