//! Eq. 4's statistics of every expert for every setting that will be served, measured with the weights as the bundle has
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::entry;
use crate::model::{Bundle, Calibration, Device, Dtype, LoadOptions, Track};
use crate::train::calibrate::{Line, Statistics};
use crate::train::dataset::Item;
use crate::train::fit::Machine;
use crate::train::judging::{Judge, Views};
use crate::train::loader::{Loader, LoaderOptions};
use crate::train::progress;

/// How many times as steep as the other track's line from z to MOS one may be, where both are on one scale.
const MOST_UNLIKE: f64 = 2.0;

/// What was measured.
pub(super) struct Measured {
    pub(super) calibration: Vec<Calibration>,
    /// From z to MOS, over all tracks.
    all: Line,
    /// The same over each track alone, for the card.
    pub(super) fits: BTreeMap<Track, Line>,
}

/// Raw scores of one track's items in one number format.
struct Raw {
    track: Track,
    dtype: Dtype,
    /// MOS of each item, and what each expert says of it.
    opinions: Vec<(f64, Vec<Views>)>,
}

/// Scores `items` with the experts of `bundle` in every one of `dtypes`; each picture is decoded once.
pub(super) fn measure(
    bundle: &Bundle,
    device: Device,
    dtypes: &[Dtype],
    items: &[Item],
    machine: &Machine,
) -> anyhow::Result<Measured> {
    let mut judges = Vec::new();
    for &dtype in dtypes {
        judges.push((dtype, Judge::new(bundle, LoadOptions { device, dtype, tta: true })?));
    }
    let items = Arc::new(items.to_vec());
    let mut tracks: Vec<Track> = bundle.manifest().experts.iter().map(|expert| expert.track).collect();
    tracks.sort_unstable();
    tracks.dedup();
    let mut all = Vec::new();
    for track in tracks {
        all.extend(opinions(bundle, track, &items, &mut judges, machine)?);
    }
    summarise(bundle, &all)
}

fn opinions(
    bundle: &Bundle,
    track: Track,
    items: &Arc<Vec<Item>>,
    judges: &mut [(Dtype, Judge)],
    machine: &Machine,
) -> anyhow::Result<Vec<Raw>> {
    let (_, first) = judges.first().context("--dtypes: is empty")?;
    let wanted: Vec<usize> =
        (0..items.len()).filter(|&i| items.get(i).is_some_and(|item| item.track == track)).collect();
    let options = LoaderOptions {
        sides: first.ensemble().sides(track),
        threads: machine.loaders(),
        max_frames: bundle.manifest().max_frames,
        cache_bytes: 0,
        decoder: machine.decoder(),
        ..LoaderOptions::default()
    };
    let loader = Loader::new(Arc::clone(items), options)?;
    let mut raw: Vec<Raw> =
        judges.iter().map(|(dtype, _)| Raw { track, dtype: *dtype, opinions: Vec::new() }).collect();
    let bar = progress::count("calibration", wanted.len() as u64);
    Judge::each_batch(&loader, track, &wanted, &bar, |indices, frames| {
        let batch: Vec<&Item> = indices.iter().filter_map(|&index| items.get(index)).collect();
        for ((_, judge), raw) in judges.iter_mut().zip(&mut raw) {
            let said = judge.raw(track, &batch, frames)?;
            raw.opinions.extend(batch.iter().zip(said).filter_map(|(item, said)| Some((item.mos?, said))));
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(raw)
}

fn summarise(bundle: &Bundle, all: &[Raw]) -> anyhow::Result<Measured> {
    let mut calibration = Vec::new();
    let mut pairs: BTreeMap<Track, Vec<(f64, f64)>> = BTreeMap::new();
    for raw in all {
        for tta in [false, true] {
            let experts: Vec<_> = bundle.manifest().experts.iter().filter(|expert| expert.track == raw.track).collect();
            let mut z = vec![0.0; raw.opinions.len()];
            for (place, expert) in experts.iter().enumerate() {
                let values: Vec<f64> = raw.column(place, tta);
                let statistics = Statistics::of(&values).with_context(|| format!("expert {}", expert.name))?;
                calibration.push(entry(&expert.name, expert.input_size, tta, raw.dtype, statistics));
                for (z, raw) in z.iter_mut().zip(values) {
                    *z += statistics.z(raw) / experts.len() as f64;
                }
            }
            // One line serves all settings: it is that of the first number format without augmentation.
            if !tta && !pairs.contains_key(&raw.track) {
                pairs.insert(raw.track, z.into_iter().zip(raw.opinions.iter().map(|(mos, _)| *mos)).collect());
            }
        }
    }
    let mut fits = BTreeMap::new();
    for (&track, pairs) in &pairs {
        let fit = Line::fit(std::slice::from_ref(pairs)).with_context(|| format!("track {}", track.name()))?;
        fits.insert(track, fit);
    }
    let all = Line::fit(&pairs.into_values().collect::<Vec<_>>())?;
    Ok(Measured { calibration, all, fits })
}

impl Measured {
    /// From z to MOS: of `track` alone, or of all tracks, which must be on one scale then.
    pub(super) fn line(&self, track: Option<Track>) -> anyhow::Result<Line> {
        if let Some(track) = track {
            return self.fits.get(&track).copied().with_context(|| format!("no {} was measured", track.name()));
        }
        if let (Some(image), Some(video)) = (self.fits.get(&Track::Image), self.fits.get(&Track::Video)) {
            let (low, high) = (image.std.min(video.std), image.std.max(video.std));
            ensure!(
                high <= MOST_UNLIKE * low && (image.mean - video.mean).abs() <= high,
                "images and videos are on different scales: of images alone MOS = {} + {} z, of videos {} + {} z; \
                 --mos-track says whose scale the bundle has, or make a bundle of each track",
                image.mean,
                image.std,
                video.mean,
                video.std
            );
        }
        Ok(self.all)
    }
}

impl Raw {
    /// What expert `place` says of each item.
    fn column(&self, place: usize, tta: bool) -> Vec<f64> {
        let views = self.opinions.iter().filter_map(|(_, experts)| experts.get(place));
        views.map(|views| if tta { views.both } else { views.plain }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scale_is_of_both_tracks_or_of_the_one_that_is_named() {
        let line = |mean, std| Line { mean, std };
        let measured = |image, video| Measured {
            calibration: Vec::new(),
            all: line(9.0, 9.0),
            fits: BTreeMap::from([(Track::Image, image), (Track::Video, video)]),
        };
        let one = measured(line(3.2, 0.9), line(2.9, 0.7));
        assert_eq!(one.line(None).unwrap(), line(9.0, 9.0));
        assert_eq!(one.line(Some(Track::Video)).unwrap(), line(2.9, 0.7));
        for video in [line(52.0, 15.0), line(3.2, 0.3), line(4.5, 0.9)] {
            let error = measured(line(3.2, 0.9), video).line(None).unwrap_err().to_string();
            assert!(error.contains("on different scales") && error.contains("--mos-track"), "{error}");
            assert_eq!(measured(line(3.2, 0.9), video).line(Some(Track::Image)).unwrap(), line(3.2, 0.9));
        }
    }
}
