//! The engine with devices that need no libtorch: what it promises its callers.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::media::FrameStack;
use crate::model::{
    Activation, Backbone, BackboneKind, BatchTimings, Dtype, ExpertScore, ExpertSpec, LoadOptions, Manifest, Mixer,
    MosScale, TextSpec,
};

/// Scores an item by the first byte of its frames. Byte 255 fails, byte 253 fails and breaks the device for good, byte
/// 254 panics; while the gate is shut, items other
/// than the warm-up's blank ones wait before it.
struct Fake {
    gate: Arc<Gate>,
    scored: Arc<AtomicU32>,
    broken: Cell<bool>,
}

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
    /// Items that have come to the gate.
    arrived: AtomicU32,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let _open = self.changed.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap();
    }
}

impl Scorer for Fake {
    type Text = ();

    fn facts(&self) -> ModelFacts {
        ModelFacts { manifest: manifest(), text_dims: vec![8], options: OPTIONS }
    }

    fn encode_prompts(&self, _: &[&TokenIds]) -> Result<(), ModelError> {
        Ok(())
    }

    fn score(
        &self,
        _: Track,
        items: &[&Frames],
        _: &(),
    ) -> Result<(Vec<Result<EnsembleScore, ModelError>>, BatchTimings), ModelError> {
        let mut scores = Vec::new();
        for item in items {
            let byte = item.stacks[0].rgb[0];
            if byte > 0 {
                self.gate.pass();
            }
            self.broken.set(self.broken.get() || byte == 253);
            match byte {
                _ if self.broken.get() => {
                    return Err(ModelError::Device(tch::TchError::FileFormat("broken".to_owned())));
                }
                255 => return Err(ModelError::Device(tch::TchError::FileFormat("lost".to_owned()))),
                254 => panic!("a device that panics"),
                _ => scores.push(Ok(score(f64::from(byte)))),
            }
            self.scored.fetch_add(1, Ordering::SeqCst);
        }
        Ok((scores, BatchTimings::default()))
    }
}

struct House {
    engine: Engine,
    gate: Arc<Gate>,
    scored: Arc<AtomicU32>,
}

impl House {
    fn new(max_queue_frames: u64) -> Self {
        let (gate, scored) = (Arc::new(Gate::default()), Arc::new(AtomicU32::new(0)));
        let fake = Fake { gate: gate.clone(), scored: scored.clone(), broken: Cell::default() };
        let engine = Engine::start(move || Ok(fake), config(max_queue_frames)).unwrap();
        scored.store(0, Ordering::SeqCst);
        Self { engine, gate, scored }
    }

    /// Shuts the gate and puts one item before it: from now on everything waits.
    fn occupied(&self) -> Ticket {
        self.gate.set(true);
        let before = self.gate.arrived.load(Ordering::SeqCst);
        let ticket = self.engine.submit(item(1, 1)).unwrap();
        while self.gate.arrived.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        ticket
    }
}

#[test]
fn warm_up_scores_every_track_before_the_first_request() {
    let scored = Arc::new(AtomicU32::new(0));
    let fake = Fake { gate: Arc::default(), scored: scored.clone(), broken: Cell::default() };
    let engine = Engine::start(move || Ok(fake), config(64)).unwrap();
    assert_eq!(scored.load(Ordering::SeqCst), 2);
    assert_eq!(engine.facts().sides(Track::Image), [2]);
    assert_eq!(engine.facts().sides(Track::Video), [2, 3]);
}

#[tokio::test]
async fn an_item_is_answered_with_its_own_score() {
    let house = House::new(64);
    let tickets: Vec<_> = (1..20).map(|byte| house.engine.submit(item(byte, 1)).unwrap()).collect();
    for (byte, ticket) in (1..20).zip(tickets) {
        assert_eq!(ticket.await.unwrap().score.mos, f64::from(byte));
    }
}

#[tokio::test]
async fn the_budget_is_counted_in_frames_and_freed_again() {
    let house = House::new(32);
    let first = house.occupied();
    let second = house.engine.submit(item(2, 16)).unwrap();
    let third = house.engine.submit(item(3, 16)).unwrap();
    match house.engine.submit(item(4, 1)).err() {
        Some(EngineError::QueueFull { queued: 32, limit: 32, retry_after }) => {
            assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(60), "{retry_after:?}");
        }
        other => panic!("{other:?}"),
    }
    house.gate.set(false);
    for ticket in [first, second, third] {
        ticket.await.unwrap();
    }
    house.engine.submit(item(4, 16)).unwrap().await.unwrap();
}

#[tokio::test]
async fn a_dropped_ticket_frees_its_place_and_never_reaches_the_device() {
    let house = House::new(16);
    let first = house.occupied();
    let cancelled = house.engine.submit(item(2, 16)).unwrap();
    assert!(matches!(house.engine.submit(item(3, 16)), Err(EngineError::QueueFull { .. })));
    drop(cancelled);
    let third = house.engine.submit(item(3, 16)).unwrap();
    house.gate.set(false);
    first.await.unwrap();
    assert_eq!(third.await.unwrap().score.mos, 3.0);
    assert_eq!(house.scored.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_expired_item_never_reaches_the_device() {
    let house = House::new(64);
    let first = house.occupied();
    let late = house.engine.submit(Item { deadline: Instant::now(), ..item(2, 1) }).unwrap();
    house.gate.set(false);
    first.await.unwrap();
    assert!(matches!(late.await, Err(EngineError::Deadline)));
    assert_eq!(house.scored.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn expired_items_do_not_hold_the_budget() {
    let house = House::new(16);
    let first = house.occupied();
    let late = house.engine.submit(Item { deadline: Instant::now(), ..item(2, 16) }).unwrap();
    let second = house.engine.submit(item(3, 16)).unwrap();
    assert!(matches!(late.await, Err(EngineError::Deadline)));
    house.gate.set(false);
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn the_earliest_deadline_goes_first() {
    let house = House::new(64);
    let first = house.occupied();
    let now = Instant::now();
    let later = house.engine.submit(Item { deadline: now + Duration::from_secs(900), ..item(2, 1) }).unwrap();
    let sooner = house.engine.submit(Item { deadline: now + Duration::from_secs(600), ..item(3, 1) }).unwrap();
    house.gate.set(false);
    first.await.unwrap();
    let (later, sooner) = (later.await.unwrap(), sooner.await.unwrap());
    assert!(sooner.queue < later.queue, "{:?} {:?}", sooner.queue, later.queue);
}

#[test]
fn an_item_larger_than_a_batch_is_refused_at_the_door() {
    let house = House::new(1000);
    assert!(matches!(house.engine.submit(item(1, 33)), Err(EngineError::TooLarge { frames: 33, limit: 32 })));
}

#[tokio::test]
async fn failures_stay_with_their_items_and_a_device_that_fails_blank_frames_is_lost() {
    let house = House::new(64);
    for _ in 0..2 {
        let failed = house.engine.submit(item(255, 1)).unwrap().await;
        assert!(matches!(failed, Err(EngineError::Model(_))), "{failed:?}");
        house.engine.submit(item(1, 1)).unwrap().await.unwrap();
    }
    for _ in 0..5 {
        house.engine.submit(item(255, 1)).unwrap().await.unwrap_err();
    }
    house.engine.submit(item(1, 1)).unwrap().await.unwrap();
    let first = house.occupied();
    let failing = [253, 255].map(|byte| house.engine.submit(item(byte, 1)).unwrap());
    let behind = house.engine.submit(item(3, 1)).unwrap();
    house.gate.set(false);
    first.await.unwrap();
    for ticket in failing {
        assert!(matches!(ticket.await, Err(EngineError::Model(_))));
    }
    assert!(matches!(behind.await, Err(EngineError::Stopped)));
    house.engine.ended().await;
    assert!(matches!(house.engine.submit(item(1, 1)), Err(EngineError::Stopped)));
}

#[tokio::test]
async fn a_panic_of_the_device_leaves_nobody_waiting() {
    let house = House::new(64);
    let first = house.occupied();
    let fatal = house.engine.submit(item(254, 1)).unwrap();
    let behind = house.engine.submit(item(3, 1)).unwrap();
    house.gate.set(false);
    first.await.unwrap();
    assert!(matches!(fatal.await, Err(EngineError::Stopped)));
    assert!(matches!(behind.await, Err(EngineError::Stopped)));
    house.engine.ended().await;
}

#[tokio::test]
async fn stop_answers_what_waits_and_takes_nothing_new() {
    let house = House::new(64);
    let first = house.occupied();
    let second = house.engine.submit(item(2, 1)).unwrap();
    house.engine.stop();
    assert!(matches!(house.engine.submit(item(3, 1)), Err(EngineError::Stopped)));
    house.gate.set(false);
    first.await.unwrap();
    assert_eq!(second.await.unwrap().score.mos, 2.0);
    house.engine.ended().await;
}

#[test]
fn a_load_that_fails_or_panics_is_an_error_of_start() {
    let failed = Engine::start::<Fake>(|| Err(ModelError::Input("no".to_owned())), config(64)).err();
    assert!(matches!(failed, Some(StartError::Model(_))), "{failed:?}");
    let panicked = Engine::start::<Fake>(|| panic!("while loading"), config(64)).err();
    assert!(matches!(panicked, Some(StartError::Panicked)), "{panicked:?}");
    let fake = Fake { gate: Arc::default(), scored: Arc::default(), broken: Cell::default() };
    let tight = Engine::start(move || Ok(fake), config(15)).err();
    assert!(
        matches!(tight, Some(StartError::Budget { frames: 16, setting: "max_queue_frames", limit: 15 })),
        "{tight:?}"
    );
}

const OPTIONS: LoadOptions = LoadOptions { device: tch::Device::Cpu, dtype: Dtype::F32, tta: false };

fn config(max_queue_frames: u64) -> EngineConfig {
    EngineConfig { max_queue_frames, max_batch_frames: 32, threads: 1, warm_up_prompt: prompt() }
}

fn prompt() -> TokenIds {
    TokenIds { ids: [49406, 49407].into(), truncated: false }
}

fn item(byte: u8, count: u32) -> Item {
    let stacks = vec![FrameStack { side: 2, rgb: vec![byte; count as usize * 12] }];
    let deadline = Instant::now() + Duration::from_secs(600);
    Item { track: Track::Image, prompt: prompt(), frames: Frames { count, stacks }, deadline }
}

fn score(mos: f64) -> EnsembleScore {
    let experts = vec![ExpertScore { name: "fake".to_owned(), raw: mos, z: mos }];
    EnsembleScore { mos, z: mos, disagreement: 0.0, experts }
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
