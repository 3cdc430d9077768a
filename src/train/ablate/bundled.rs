//! Ablations of a bundle that is there: nothing is trained.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;

use crate::model::{Bundle, Dtype, ExpertSpec, LoadOptions, Track};
use crate::train::calibrate::Statistics;
use crate::train::config::device;
use crate::train::dataset::{DatasetArguments, Item};
use crate::train::fit::Machine;
use crate::train::floors::floors;
use crate::train::judging::{Judge, Views, judged};
use crate::train::loader::{Loader, LoaderOptions};
use crate::train::progress;
use crate::train::report::Comparison;
use crate::train::statistics::Metrics;

/// Experts of a bundle that are chosen among: all choices of more would be too many rows.
const MOST_EXPERTS: usize = 6;

/// Whose experts, and on what.
#[derive(Debug, Args)]
pub(super) struct Bundled {
    #[command(flatten)]
    data: DatasetArguments,
    /// Directory of the bundle. Without it the one that is compiled in
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Where to compute: cpu, cuda, cuda:N, auto
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    machine: Machine,
}

/// What the experts of one track say.
struct Opinions {
    track: Track,
    items: Vec<Item>,
    experts: Vec<Expert>,
}

/// z of every item, without and with test-time augmentation.
struct Expert {
    name: String,
    z: [Vec<f64>; 2],
}

impl Bundled {
    /// Table 5.
    pub(super) fn augmentation(&self) -> anyhow::Result<Comparison> {
        let mut rows = Vec::new();
        for opinions in self.opinions()? {
            for (place, expert) in opinions.experts.iter().enumerate() {
                rows.push((vec![opinions.track.name().to_owned(), expert.name.clone()], opinions.figures(&[place])));
            }
            let all: Vec<usize> = (0..opinions.experts.len()).collect();
            rows.push((vec![opinions.track.name().to_owned(), "ensemble".to_owned()], opinions.figures(&all)));
            rows.extend(opinions.floors());
        }
        Ok(Comparison { labels: vec!["track", "expert"], headings: vec!["without TTA", "with TTA"], rows })
    }

    /// Table 6.
    pub(super) fn choices(&self) -> anyhow::Result<Comparison> {
        let mut rows = Vec::new();
        for opinions in self.opinions()? {
            let count = opinions.experts.len();
            ensure!(
                count <= MOST_EXPERTS,
                "{count} experts of one track are too many, expected at most {MOST_EXPERTS}"
            );
            let mut choices: Vec<Vec<usize>> = (1..1usize << count)
                .map(|bits| (0..count).filter(|place| bits & (1 << place) != 0).collect())
                .collect();
            choices.sort_by_key(Vec::len);
            for choice in choices {
                let names: Vec<&str> =
                    choice.iter().filter_map(|&place| Some(opinions.experts.get(place)?.name.as_str())).collect();
                rows.push((vec![opinions.track.name().to_owned(), names.join(" + ")], opinions.figures(&choice)));
            }
            rows.extend(opinions.floors());
        }
        Ok(Comparison { labels: vec!["track", "experts"], headings: vec!["without TTA", "with TTA"], rows })
    }

    fn opinions(&self) -> anyhow::Result<Vec<Opinions>> {
        let bundle = match &self.bundle {
            Some(directory) => Bundle::open(directory).with_context(|| directory.display().to_string())?,
            None => Bundle::demo()?,
        };
        let dataset = self.data.read()?;
        let device = device::choose(&self.device)?;
        let mut judge = Judge::new(&bundle, LoadOptions { device, dtype: Dtype::F32, tta: true })?;
        let mut all = Vec::new();
        for track in [Track::Image, Track::Video] {
            let experts: Vec<&ExpertSpec> =
                bundle.manifest().experts.iter().filter(|expert| expert.track == track).collect();
            let items: Vec<Item> =
                dataset.items.iter().filter(|item| item.track == track && item.mos.is_some()).cloned().collect();
            if !experts.is_empty() && !items.is_empty() {
                all.push(self.of_track(&bundle, &mut judge, track, &experts, items)?);
            }
        }
        ensure!(
            !all.is_empty(),
            "{}: has no item with a MOS of a track that the bundle scores",
            dataset.list.display()
        );
        Ok(all)
    }

    fn of_track(
        &self,
        bundle: &Bundle,
        judge: &mut Judge,
        track: Track,
        experts: &[&ExpertSpec],
        items: Vec<Item>,
    ) -> anyhow::Result<Opinions> {
        let options = LoaderOptions {
            sides: judge.ensemble().sides(track),
            threads: self.machine.loaders(),
            max_frames: bundle.manifest().max_frames,
            cache_bytes: 0,
            decoder: self.machine.decoder(),
            ..LoaderOptions::default()
        };
        let items = Arc::new(items);
        let loader = Loader::new(Arc::clone(&items), options)?;
        let bar = progress::count("scoring", items.len() as u64);
        let wanted: Vec<usize> = (0..items.len()).collect();
        let (mut seen, mut raw): (Vec<Item>, Vec<Vec<Views>>) = (Vec::new(), Vec::new());
        Judge::each_batch(&loader, track, &wanted, &bar, |indices, frames| {
            let batch: Vec<&Item> = indices.iter().filter_map(|&index| items.get(index)).collect();
            raw.extend(judge.raw(track, &batch, frames)?);
            seen.extend(batch.into_iter().cloned());
            Ok(())
        })?;
        bar.finish_and_clear();
        let expert = |(place, spec): (usize, &&ExpertSpec)| -> anyhow::Result<Expert> {
            let views = || raw.iter().filter_map(|said| said.get(place));
            let (plain, both) = (calibration(bundle, spec, false)?, calibration(bundle, spec, true)?);
            let z =
                [views().map(|said| plain.z(said.plain)).collect(), views().map(|said| both.z(said.both)).collect()];
            Ok(Expert { name: spec.name.clone(), z })
        };
        let experts = experts.iter().enumerate().map(expert).collect::<anyhow::Result<_>>()?;
        Ok(Opinions { track, items: seen, experts })
    }
}

impl Opinions {
    /// What can be had of the same items without looking at a pixel.
    fn floors(&self) -> Vec<(Vec<String>, Vec<Option<Metrics>>)> {
        let judged: Vec<_> = self.items.iter().filter_map(|item| Some(judged(item, item.mos?, 0.0))).collect();
        let row = |(name, metrics): (&str, Metrics)| {
            (vec![self.track.name().to_owned(), name.to_owned()], vec![Some(metrics); 2])
        };
        floors(&judged).into_iter().map(row).collect()
    }

    /// Of the mean z of the experts at `places`, without and with test-time augmentation.
    fn figures(&self, places: &[usize]) -> Vec<Option<Metrics>> {
        let figures = |setting: usize| {
            let judged = self.items.iter().enumerate().filter_map(|(index, item)| {
                let z = places.iter().filter_map(|&place| self.experts.get(place)?.z.get(setting)?.get(index));
                let predicted = z.sum::<f64>() / places.len() as f64;
                Some(judged(item, item.mos?, predicted))
            });
            Some(Metrics::new(&judged.collect::<Vec<_>>()))
        };
        vec![figures(0), figures(1)]
    }
}

fn calibration(bundle: &Bundle, spec: &ExpertSpec, tta: bool) -> anyhow::Result<Statistics> {
    let holds = bundle.manifest().calibration.iter().find(|entry| {
        entry.expert == spec.name
            && entry.tta == tta
            && entry.input_size == spec.input_size
            && entry.dtypes.iter().any(|name| name == Dtype::F32.name())
    });
    let entry = holds.with_context(|| format!("expert {}: has no calibration for tta {tta} in f32", spec.name))?;
    Ok(Statistics { mu: entry.mu, sigma: entry.sigma })
}
