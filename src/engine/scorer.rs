//! What the engine asks of a device: the ensemble in production, something cheaper in the engine's own tests.

use crate::media::Frames;
use crate::model::{
    Asked, BatchTimings, Calibration, Ensemble, EnsembleScore, ExpertSpec, Fault, LoadOptions, Manifest, ModelError,
    Track,
};
use crate::text::TokenIds;

/// What is served, as plain values that outlive the device's thread.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// Length of each text tower's embedding, in the manifest's order.
    pub text_dims: Vec<i64>,
    /// How the bundle was put on the device.
    pub options: LoadOptions,
}

impl ModelFacts {
    /// The distinct sides in pixels that the experts of `track` take, ascending; empty where the bundle has none.
    pub fn sides(&self, track: Track) -> Vec<u32> {
        let experts = self.manifest.experts.iter().filter(|expert| expert.track == track);
        let mut sides: Vec<u32> = experts.map(|expert| expert.input_size).collect();
        sides.sort_unstable();
        sides.dedup();
        sides
    }

    /// Bytes of one prompt embedding on the device.
    pub fn embedding_bytes(&self) -> u64 {
        self.text_dims.iter().map(|dim| dim.unsigned_abs() * 4).sum()
    }

    /// The calibration in force for `expert`.
    pub fn calibration(&self, expert: &ExpertSpec) -> Option<&Calibration> {
        self.manifest.calibrated(expert, self.options.dtype, self.options.tta)
    }
}

/// One device with a model on it. Made, used and dropped on one thread.
pub trait Scorer {
    /// One prompt's embedding, on the device.
    type Text;

    /// A batch that the device was asked to score.
    type Asked;

    /// What is served.
    fn facts(&self) -> ModelFacts;

    /// The embedding of every one of `prompts`. One that is kept must not keep the others.
    fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Vec<Self::Text>, ModelError>;

    /// As [`Ensemble::ask`]. Another batch may be asked for before this one is answered.
    fn ask(&self, track: Track, items: &[&Frames], texts: &[&Self::Text]) -> Result<Self::Asked, ModelError>;

    /// Whether [`ask`](Self::ask) takes next to no time, for batches of every track of at most `max_frames`: only then
    /// can the device be asked while it computes, since nothing is answered meanwhile.
    fn asks_at_once(&self, max_frames: u32) -> bool;

    /// Whether [`answer`](Self::answer) would wait for nothing.
    fn has_answer(&self, asked: &Self::Asked) -> bool;

    /// As [`Ensemble::answer`], in the order in which batches were asked for.
    fn answer(&self, asked: &Self::Asked)
    -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError>;

    /// Frames of the batches of `track` that the first request must not be the first to bring, ascending.
    fn warm_up_frames(&self, track: Track) -> Vec<u32> {
        vec![if track == Track::Image { 1 } else { self.facts().manifest.max_frames }]
    }

    /// What `error`, which [`encode_prompts`](Self::encode_prompts), [`ask`](Self::ask) or [`answer`](Self::answer) gave,
    /// says about the device.
    fn diagnose(&self, _error: &ModelError) -> Fault {
        Fault::Batch
    }
}

impl Scorer for Ensemble {
    /// `[D]` in f32.
    type Text = tch::Tensor;
    type Asked = Asked;

    fn facts(&self) -> ModelFacts {
        let text_dims = self.text_dims().into_iter().map(|(_, dim)| dim).collect();
        ModelFacts { manifest: self.manifest().clone(), text_dims, options: self.options() }
    }

    fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Vec<Self::Text>, ModelError> {
        let rows = self.encode_prompts(prompts)?;
        (0..prompts.len() as i64).map(|row| Ok(rows.f_get(row)?.f_to_dtype(rows.kind(), false, true)?)).collect()
    }

    fn ask(&self, track: Track, items: &[&Frames], texts: &[&Self::Text]) -> Result<Asked, ModelError> {
        self.ask(track, items, &tch::Tensor::f_stack(texts, 0)?)
    }

    fn asks_at_once(&self, max_frames: u32) -> bool {
        self.is_recorded(max_frames)
    }

    fn has_answer(&self, asked: &Asked) -> bool {
        // An error is an answer.
        asked.has_passed().unwrap_or(true)
    }

    fn answer(&self, asked: &Asked) -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError> {
        self.answer(asked)
    }

    fn warm_up_frames(&self, track: Track) -> Vec<u32> {
        match self.fixed_sizes() {
            [] if track == Track::Image => vec![1],
            [] => vec![self.manifest().max_frames],
            sizes => sizes.to_vec(),
        }
    }

    fn diagnose(&self, error: &ModelError) -> Fault {
        self.diagnose(error)
    }
}
