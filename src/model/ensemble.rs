//! The scoring path of one device: text towers, experts, Eq. 4.

mod asked;
mod device;
mod fixed;
mod inputs;
mod options;
mod score;
mod trust;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tch::{Device, Kind, TchError, Tensor};

pub use self::asked::Asked;
pub use self::device::{Fault, Serving};
use self::fixed::{Features, FixedSizes};
use self::inputs::{Distinct, Uploaded};
pub(crate) use self::inputs::{Inputs, upload};
pub use self::options::{Dtype, LoadOptions};
use self::score::calibration;
pub use self::score::{EnsembleScore, ExpertScore};
use super::head::HeadTrace;
use super::{Bundle, BundleFile, Expert, ExpertSpec, Manifest, ModelError, TextTower, TextTowerSpec, Track, Weights};
use crate::media::Frames;
use crate::native::{self, Moment, kernels};
use crate::text::TokenIds;

/// Where a batch's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchTimings {
    /// Upload, normalisation and backbones.
    pub vision: Duration,
    /// Temporal modules, adapters, mixers, heads and Eq. 4.
    pub head: Duration,
}

/// All networks of a bundle on one device. Not to be shared between threads: one worker owns it.
pub struct Ensemble {
    manifest: Manifest,
    options: LoadOptions,
    towers: Vec<TextTower>,
    members: Vec<Member>,
    /// Where batches have fixed sizes.
    fixed: Option<FixedSizes>,
    /// Whether [our own kernels](kernels) serve.
    kernels: bool,
    /// When the last batch was answered.
    answered: Cell<Option<Instant>>,
}

/// An expert with what turns its raw scores into z.
struct Member {
    spec: ExpertSpec,
    expert: Expert,
    mu: f64,
    sigma: f64,
}

/// Every step of one expert, for a batch of B items.
pub struct ExpertTrace {
    /// Name in the bundle.
    pub name: String,
    /// The frames as they are and, with test-time augmentation, flipped horizontally.
    pub views: Vec<ViewTrace>,
}

/// Every step over one view of the frames.
pub struct ViewTrace {
    /// Embeddings of the distinct items' frames, `[N, C]` in f32: items of the same bytes have theirs in common.
    pub features: Tensor,
    /// The rest.
    pub head: HeadTrace,
}

impl Ensemble {
    /// Loads every network of `bundle`. Refused when a tensor is missing, surplus or misshapen, or when the bundle has
    /// no calibration for these options.
    pub fn load(bundle: &Bundle, options: LoadOptions) -> Result<Self, ModelError> {
        let ensemble = Self::from_files(bundle.manifest(), options, |name| bundle.file(name))?;
        let kernels = device::has_kernels(options) && ensemble.trusts_kernels();
        Ok(Self { kernels, ..ensemble })
    }

    /// As [`load`](Self::load), of a manifest and a function that gives the files by their names in it, and with libtorch's
    /// operations alone.
    pub fn from_files(
        manifest: &Manifest,
        options: LoadOptions,
        file: impl Fn(&str) -> Result<BundleFile, ModelError>,
    ) -> Result<Self, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let LoadOptions { device, dtype, .. } = options;
        let mut towers = Vec::with_capacity(manifest.text.towers.len());
        for spec in &manifest.text.towers {
            let file = file(&spec.weights)?;
            let weights = Weights::of(&file, device, dtype.kind())?;
            let tower = TextTower::load(spec, weights)?;
            check_context(manifest, spec, &tower)?;
            towers.push(tower);
            native::give_back_memory();
        }
        let text_dim = towers.iter().map(TextTower::dim).sum();
        let mut members = Vec::with_capacity(manifest.experts.len());
        for spec in &manifest.experts {
            let (mu, sigma) = calibration(manifest, spec, options)?;
            let (backbone, head) = (file(&spec.backbone.weights)?, file(&spec.head)?);
            let backbone = Weights::of(&backbone, device, dtype.kind())?;
            let head = Weights::of(&head, device, Kind::Float)?;
            let expert = Expert::load(spec, backbone, head, text_dim)?;
            members.push(Member { spec: spec.clone(), expert, mu, sigma });
            native::give_back_memory();
        }
        let (fixed, kernels, answered) = (None, false, Cell::new(None));
        Ok(Self { manifest: manifest.clone(), options, towers, members, fixed, kernels, answered })
    }

    /// As [`load`](Self::load), by the thread that is to serve, which the device is made ready for.
    pub fn serve(bundle: &Bundle, options: LoadOptions, serving: Serving) -> Result<Self, ModelError> {
        device::prepare(options.device, serving.memory_bytes)?;
        let ensemble = Self::from_files(bundle.manifest(), options, |name| bundle.file(name))?;
        let kernels = serving.kernels && device::has_kernels(options) && ensemble.trusts_kernels();
        let ensemble = Self { kernels, ..ensemble };
        // Every size costs the CPU what it has.
        let pays = options.device != Device::Cpu;
        if pays { ensemble.in_fixed_sizes(serving.max_batch_frames, serving.graphs) } else { Ok(ensemble) }
    }

    /// From now on batches of at most `max_frames` are padded up to one of few sizes; with `graphs`, a CUDA device is
    /// asked for each of them in one call when it has been seen once.
    pub fn in_fixed_sizes(self, max_frames: u32, graphs: bool) -> Result<Self, ModelError> {
        Ok(Self { fixed: Some(FixedSizes::new(self.options.device, max_frames, graphs)?), ..self })
    }

    /// The fixed sizes in frames, ascending; none where batches are as large as they are.
    pub fn fixed_sizes(&self) -> &[u32] {
        self.fixed.as_ref().map_or(&[], FixedSizes::sizes)
    }

    /// How many of the fixed sizes of `track` are asked for in one call.
    pub fn recorded_sizes(&self, track: Track) -> usize {
        self.fixed.as_ref().map_or(0, |fixed| fixed.recorded(track))
    }

    /// Whether batches of `frames` are asked for in one call, on every track that there is.
    pub fn is_recorded(&self, frames: u32) -> bool {
        let Some(fixed) = &self.fixed else { return false };
        self.members.iter().all(|member| fixed.is_recorded(member.spec.track, frames))
    }

    /// What `error` says about the device.
    pub fn diagnose(&self, error: &ModelError) -> Fault {
        device::diagnose(self.options.device, error)
    }

    /// The bundle's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The distinct sides, in pixels and ascending, that the experts of `track` take frames at.
    pub fn sides(&self, track: Track) -> Vec<u32> {
        let sides: BTreeSet<u32> = self.members_of(track).map(|member| member.spec.input_size).collect();
        sides.into_iter().collect()
    }

    /// How the bundle was put on the device.
    pub fn options(&self) -> LoadOptions {
        self.options
    }

    /// Name and embedding width D of each text tower, in the order of concatenation.
    pub fn text_dims(&self) -> Vec<(&str, i64)> {
        self.manifest
            .text
            .towers
            .iter()
            .zip(&self.towers)
            .map(|(spec, tower)| (spec.name.as_str(), tower.dim()))
            .collect()
    }

    /// The concatenated prompt embeddings u, `[prompts.len(), sum of towers' D]` in f32, on the device.
    pub fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let _kernels = kernels::scope(self.options.device, self.kernels);
        let mut parts = Vec::with_capacity(self.towers.len());
        for tower in &self.towers {
            let embedding = tower.forward(prompts)?;
            parts.push(if self.manifest.text.l2_norm { unit_length(&embedding)? } else { embedding });
        }
        Ok(Tensor::f_cat(&parts, -1)?)
    }

    /// Scores one batch of one track. `text` is `[items.len(), D]`, row by row the items' prompt embeddings. Items may
    /// have different numbers of frames. A score does not depend on its neighbours, and neither does a failure: an item
    /// whose score is not a finite number has an error of its own. The outer error is the whole batch's.
    pub fn score(
        &self,
        track: Track,
        items: &[&Frames],
        text: &Tensor,
    ) -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError> {
        self.answer(&self.ask(track, items, text)?)
    }

    /// What [`score`](Self::score) computes before Eq. 4, step by step and expert by expert.
    pub fn trace(&self, track: Track, items: &[&Frames], text: &Tensor) -> Result<Vec<ExpertTrace>, ModelError> {
        self.traced(track, items, text).map(|(traces, _)| traces)
    }

    /// As [`trace`](Self::trace), with the moment when the embeddings are there. Asks the device and does not wait.
    fn traced(&self, track: Track, items: &[&Frames], text: &Tensor) -> Result<(Vec<ExpertTrace>, Moment), ModelError> {
        let _no_grad = tch::no_grad_guard();
        let _kernels = kernels::scope(self.options.device, self.kernels);
        self.check_batch(track, items, text)?;
        let distinct = Distinct::new(items);
        let sides = self.sides(track);
        let compute = |uploaded: &Uploaded| self.features(track, uploaded);
        let features = match &self.fixed {
            Some(fixed) => fixed.features(track, &distinct.frames, &sides, compute)?,
            None => compute(&upload(&distinct.frames, &sides, self.options.device)?)?,
        };
        let seen = Moment::mark(self.options.device)?;
        let counts = distinct.counts();
        let mut traces = Vec::with_capacity(features.len());
        for (member, views) in self.members_of(track).zip(features) {
            let judge = |features: Tensor| -> Result<ViewTrace, ModelError> {
                let head = member.expert.judge(&distinct.spread(&features)?, &counts, text)?;
                Ok(ViewTrace { features, head })
            };
            let views = views.into_iter().map(judge).collect::<Result<_, _>>()?;
            traces.push(ExpertTrace { name: member.spec.name.clone(), views });
        }
        Ok((traces, seen))
    }

    /// Eq. 4 of one item's raw scores, which are those of `track`'s experts in their order, with the calibration that
    /// holds with or without test-time augmentation: so that one look at both views gives both results.
    pub fn combine(&self, track: Track, raw: &[f64], tta: bool) -> Result<EnsembleScore, ModelError> {
        let options = LoadOptions { tta, ..self.options };
        let opinion = |(member, &raw): (&Member, &f64)| {
            let (mu, sigma) = calibration(&self.manifest, &member.spec, options)?;
            Ok(ExpertScore { name: member.spec.name.clone(), raw, z: (raw - mu) / sigma })
        };
        let experts = self.members_of(track).zip(raw).map(opinion).collect::<Result<_, ModelError>>()?;
        EnsembleScore::new(experts, &self.manifest.mos)
    }

    /// Embeddings of each of the track's experts over each view. Asks the device for work and never waits for it.
    fn features(&self, track: Track, uploaded: &Uploaded) -> Result<Features, ModelError> {
        let mut inputs = Inputs::new(self.options.dtype, uploaded);
        let mut features = Features::new();
        for member in self.members_of(track) {
            let frames = inputs.normalised(&member.spec)?;
            let mut views = vec![member.expert.features(&frames)?];
            if self.options.tta {
                views.push(member.expert.features(&frames.f_flip([-1])?)?);
            }
            features.push(views);
        }
        Ok(features)
    }

    fn members_of(&self, track: Track) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.spec.track == track)
    }

    fn check_batch(&self, track: Track, items: &[&Frames], text: &Tensor) -> Result<(), ModelError> {
        if items.is_empty() {
            return Err(ModelError::Input("a batch has no items".to_owned()));
        }
        if self.members_of(track).next().is_none() {
            return Err(ModelError::Input(format!("the bundle has no expert for the {track:?} track")));
        }
        let most = if track == Track::Image { 1 } else { self.manifest.max_frames };
        if let Some(item) = items.iter().find(|item| item.count < 1 || item.count > most) {
            return Err(ModelError::Input(format!("an item has {} frames, expected 1 to {most}", item.count)));
        }
        let expected = [items.len() as i64, self.towers.iter().map(TextTower::dim).sum()];
        if text.size() != expected {
            return Err(ModelError::Input(format!("text is {:?}, expected {expected:?}", text.size())));
        }
        Ok(())
    }
}

impl Member {
    fn opinion(&self, raw: f64) -> ExpertScore {
        ExpertScore { name: self.spec.name.clone(), raw, z: (raw - self.mu) / self.sigma }
    }
}

impl ExpertTrace {
    /// f of each item: the mean over the views.
    pub fn raw(&self) -> Result<Vec<f64>, ModelError> {
        Ok(Vec::try_from(self.mean()?.f_to_device(Device::Cpu)?)?)
    }

    /// As [`raw`](Self::raw), `[B]` in f64 on the device.
    fn mean(&self) -> Result<Tensor, TchError> {
        let views: Vec<&Tensor> = self.views.iter().map(|view| &view.head.raw).collect();
        Tensor::f_stack(&views, 0)?.f_mean_dim([0].as_slice(), false, Kind::Double)
    }
}

fn check_context(manifest: &Manifest, spec: &TextTowerSpec, tower: &TextTower) -> Result<(), ModelError> {
    let (wanted, has) = (manifest.text.context_length, tower.context_length());
    if i64::try_from(wanted).is_ok_and(|wanted| wanted <= has) {
        return Ok(());
    }
    let problem = format!("is {wanted}, but tower {} has positions for {has}", spec.name);
    Err(ModelError::Manifest { key: "text.context_length".to_owned(), problem })
}

/// Each row scaled to length 1; rows shorter than 1e-12 keep their direction (torch's `normalize`).
pub(crate) fn unit_length(x: &Tensor) -> Result<Tensor, TchError> {
    let length = x.f_norm_scalaropt_dim(2.0, [-1], true)?;
    x.f_div(&length.f_clamp_min(1e-12)?)
}
