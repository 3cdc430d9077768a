//! Batches between being asked of a device and their answers: a GPU computes one while the next one is brought to it.

use std::time::Instant;

use tch::Tensor;

use super::{BatchTimings, Ensemble, EnsembleScore, ExpertTrace};
use crate::media::Frames;
use crate::model::{ModelError, Track};
use crate::native::{self, Moment, Pinned};

/// A batch that a device was asked to score. The frames and embeddings that it is made of are needed no more.
#[derive(Debug)]
pub struct Asked {
    track: Track,
    /// f of each of the track's experts for each item, `[experts, items]` in f64, in this process's memory.
    raw: Pinned,
    since: Instant,
    /// When the embeddings are there.
    seen: Moment,
    /// When the raw scores are there.
    judged: Moment,
}

impl Asked {
    /// Whether its scores are there.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn has_passed(&self) -> Result<bool, ModelError> {
        Ok(self.judged.has_passed()?)
    }
}

impl Ensemble {
    /// Asks the device to score a batch, as [`score`](Self::score) does, without waiting for it.
    pub fn ask(&self, track: Track, items: &[&Frames], text: &Tensor) -> Result<Asked, ModelError> {
        let since = Instant::now();
        let (traces, seen) = self.traced(track, items, text)?;
        let raw = traces.iter().map(ExpertTrace::mean).collect::<Result<Vec<_>, _>>()?;
        let raw = native::downloaded(Tensor::f_stack(&raw, 0)?)?;
        Ok(Asked { track, raw, since, seen, judged: Moment::mark(self.options.device)? })
    }

    /// Waits for the scores of a batch. A device answers in the order in which it was asked.
    pub fn answer(&self, asked: &Asked) -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError> {
        asked.judged.wait()?;
        let begin = Instant::now();
        let mut opinions = vec![Vec::new(); usize::try_from(asked.raw.size2()?.1).unwrap_or(0)];
        for (row, member) in (0..).zip(self.members_of(asked.track)) {
            let raw: Vec<f64> = Vec::try_from(asked.raw.f_get(row)?)?;
            for (opinions, raw) in opinions.iter_mut().zip(raw) {
                opinions.push(member.opinion(raw));
            }
        }
        let combine = |experts| EnsembleScore::new(experts, &self.manifest.mos);
        let scores = opinions.into_iter().map(combine).collect();
        let now = Instant::now();
        // A batch that was asked for while another was computed begins when that has ended.
        let elapsed = now - self.answered.replace(Some(now)).map_or(asked.since, |last| last.max(asked.since));
        let head = asked.judged.since(&asked.seen)? + (now - begin);
        Ok((scores, BatchTimings { vision: elapsed.saturating_sub(head), head }))
    }
}
