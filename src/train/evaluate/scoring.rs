//! A bundle's scores of a data set's items, in process.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::system::{Kind, System};
use crate::media::Frames;
use crate::model::{Bundle, Dtype, Ensemble, EnsembleScore, ExpertTrace, LoadOptions, Manifest, ModelError, Track};
use crate::text::{TokenIds, Tokenizer};
use crate::train::dataset::Item;
use crate::train::judging::batch;
use crate::train::loader::{Loaded, Loader, LoaderOptions};
use crate::train::{progress, trial};

/// What is scored.
pub(super) struct ScoringOptions {
    /// With test-time augmentation too, where the bundle is calibrated for it.
    pub(super) tta: bool,
    /// For other items' prompts too.
    pub(super) shuffle_prompts: bool,
    /// Where the networks compute.
    pub(super) device: Device,
    /// Threads that read and decode.
    pub(super) loaders: usize,
    /// The `pcqa-decoder` executable.
    pub(super) decoder: PathBuf,
}

/// The scores of all items.
pub(super) struct Scored {
    /// The best setting's ensemble first.
    pub(super) systems: Vec<System>,
    /// Items without a score, each with its name and the reason.
    pub(super) failed: Vec<(usize, String)>,
}

/// Scores `items`, all of `track`, with the ensemble and with each expert alone.
pub(super) fn score(
    bundle: &Bundle,
    track: Track,
    items: &Arc<Vec<Item>>,
    options: &ScoringOptions,
) -> anyhow::Result<Scored> {
    let mut scorer = Scorer::new(bundle, track, items, options)?;
    let loader = Loader::new(
        items.clone(),
        LoaderOptions {
            sides: scorer.ensemble.sides(track),
            max_frames: bundle.manifest().max_frames,
            threads: options.loaders,
            cache_bytes: 0,
            decoder: options.decoder.clone(),
            ..LoaderOptions::default()
        },
    )?;
    // Items of one prompt one after the other: the text towers read it once for all of a batch.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&item| &items[item].prompt);
    let bar = progress::count("scoring", items.len() as u64);
    for loaded in loader.run(order.chunks(batch(track)).map(<[usize]>::to_vec).collect(), 0) {
        bar.inc((loaded.indices.len() + loaded.failed.len()) as u64);
        scorer.take(loaded)?;
    }
    bar.finish_and_clear();
    Ok(Scored { systems: scorer.systems, failed: scorer.failed })
}

struct Scorer<'a> {
    track: Track,
    items: &'a [Item],
    ensemble: Ensemble,
    tokenizer: Tokenizer,
    /// Test-time augmentation, the best setting first.
    settings: Vec<bool>,
    /// Another prompt for each one.
    others: Option<HashMap<&'a str, &'a str>>,
    systems: Vec<System>,
    failed: Vec<(usize, String)>,
}

impl<'a> Scorer<'a> {
    fn new(bundle: &Bundle, track: Track, items: &'a [Item], options: &ScoringOptions) -> anyhow::Result<Self> {
        let manifest = bundle.manifest();
        let has_f32 = |tta| is_calibrated(manifest, track, tta, Dtype::F32);
        let dtype = if has_f32(false) || has_f32(true) { Dtype::F32 } else { Dtype::Bf16 };
        let holds = |tta: &bool| is_calibrated(manifest, track, *tta, dtype);
        let wanted = if options.tta { &[true, false][..] } else { &[false] };
        let settings: Vec<bool> = wanted.iter().copied().filter(holds).collect();
        // Where none holds, loading says what is missing.
        let tta = settings.first().copied().unwrap_or(options.tta);
        let ensemble = Ensemble::load(bundle, LoadOptions { device: options.device, dtype, tta })?;
        let others = options.shuffle_prompts.then(|| other_prompts(items));
        let experts = manifest.experts.iter().filter(|expert| expert.track == track);
        let mut names = vec![("ensemble", Kind::Ensemble)];
        names.extend(experts.map(|expert| (expert.name.as_str(), Kind::Expert)));
        names.extend(others.as_ref().map(|_| ("ensemble, prompts shuffled", Kind::ShuffledPrompts)));
        let system = |name: &str, kind, tta| System {
            name: format!("{name}{}", if tta { ", TTA" } else { "" }),
            kind,
            tta: Some(tta),
            predicted: vec![None; items.len()],
        };
        let of_setting = |&tta| names.iter().map(move |&(name, kind)| system(name, kind, tta));
        let systems = settings.iter().flat_map(of_setting).collect();
        let tokenizer = trial::tokenizer(bundle)?;
        Ok(Self { track, items, ensemble, tokenizer, settings, others, systems, failed: Vec::new() })
    }

    fn take(&mut self, loaded: Loaded) -> anyhow::Result<()> {
        self.failed.extend(loaded.failed);
        if loaded.indices.is_empty() {
            return Ok(());
        }
        let items: &'a [Item] = self.items;
        let mut prompts: Vec<&str> = loaded.indices.iter().map(|&item| items[item].prompt.as_str()).collect();
        let mut frames: Vec<&Frames> = loaded.frames.iter().collect();
        if let Some(others) = &self.others {
            // The same frames for another prompt: they are looked at once.
            prompts.extend(loaded.indices.iter().map(|&item| others[items[item].prompt.as_str()]));
            frames.extend(&loaded.frames);
        }
        let text = self.encode(&prompts)?;
        let traces = self.ensemble.trace(self.track, &frames, &text)?;
        let raw = traces.iter().map(views).collect::<Result<Vec<_>, _>>()?;
        let count = loaded.indices.len();
        for (place, &item) in loaded.indices.iter().enumerate() {
            let scores = self.settings.iter().map(|&tta| {
                let raw = |place: usize| raw.iter().map(|views| of_views(views, place, tta)).collect::<Vec<_>>();
                let own = self.ensemble.combine(self.track, &raw(place), tta)?;
                let other = self.others.as_ref().map(|_| self.ensemble.combine(self.track, &raw(count + place), tta));
                Ok((own, other.transpose()?))
            });
            match scores.collect::<Result<Vec<_>, ModelError>>() {
                Ok(scores) => self.keep(item, &scores),
                Err(error @ ModelError::NotFinite { .. }) => {
                    self.failed.push((item, format!("{}: {error}", items[item].name)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes an item's scores of each setting into the systems, which are in the same order.
    fn keep(&mut self, item: usize, scores: &[(EnsembleScore, Option<EnsembleScore>)]) {
        let scale = &self.ensemble.manifest().mos;
        let mut values = Vec::with_capacity(self.systems.len());
        for (own, other) in scores {
            values.push(own.mos);
            values.extend(own.experts.iter().map(|expert| scale.mean + scale.std * expert.z));
            values.extend(other.as_ref().map(|other| other.mos));
        }
        for (system, value) in self.systems.iter_mut().zip(values) {
            system.predicted[item] = Some(value);
        }
    }

    /// The embeddings of `prompts`, row by row, each different one computed once.
    fn encode(&self, prompts: &[&str]) -> anyhow::Result<Tensor> {
        let distinct: Vec<&str> = prompts.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let ids: Vec<TokenIds> = distinct.iter().map(|prompt| self.tokenizer.encode(prompt)).collect();
        let embeddings = self.ensemble.encode_prompts(&ids.iter().collect::<Vec<_>>())?;
        let row = |prompt: &&str| distinct.binary_search(prompt).map_or(0, |row| row as i64);
        let rows = Tensor::from_slice(&prompts.iter().map(row).collect::<Vec<_>>()).to_device(embeddings.device());
        Ok(embeddings.f_index_select(0, &rows)?)
    }
}

/// Whether Eq. 4 has statistics for every expert of `track`.
fn is_calibrated(manifest: &Manifest, track: Track, tta: bool, dtype: Dtype) -> bool {
    manifest.experts.iter().filter(|expert| expert.track == track).all(|expert| {
        manifest.calibration.iter().any(|entry| {
            entry.expert == expert.name
                && entry.tta == tta
                && entry.input_size == expert.input_size
                && entry.dtypes.iter().any(|name| name == dtype.name())
        })
    })
}

/// Raw scores of each view of the frames, by item.
fn views(trace: &ExpertTrace) -> anyhow::Result<Vec<Vec<f64>>> {
    let raw =
        |tensor: &Tensor| Ok(Vec::<f64>::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(tch::Kind::Double)?)?);
    trace.views.iter().map(|view| raw(&view.head.raw)).collect()
}

/// The mean over the views with test-time augmentation, the first one without.
fn of_views(views: &[Vec<f64>], item: usize, tta: bool) -> f64 {
    let views = if tta { views } else { &views[..1] };
    views.iter().map(|raw| raw[item]).sum::<f64>() / views.len() as f64
}

/// Another one of the prompts for each one: the next on a shuffled ring. Its own where there is no other.
fn other_prompts(items: &[Item]) -> HashMap<&str, &str> {
    let prompts: BTreeSet<&str> = items.iter().map(|item| item.prompt.as_str()).collect();
    let mut ring: Vec<&str> = prompts.into_iter().collect();
    ring.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    let next = ring.iter().cycle().skip(1).copied();
    ring.iter().copied().zip(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_gets_another() {
        let item = |i: usize| Item {
            name: i.to_string(),
            path: i.to_string().into(),
            prompt: format!("prompt {}", i / 2),
            mos: None,
            generator: None,
            group: None,
            track: Track::Image,
        };
        let items: Vec<Item> = (0..40).map(item).collect();
        let others = other_prompts(&items);
        assert_eq!(others.len(), 20);
        assert!(others.iter().all(|(prompt, other)| prompt != other));
        assert_eq!(others.values().collect::<BTreeSet<_>>().len(), 20);
        let alone = other_prompts(&items[..2]);
        assert_eq!(alone["prompt 0"], "prompt 0");
    }
}
