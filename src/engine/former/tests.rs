//! The former over schedules of arrivals, without threads and with a clock that stands until it is told to go on.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::engine::{Caller, Priority};
use crate::trace::Parent;

const LIMITS: Limits =
    Limits { max_queue_frames: 96, max_batch_frames: 32, max_queue_delay: Duration::from_millis(5), devices: 1 };

const MOST: u32 = LIMITS.max_batch_frames;

fn order(now: Instant) -> Order {
    Order {
        caller: Caller(1),
        track: Track::Image,
        priority: Priority::Interactive,
        frames: 1,
        deadline: now + Duration::from_secs(60),
        span: Parent::default(),
    }
}

fn ready(former: &mut Former<u32>, order: Order, item: u32, now: Instant) -> Key {
    let key = former.reserve(order, now).unwrap();
    former.make_ready(&key, order.frames, item, now).unwrap();
    key
}

fn items(step: Step<u32>) -> Vec<u32> {
    match step {
        Step::Run(batch) => batch.items.into_iter().map(|(_, item)| item).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_takes_less_is_full_earlier() {
    let (now, mut former) = (Instant::now(), Former::new(LIMITS));
    // Something that could join: only a full batch goes at once.
    former.reserve(order(now), now).unwrap();
    for item in 1..=20 {
        ready(&mut former, order(now), item, now);
    }
    assert!(matches!(former.next(now, MOST), Step::WaitUntil(_)));
    assert_eq!(items(former.next(now, 16)).len(), 16);
}

#[test]
fn nothing_to_gain_means_no_waiting() {
    let (now, mut former) = (Instant::now(), Former::new(LIMITS));
    assert_eq!(former.next(now, MOST), Step::Wait);
    ready(&mut former, order(now), 1, now);
    // A video that is being decoded cannot join.
    former.reserve(Order { track: Track::Video, frames: 16, ..order(now) }, now).unwrap();
    assert_eq!(items(former.next(now, MOST)), [1]);
}

#[test]
fn the_window_starts_at_the_first_item_and_ends_early_when_nothing_can_join_or_the_batch_is_full() {
    let (start, delay) = (Instant::now(), LIMITS.max_queue_delay);
    let mut former = Former::new(LIMITS);
    let decoding = former.reserve(order(start), start).unwrap();
    ready(&mut former, order(start), 1, start);
    let later = start + delay / 2;
    ready(&mut former, order(start), 2, later);
    assert_eq!(former.next(later, MOST), Step::WaitUntil(start + delay));
    former.remove(&decoding);
    assert_eq!(items(former.next(later, MOST)), [1, 2]);

    former.reserve(order(start), later).unwrap();
    ready(&mut former, order(start), 3, later);
    assert_eq!(items(former.next(later + delay, MOST)), [3]);

    for item in 0..32 {
        assert!(matches!(former.next(later, MOST), Step::Wait | Step::WaitUntil(_)));
        ready(&mut former, Order { caller: Caller(u64::from(item) + 2), ..order(start) }, item, later);
    }
    assert_eq!(items(former.next(later, MOST)).len(), 32);
}

#[test]
fn a_batch_does_not_outlast_its_most_urgent_item() {
    let (now, mut former) = (Instant::now(), Former::new(LIMITS));
    for item in 0..8 {
        ready(&mut former, Order { caller: Caller(item), ..order(now) }, 1, now);
    }
    let soon = Order { deadline: now + Duration::from_secs(1), ..order(now) };
    let key = former.reserve(Order { caller: Caller(9), ..soon }, now).unwrap();
    former.record(Track::Image, 1, Duration::from_secs(20), now);
    former.make_ready(&key, 1, 7, now).unwrap();
    assert_eq!(items(former.next(now, MOST)), [7], "late as it may be, it is not given up");
    assert_eq!(items(former.next(now, MOST)).len(), 3, "of 20 s each, in 60 s");
    assert_eq!(items(former.next(now + Duration::from_secs(30), MOST)).len(), 1);
}

#[test]
fn hopeless_work_is_refused_at_the_door_by_the_measured_rate() {
    let (now, mut former) = (Instant::now(), Former::<u32>::new(LIMITS));
    let soon = |milliseconds| now + Duration::from_millis(milliseconds);
    former.reserve(Order { frames: 16, deadline: soon(1000), ..order(now) }, now).unwrap();
    // Nothing is measured yet.
    former.reserve(Order { deadline: soon(1001), ..order(now) }, now).unwrap();
    former.record(Track::Image, 10, Duration::from_secs(1), now);
    match former.reserve(Order { deadline: soon(1500), ..order(now) }, now) {
        Err(EngineError::Hopeless { wait, left }) => {
            assert_eq!((wait, left), (Duration::from_millis(1800), Duration::from_millis(1500)));
        }
        other => panic!("{other:?}"),
    }
    // What goes before the others need not wait for them, and who has time may wait.
    former.reserve(Order { deadline: soon(500), ..order(now) }, now).unwrap();
    former.reserve(Order { deadline: soon(2000), ..order(now) }, now).unwrap();
    let bulk = former.reserve(Order { deadline: soon(1500), priority: Priority::Bulk, ..order(now) }, now);
    assert!(matches!(bulk, Err(EngineError::Hopeless { .. })));
}

#[test]
fn what_a_busy_device_still_has_to_do_counts_and_so_does_the_item_itself() {
    let (now, mut former) = (Instant::now(), Former::<u32>::new(LIMITS));
    let soon = |milliseconds| Order { deadline: now + Duration::from_millis(milliseconds), ..order(now) };
    former.record(Track::Image, 1, Duration::from_secs(1), now);
    // A free device tries it, although it takes a second.
    ready(&mut former, soon(500), 1, now);
    assert_eq!(items(former.next(now, MOST)), [1]);
    let waits = |former: &mut Former<u32>, order, at| match former.reserve(order, at) {
        Err(EngineError::Hopeless { wait, .. }) => wait,
        other => panic!("{other:?}"),
    };
    let later = now + Duration::from_millis(400);
    assert_eq!(waits(&mut former, soon(1900), later), Duration::from_millis(1600));
    former.reserve(soon(2100), later).unwrap();
    // It is late, and may be done at any moment.
    let late = now + Duration::from_secs(5);
    let mut former = Former::<u32>::new(LIMITS);
    former.record(Track::Image, 1, Duration::from_secs(1), late);
    ready(&mut former, Order { deadline: late + Duration::from_millis(500), ..order(now) }, 1, now);
    former.next(now, MOST);
    former.reserve(Order { deadline: late + Duration::from_millis(1), ..order(now) }, late).unwrap();
    // Done, the device is free.
    former.finish(Track::Image, 1);
    assert!(former.under_way.is_empty());
}

#[test]
fn the_retry_delay_is_what_the_excess_takes() {
    let (now, mut former) = (Instant::now(), Former::<u32>::new(LIMITS));
    for caller in 0..3 {
        former.reserve(Order { caller: Caller(caller), frames: 32, ..order(now) }, now).unwrap_or_else(|error| {
            panic!("{caller}: {error}");
        });
    }
    former.record(Track::Image, 10, Duration::from_secs(1), now);
    match former.reserve(Order { caller: Caller(9), frames: 20, ..order(now) }, now) {
        Err(EngineError::QueueFull { queued: 96, limit: 96, retry_after }) => {
            assert_eq!(retry_after, Duration::from_secs(2));
        }
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Clone)]
enum Event {
    Arrive {
        caller: u64,
        video: bool,
        bulk: bool,
        frames: u32,
        patience_ms: u64,
    },
    /// The n-th of those that are being decoded has its frames, of which it uses up to so many.
    Decoded {
        which: usize,
        frames: u32,
    },
    Cancel {
        which: usize,
    },
    Elapse {
        ms: u64,
    },
    DeviceFree,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4u64, any::<bool>(), any::<bool>(), 1..=16u32, 1..400u64).prop_map(
            |(caller, video, bulk, frames, patience_ms)| Event::Arrive { caller, video, bulk, frames, patience_ms }
        ),
        4 => (any::<prop::sample::Index>(), 1..=16u32)
            .prop_map(|(which, frames)| Event::Decoded { which: which.index(1 << 16), frames }),
        1 => any::<prop::sample::Index>().prop_map(|which| Event::Cancel { which: which.index(1 << 16) }),
        2 => (0..20u64).prop_map(|ms| Event::Elapse { ms }),
        2 => Just(Event::DeviceFree),
    ]
}

/// What became of the items, beside a former that they go through.
struct World {
    now: Instant,
    former: Former<u32>,
    orders: HashMap<u32, (Key, Order)>,
    decoding: Vec<u32>,
    /// By place: the order that the former must keep within a track and a priority.
    waiting: BTreeMap<Key, u32>,
    outcomes: HashMap<u32, &'static str>,
}

impl World {
    fn conclude(&mut self, item: u32, outcome: &'static str) {
        assert_eq!(self.outcomes.insert(item, outcome), None, "{item} has two ends");
        self.waiting.remove(&self.orders[&item].0);
        self.decoding.retain(|other| *other != item);
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        for item in self.former.expire(self.now) {
            assert!(self.orders[&item].1.deadline <= self.now, "{item} expired early");
            self.conclude(item, "expired");
        }
        assert!(self.former.next_deadline().is_none_or(|deadline| deadline > self.now));
    }

    fn arrive(&mut self, item: u32, order: Order) {
        match self.former.reserve(order, self.now) {
            Ok(key) => {
                self.orders.insert(item, (key, order));
                self.decoding.push(item);
            }
            Err(error) => {
                let is_refusal = matches!(
                    error,
                    EngineError::QueueFull { .. } | EngineError::ShareFull { .. } | EngineError::Hopeless { .. }
                );
                assert!(is_refusal, "{error:?}");
            }
        }
    }

    fn decoded(&mut self, item: u32, frames: u32) {
        let (key, order) = self.orders[&item];
        let frames = frames.min(order.frames);
        self.orders.insert(item, (key, Order { frames, ..order }));
        self.decoding.retain(|other| *other != item);
        match self.former.make_ready(&key, frames, item, self.now) {
            Ok(()) => drop(self.waiting.insert(key, item)),
            Err(item) => {
                assert!(order.deadline <= self.now);
                self.conclude(item, "late");
            }
        }
    }

    fn device_free(&mut self) -> bool {
        match self.former.next(self.now, MOST) {
            Step::Run(batch) => {
                self.check(&batch);
                true
            }
            Step::WaitUntil(due) => {
                assert!(due > self.now && due <= self.now + LIMITS.max_queue_delay);
                assert!(!self.decoding.is_empty(), "nothing can join");
                false
            }
            Step::Wait => {
                assert!(self.waiting.is_empty(), "a free device and ready items");
                false
            }
        }
    }

    fn check(&mut self, batch: &Batch<u32>) {
        assert!(!batch.items.is_empty());
        let orders: Vec<Order> = batch.items.iter().map(|(_, item)| self.orders[item].1).collect();
        assert_eq!(batch.frames, orders.iter().map(|order| order.frames).sum::<u32>());
        assert!(batch.frames <= LIMITS.max_batch_frames);
        for order in &orders {
            assert_eq!(order.track, batch.track);
            assert!(order.deadline > self.now, "a dead item was run");
        }
        for &(_, item) in &batch.items {
            self.conclude(item, "scored");
        }
        // Nothing that stays was before something of the same caller, track and priority that goes.
        for (_, gone) in &batch.items {
            let (gone_key, gone) = self.orders[gone];
            for (key, stays) in &self.waiting {
                let (_, stays) = self.orders[stays];
                let is_rival = (stays.caller, stays.track, stays.priority) == (gone.caller, gone.track, gone.priority);
                assert!(!is_rival || *key > gone_key, "out of order");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// No item is lost or answered twice, no batch is over the cap or mixed, no expired item is run, nobody overtakes an
    /// equal, the budget is never exceeded and empty at the end.
    #[test]
    fn every_schedule_ends_well(events in proptest::collection::vec(event(), 1..250)) {
        let mut world = World {
            now: Instant::now(),
            former: Former::new(LIMITS),
            orders: HashMap::new(),
            decoding: Vec::new(),
            waiting: BTreeMap::new(),
            outcomes: HashMap::new(),
        };
        for (number, event) in (0..).zip(events) {
            match event {
                Event::Arrive { caller, video, bulk, frames, patience_ms } => {
                    let order = Order {
                        caller: Caller(caller),
                        track: if video { Track::Video } else { Track::Image },
                        priority: if bulk { Priority::Bulk } else { Priority::Interactive },
                        frames: if video { frames } else { 1 },
                        deadline: world.now + Duration::from_millis(patience_ms),
                        span: Parent::default(),
                    };
                    world.arrive(number, order);
                }
                Event::Decoded { which, frames } if !world.decoding.is_empty() => {
                    let item = world.decoding[which % world.decoding.len()];
                    world.decoded(item, frames);
                }
                Event::Cancel { which } if !world.orders.is_empty() => {
                    let mut placed: Vec<u32> = world.orders.keys().copied().collect();
                    placed.sort_unstable();
                    let item = placed[which % placed.len()];
                    if !world.outcomes.contains_key(&item) {
                        world.former.remove(&world.orders[&item].0);
                        world.conclude(item, "cancelled");
                    }
                }
                Event::Elapse { ms } => world.pass(ms),
                Event::DeviceFree => drop(world.device_free()),
                _ => {}
            }
            prop_assert!(world.former.budget.used() <= LIMITS.max_queue_frames);
        }
        while let Some(&item) = world.decoding.first() {
            world.decoded(item, 16);
        }
        while world.device_free() {}
        prop_assert_eq!(world.outcomes.len(), world.orders.len());
        prop_assert!(world.former.is_empty());
        prop_assert_eq!(world.former.budget.used(), 0);
    }
}
