//! Items of a data set through a bundle's experts, batch by batch.

use std::collections::HashMap;

use anyhow::Context;
use indicatif::ProgressBar;
use tch::Tensor;

use super::dataset::Item;
use super::loader::Loader;
use super::statistics::Judged;
use super::trial;
use crate::media::Frames;
use crate::model::{Bundle, Ensemble, LoadOptions, Track};
use crate::text::{TokenIds, Tokenizer};

/// Items that are on the device at once: pictures, or clips, each of up to a bundle's most frames.
const IMAGES: usize = 16;
const VIDEOS: usize = 2;

/// How many items of `track` are judged at once.
pub(super) fn batch(track: Track) -> usize {
    match track {
        Track::Image => IMAGES,
        Track::Video => VIDEOS,
    }
}

/// A bundle's experts with what they have read so far.
pub(super) struct Judge {
    ensemble: Ensemble,
    tokenizer: Tokenizer,
    /// `[1, D]` of each prompt.
    prompts: HashMap<TokenIds, Tensor>,
}

/// `item` with what was predicted for it.
pub(super) fn judged(item: &Item, mos: f64, predicted: f64) -> Judged {
    Judged {
        mos,
        predicted,
        prompt: item.prompt.clone(),
        generator: item.generator.clone(),
        group: item.group.clone(),
        name: item.name.clone(),
        path: item.path.clone(),
    }
}

/// One expert's raw scores of an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Views {
    /// Of the frames as they are.
    pub(super) plain: f64,
    /// Of the frames as they are and flipped; as `plain` where the ensemble does not look at those.
    pub(super) both: f64,
}

impl Judge {
    pub(super) fn new(bundle: &Bundle, options: LoadOptions) -> anyhow::Result<Self> {
        let ensemble = Ensemble::load(bundle, options)?;
        Ok(Self { ensemble, tokenizer: trial::tokenizer(bundle)?, prompts: HashMap::new() })
    }

    pub(super) fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    /// Hands the items `indices`, all of `track`, over in batches: indices, frames and prompt embeddings. Those that
    /// cannot be read are said on stderr and left out.
    pub(super) fn each_batch(
        loader: &Loader,
        track: Track,
        indices: &[usize],
        bar: &ProgressBar,
        mut action: impl FnMut(&[usize], &[&Frames]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for loaded in loader.run(indices.chunks(batch(track)).map(<[usize]>::to_vec).collect(), 0) {
            for (_, problem) in &loaded.failed {
                eprintln!("{problem}; left out");
            }
            if !loaded.indices.is_empty() {
                action(&loaded.indices, &loaded.frames.iter().collect::<Vec<_>>())?;
            }
            bar.inc((loaded.indices.len() + loaded.failed.len()) as u64);
        }
        Ok(())
    }

    /// z of each item (Eq. 4), None where it is no finite number.
    pub(super) fn z(&mut self, track: Track, items: &[&Item], frames: &[&Frames]) -> anyhow::Result<Vec<Option<f64>>> {
        let text = self.text(items)?;
        let (scores, _) = self.ensemble.score(track, frames, &text)?;
        Ok(scores.into_iter().map(|score| score.ok().map(|score| score.z)).collect())
    }

    /// Raw scores of each item, by every expert of `track` in the bundle's order.
    pub(super) fn raw(&mut self, track: Track, items: &[&Item], frames: &[&Frames]) -> anyhow::Result<Vec<Vec<Views>>> {
        let text = self.text(items)?;
        let traces = self.ensemble.trace(track, frames, &text)?;
        let mut opinions = vec![Vec::with_capacity(traces.len()); items.len()];
        for trace in &traces {
            let both = trace.raw()?;
            let first = trace.views.first().context("an expert saw nothing")?;
            let plain =
                Vec::<f64>::try_from(first.head.raw.f_to_kind(tch::Kind::Double)?.f_to_device(tch::Device::Cpu)?)?;
            for (opinions, (plain, both)) in opinions.iter_mut().zip(plain.into_iter().zip(both)) {
                opinions.push(Views { plain, both });
            }
        }
        Ok(opinions)
    }

    fn text(&mut self, items: &[&Item]) -> anyhow::Result<Tensor> {
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let ids = self.tokenizer.encode(&item.prompt);
            let row = match self.prompts.get(&ids) {
                Some(row) => row.shallow_clone(),
                None => {
                    let row = self.ensemble.encode_prompts(&[&ids])?;
                    self.prompts.insert(ids, row.shallow_clone());
                    row
                }
            };
            rows.push(row);
        }
        Ok(Tensor::f_cat(&rows, 0)?)
    }
}
