//! A device without libtorch, and a house around it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::engine::*;
use crate::media::{FrameStack, Frames};
use crate::model::{
    Activation, Backbone, BackboneKind, BatchTimings, Device, Dtype, EnsembleScore, ExpertScore, ExpertSpec, Fault,
    LoadOptions, Manifest, Mixer, ModelError, MosScale, TextSpec, Track,
};
use crate::text::TokenIds;
use crate::trace::Parent;

/// The item alone fails.
pub const FAILS_ALONE: u8 = 252;
/// Batches of more than [`FITS`] frames that hold the item have too little memory.
pub const LARGE: u8 = 250;
pub const FITS: u32 = 16;
/// The item's batch fails, and the device says that it is lost.
pub const LOSES_DEVICE: u8 = 251;
/// The item's batch fails, and every one after it.
pub const BREAKS_DEVICE: u8 = 253;
/// The device panics.
pub const PANICS: u8 = 254;
/// The item's batch fails.
pub const FAILS_BATCH: u8 = 255;

/// Scores an item by the first byte of its frames, with its prompt's length as z. While the gate is shut, batches wait
/// before it, other than the warm-up's of blank frames: when they are asked for, or, of one that computes beside its
/// thread, when they are to be answered.
#[derive(Clone, Default)]
pub struct Fake {
    pub gate: Arc<Gate>,
    /// The first bytes of the items of every batch that was scored.
    pub batches: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Prompts that went through the text towers.
    pub encoded: Arc<Mutex<Vec<Vec<u32>>>>,
    pub broken: Arc<AtomicBool>,
    /// Sizes of images that it wants to be warmed up in.
    pub sizes: Option<Vec<u32>>,
    /// Whether it computes beside its thread.
    pub beside: bool,
    /// In their order.
    pub events: Arc<Mutex<Vec<Event>>>,
}

/// What happened to the items of these first bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Asked(Vec<u8>),
    Answered(Vec<u8>),
}

type Scores = Vec<Result<EnsembleScore, ModelError>>;

/// What it was asked.
pub struct Asked {
    bytes: Vec<u8>,
    frames: u32,
    texts: Vec<usize>,
    /// Where it computes on its thread.
    scores: RefCell<Option<Scores>>,
}

#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
    /// Batches that have come to the gate.
    arrived: AtomicU32,
}

impl Gate {
    pub fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let _open = self.changed.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap();
    }
}

impl Fake {
    fn compute(&self, Asked { bytes, frames, texts, .. }: &Asked) -> Result<Scores, ModelError> {
        if *bytes != [0] {
            self.gate.pass();
        }
        if bytes.contains(&BREAKS_DEVICE) {
            self.broken.store(true, Ordering::SeqCst);
        }
        if bytes.contains(&LARGE) && *frames > FITS {
            return Err(ModelError::Device(tch::TchError::FileFormat("memory".to_owned())));
        }
        if bytes.contains(&LOSES_DEVICE) {
            return Err(ModelError::Device(tch::TchError::FileFormat("never again".to_owned())));
        }
        if bytes.contains(&PANICS) {
            panic!("a device that panics");
        }
        if bytes.contains(&FAILS_BATCH) || self.broken.load(Ordering::SeqCst) {
            return Err(ModelError::Device(tch::TchError::FileFormat("lost".to_owned())));
        }
        self.batches.lock().unwrap().push(bytes.clone());
        let score = |(&byte, &text): (&u8, &usize)| match byte {
            FAILS_ALONE => Err(ModelError::NotFinite { what: "fake".to_owned(), value: f64::NAN }),
            _ => Ok(score(f64::from(byte), text as f64)),
        };
        Ok(bytes.iter().zip(texts).map(score).collect())
    }
}

impl Scorer for Fake {
    type Text = usize;
    type Asked = Asked;

    fn facts(&self) -> ModelFacts {
        ModelFacts { manifest: manifest(), text_dims: vec![8], options: OPTIONS }
    }

    fn encode_prompts(&self, prompts: &[&TokenIds]) -> Result<Vec<usize>, ModelError> {
        self.encoded.lock().unwrap().extend(prompts.iter().map(|prompt| prompt.ids.to_vec()));
        Ok(prompts.iter().map(|prompt| prompt.ids.len()).collect())
    }

    fn ask(&self, _: Track, items: &[&Frames], texts: &[&usize]) -> Result<Asked, ModelError> {
        let bytes: Vec<u8> = items.iter().map(|item| item.stacks[0].rgb[0]).collect();
        let frames = items.iter().map(|item| item.count).sum();
        self.events.lock().unwrap().push(Event::Asked(bytes.clone()));
        let asked =
            Asked { bytes, frames, texts: texts.iter().map(|text| **text).collect(), scores: RefCell::default() };
        if !self.beside {
            asked.scores.replace(Some(self.compute(&asked)?));
        }
        Ok(asked)
    }

    fn asks_at_once(&self, _: u32) -> bool {
        self.beside
    }

    fn has_answer(&self, _: &Asked) -> bool {
        !self.beside
    }

    fn answer(&self, asked: &Asked) -> Result<(Scores, BatchTimings), ModelError> {
        let scores = match asked.scores.take() {
            Some(scores) => scores,
            None => self.compute(asked)?,
        };
        self.events.lock().unwrap().push(Event::Answered(asked.bytes.clone()));
        Ok((scores, BatchTimings::default()))
    }

    fn diagnose(&self, error: &ModelError) -> Fault {
        match error.to_string() {
            text if text.contains("memory") => Fault::Memory,
            text if text.contains("never again") => Fault::Lost,
            _ => Fault::Batch,
        }
    }

    fn warm_up_frames(&self, track: Track) -> Vec<u32> {
        match track {
            Track::Image => self.sizes.clone().unwrap_or(vec![1]),
            Track::Video => vec![manifest().max_frames],
        }
    }
}

pub struct House {
    pub engine: Engine,
    pub fake: Fake,
}

impl House {
    pub fn new(max_queue_frames: u64) -> Self {
        Self::with_devices(1, max_queue_frames)
    }

    pub fn with_devices(devices: usize, max_queue_frames: u64) -> Self {
        Self::of(Fake::default(), devices, max_queue_frames)
    }

    /// Whose device computes beside its thread.
    pub fn beside(max_queue_frames: u64) -> Self {
        Self::of(Fake { beside: true, ..Fake::default() }, 1, max_queue_frames)
    }

    fn of(fake: Fake, devices: usize, max_queue_frames: u64) -> Self {
        let load = || {
            let fake = fake.clone();
            move || Ok(fake)
        };
        let engine = Engine::start((0..devices).map(|_| load()).collect(), config(max_queue_frames)).unwrap();
        fake.batches.lock().unwrap().clear();
        fake.encoded.lock().unwrap().clear();
        fake.events.lock().unwrap().clear();
        Self { engine, fake }
    }

    /// Shuts the gate and puts one item before it for every device: from now on everything waits.
    pub fn occupied(&self, devices: u32) -> Vec<Ticket> {
        self.fake.gate.set(true);
        let before = self.fake.gate.arrived.load(Ordering::SeqCst);
        let occupy = |device| {
            let ticket = self.submit(1, 1).unwrap();
            while self.fake.gate.arrived.load(Ordering::SeqCst) <= before + device {
                std::thread::yield_now();
            }
            ticket
        };
        (0..devices).map(occupy).collect()
    }

    pub fn open(&self) {
        self.fake.gate.set(false);
    }

    /// First bytes of all items that were scored, batch by batch.
    pub fn batches(&self) -> Vec<Vec<u8>> {
        self.fake.batches.lock().unwrap().clone()
    }

    pub fn submit(&self, byte: u8, frames: u32) -> Result<Ticket, EngineError> {
        self.submit_order(byte, order(frames))
    }

    pub fn submit_order(&self, byte: u8, order: Order) -> Result<Ticket, EngineError> {
        Ok(self.engine.reserve(order)?.submit(prompt(2), frames(byte, order.frames)))
    }
}

/// Every call another caller.
pub fn order(frames: u32) -> Order {
    static CALLERS: AtomicU32 = AtomicU32::new(0);
    let caller = Caller(CALLERS.fetch_add(1, Ordering::SeqCst).into());
    let deadline = Instant::now() + Duration::from_secs(600);
    let (track, priority, span) = (Track::Image, Priority::Interactive, Parent::default());
    Order { caller, track, priority, frames, deadline, span }
}

pub const OPTIONS: LoadOptions = LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta: false };

pub fn config(max_queue_frames: u64) -> EngineConfig {
    EngineConfig {
        max_queue_frames,
        max_batch_frames: 32,
        max_queue_delay: Duration::from_millis(5),
        text_cache_bytes: 1 << 20,
        threads: 1,
        warm_up_prompt: prompt(2),
    }
}

pub fn prompt(length: u32) -> TokenIds {
    TokenIds { ids: (0..length).collect(), truncated: false }
}

pub fn frames(byte: u8, count: u32) -> Frames {
    Frames { count, stacks: vec![FrameStack { side: 2, rgb: vec![byte; count as usize * 12] }] }
}

fn score(mos: f64, z: f64) -> EnsembleScore {
    let experts = vec![ExpertScore { name: "fake".to_owned(), raw: mos, z }];
    EnsembleScore { mos, z, disagreement: 0.0, experts }
}

fn manifest() -> Manifest {
    Manifest {
        schema: 1,
        name: "fake".to_owned(),
        version: "1".to_owned(),
        trained: false,
        licence: "Apache-2.0".to_owned(),
        provenance: "none".to_owned(),
        max_frames: 16,
        mos: MosScale { dataset: "none".to_owned(), mean: 0.0, std: 1.0, min: -3.0, max: 3.0 },
        text: TextSpec { tokenizer: "t".to_owned(), context_length: 77, l2_norm: true, towers: Vec::new() },
        experts: vec![expert("a", Track::Image, 2), expert("b", Track::Video, 3), expert("c", Track::Video, 2)],
        calibration: Vec::new(),
        files: Default::default(),
    }
}

fn expert(name: &str, track: Track, input_size: u32) -> ExpertSpec {
    let backbone = Backbone {
        kind: BackboneKind::Convnext,
        weights: "w".to_owned(),
        mean: [0.5; 3],
        std: [0.5; 3],
        heads: None,
        rope_reference: None,
    };
    ExpertSpec {
        name: name.to_owned(),
        track,
        backbone,
        head: "h".to_owned(),
        input_size,
        mixer: Mixer::Dot,
        temporal_activation: Activation::Relu,
        adapter_activation: Activation::None,
        head_activation: Activation::Gelu,
    }
}
