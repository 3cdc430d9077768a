//! The engine's threads, with devices that need no libtorch: what it promises its callers.

mod ahead;
mod fake;

use std::time::{Duration, Instant};

use self::fake::{
    BREAKS_DEVICE, FAILS_ALONE, FAILS_BATCH, FITS, Fake, House, LARGE, LOSES_DEVICE, PANICS, config, frames, order,
    prompt,
};
use super::*;

#[test]
fn warm_up_scores_every_track_before_the_first_request() {
    let fake = Fake::default();
    let load = fake.clone();
    let engine = Engine::start(vec![move || Ok(load)], config(64)).unwrap();
    assert_eq!(*fake.batches.lock().unwrap(), [[0], [0]]);
    assert_eq!(engine.facts().sides(Track::Image), [2]);
    assert_eq!(engine.facts().sides(Track::Video), [2, 3]);
}

#[test]
fn warm_up_scores_every_size_with_different_items_the_largest_first_and_last() {
    let fake = Fake { sizes: Some(vec![1, 2, 4]), ..Fake::default() };
    let load = fake.clone();
    let _engine = Engine::start(vec![move || Ok(load)], config(64)).unwrap();
    let batches = fake.batches.lock().unwrap();
    assert_eq!(*batches, [vec![0, 1, 2, 3], vec![0, 1], vec![0], vec![0, 1, 2, 3], vec![0]]);
}

#[test]
fn sizes_that_memory_does_not_suffice_for_are_left_out_of_the_warm_up() {
    let items = u32::from(LARGE) + 1;
    let fake = Fake { sizes: Some(vec![1, items / 2, items - 1, items]), ..Fake::default() };
    let load = fake.clone();
    let config = EngineConfig { max_batch_frames: items, ..config(u64::from(items)) };
    let _engine = Engine::start(vec![move || Ok(load)], config).unwrap();
    let scored: Vec<usize> = fake.batches.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(scored, [125, 1, 125, 1]);
}

#[tokio::test]
async fn too_little_memory_makes_later_batches_smaller_and_fails_nobody() {
    let house = House::new(640);
    let first = house.occupied(1);
    let tickets: Vec<_> = (0..8).map(|_| house.submit(LARGE, 4).unwrap()).collect();
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        ticket.await.unwrap();
    }
    assert_eq!(house.batches(), [vec![1], vec![LARGE; 4], vec![LARGE; 4]], "32 frames, in halves");
    let first = house.occupied(1);
    let tickets: Vec<_> = (0..8).map(|_| house.submit(2, 4).unwrap()).collect();
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        assert!(ticket.await.unwrap().batch_frames <= FITS);
    }
}

#[tokio::test]
async fn a_device_that_says_so_is_lost_at_once() {
    let house = House::new(64);
    let fatal = house.submit(LOSES_DEVICE, 1).unwrap();
    assert!(matches!(fatal.await, Err(EngineError::Stopped)));
    house.engine.ended().await;
    assert!(matches!(house.submit(1, 1), Err(EngineError::Stopped)));
}

#[tokio::test]
async fn an_item_is_answered_with_its_own_score_for_its_own_prompt() {
    let house = House::new(64);
    let submit = |byte: u8| {
        let reservation = house.engine.reserve(order(1)).unwrap();
        reservation.submit(prompt(2 + u32::from(byte) % 5), frames(byte, 1))
    };
    let tickets: Vec<_> = (1..20).map(|byte| (byte, submit(byte))).collect();
    for (byte, ticket) in tickets {
        let scored = ticket.await.unwrap();
        assert_eq!(scored.score.mos, f64::from(byte));
        assert_eq!(scored.score.z, f64::from(2 + byte % 5));
    }
}

#[tokio::test]
async fn what_waits_for_a_busy_device_goes_as_one_batch() {
    let house = House::new(64);
    let first = house.occupied(1);
    let tickets: Vec<_> = (2..8).map(|byte| house.submit(byte, 4).unwrap()).collect();
    house.open();
    for ticket in first {
        assert_eq!(ticket.await.unwrap().batch_frames, 1);
    }
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap().batch_frames, 24);
    }
    assert_eq!(house.batches(), [vec![1], (2..8).collect()]);
}

#[tokio::test]
async fn a_batch_holds_as_many_frames_as_allowed() {
    let house = House::new(640);
    let first = house.occupied(1);
    let tickets: Vec<_> = (2..10).map(|byte| house.submit(byte, 10).unwrap()).collect();
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        assert!(ticket.await.unwrap().batch_frames <= 32);
    }
    assert_eq!(house.batches(), [vec![1], vec![2, 3, 4], vec![5, 6, 7], vec![8, 9]]);
}

#[tokio::test]
async fn a_distinct_prompt_is_encoded_once_over_all_batches() {
    let house = House::new(64);
    let first = house.occupied(1);
    let submit = |length| house.engine.reserve(order(1)).unwrap().submit(prompt(length), frames(9, 1));
    let tickets: Vec<_> = [2, 3, 4, 3, 2, 4].map(submit).into();
    house.open();
    for ticket in first.into_iter().chain(tickets).chain([submit(4)]) {
        ticket.await.unwrap();
    }
    let encoded: Vec<usize> = house.fake.encoded.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(encoded, [2, 3, 4]);
}

#[tokio::test]
async fn the_budget_is_counted_in_frames_and_freed_again() {
    let house = House::new(32);
    let first = house.occupied(1);
    let second = house.submit(2, 16).unwrap();
    let third = house.submit(3, 16).unwrap();
    match house.submit(4, 1).err() {
        Some(EngineError::QueueFull { queued: 32, limit: 32, retry_after }) => {
            assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(60), "{retry_after:?}");
        }
        other => panic!("{other:?}"),
    }
    house.open();
    for ticket in first.into_iter().chain([second, third]) {
        ticket.await.unwrap();
    }
    house.submit(4, 16).unwrap().await.unwrap();
}

#[tokio::test]
async fn one_caller_leaves_as_much_as_it_takes() {
    let house = House::new(32);
    let first = house.occupied(1);
    let greedy = order(1);
    let tickets: Vec<_> = (0..16).map(|_| house.submit_order(2, greedy).unwrap()).collect();
    assert!(matches!(house.submit_order(2, greedy), Err(EngineError::ShareFull { held: 16, free: 16, .. })));
    let other = house.submit(3, 16).unwrap();
    house.open();
    for ticket in first.into_iter().chain(tickets).chain([other]) {
        ticket.await.unwrap();
    }
}

#[tokio::test]
async fn a_place_is_held_from_before_decoding_and_given_back_when_decoding_fails() {
    let house = House::new(16);
    let reservation = house.engine.reserve(order(16)).unwrap();
    assert!(matches!(house.submit(3, 1), Err(EngineError::QueueFull { .. })));
    drop(reservation);
    let reservation = house.engine.reserve(order(16)).unwrap();
    // Fewer frames than reserved: the rest is free at once.
    house.fake.gate.set(true);
    let first = reservation.submit(prompt(2), frames(2, 6));
    let second = house.submit(3, 10).unwrap();
    house.open();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test]
async fn more_frames_than_reserved_are_refused() {
    let house = House::new(64);
    let ticket = house.engine.reserve(order(2)).unwrap().submit(prompt(2), frames(2, 3));
    assert!(matches!(ticket.await, Err(EngineError::TooLarge { frames: 3, limit: 2 })));
    assert!(matches!(house.submit(1, 33), Err(EngineError::TooLarge { frames: 33, limit: 32 })));
}

#[tokio::test]
async fn a_dropped_ticket_frees_its_place_and_never_reaches_the_device() {
    let house = House::new(16);
    let first = house.occupied(1);
    let cancelled = house.submit(2, 16).unwrap();
    assert!(matches!(house.submit(3, 16), Err(EngineError::QueueFull { .. })));
    drop(cancelled);
    let third = house.submit(3, 16).unwrap();
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    assert_eq!(third.await.unwrap().score.mos, 3.0);
    assert_eq!(house.batches(), [[1], [3]]);
}

#[tokio::test]
async fn who_stands_in_line_is_known_and_nobody_does_once_all_have_gone() {
    let house = House::new(64);
    let standing = || house.engine.standing();
    let is_idle = |Standing { items, frames, oldest }| (items, frames, oldest) == (0, 0, Duration::ZERO);
    assert!(is_idle(standing()));
    let first = house.occupied(1);
    assert!(is_idle(standing()), "what a device has stands in line no more");
    let begin = Instant::now();
    let decoding = house.engine.reserve(order(16)).unwrap();
    let ready = house.submit(2, 8).unwrap();
    let Standing { items, frames, oldest } = standing();
    assert_eq!((items, frames), (2, 24));
    assert!(oldest <= begin.elapsed());
    let a_moment = Duration::from_millis(5);
    std::thread::sleep(a_moment);
    assert!(standing().oldest >= a_moment);
    drop(decoding);
    assert_eq!((standing().items, standing().frames), (1, 8));
    house.open();
    for ticket in first.into_iter().chain([ready]) {
        ticket.await.unwrap();
    }
    assert!(is_idle(standing()));
}

#[tokio::test]
async fn an_item_expires_while_the_device_is_busy_and_never_reaches_it() {
    let house = House::new(16);
    let first = house.occupied(1);
    let deadline = Instant::now() + Duration::from_millis(30);
    let late = house.submit_order(2, Order { deadline, ..order(16) }).unwrap();
    // The device is busy until the gate opens: this is the deadlines' own thread.
    assert!(matches!(late.await, Err(EngineError::Deadline)));
    assert!(Instant::now() >= deadline);
    let second = house.submit(3, 16).unwrap();
    house.open();
    for ticket in first.into_iter().chain([second]) {
        ticket.await.unwrap();
    }
    assert_eq!(house.batches(), [[1], [3]]);
}

#[tokio::test]
async fn frames_that_come_after_the_deadline_are_too_late() {
    let house = House::new(64);
    let deadline = Instant::now() + Duration::from_millis(20);
    let reservation = house.engine.reserve(Order { deadline, ..order(1) }).unwrap();
    tokio::time::sleep_until((deadline + Duration::from_millis(20)).into()).await;
    assert!(matches!(reservation.submit(prompt(2), frames(2, 1)).await, Err(EngineError::Deadline)));
    assert!(matches!(house.submit_order(2, Order { deadline, ..order(1) }), Err(EngineError::Deadline)));
    assert!(house.batches().is_empty());
}

#[tokio::test]
async fn bulk_goes_behind_and_the_earliest_deadline_first() {
    let house = House::new(1000);
    let first = house.occupied(1);
    let now = Instant::now();
    let submit = |byte, priority, seconds| {
        let deadline = now + Duration::from_secs(seconds);
        house.submit_order(byte, Order { priority, deadline, ..order(32) }).unwrap()
    };
    let tickets =
        [submit(5, Priority::Bulk, 600), submit(4, Priority::Interactive, 900), submit(3, Priority::Interactive, 700)];
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        ticket.await.unwrap();
    }
    assert_eq!(house.batches(), [[1], [3], [4], [5]]);
}

#[tokio::test]
async fn an_item_at_fault_fails_alone_whether_it_says_so_or_fails_its_batch() {
    let house = House::new(1000);
    let first = house.occupied(1);
    let bytes = [2, FAILS_ALONE, 3, 4, FAILS_BATCH, 5, FAILS_BATCH];
    let tickets = bytes.map(|byte| house.submit(byte, 1).unwrap());
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    for (byte, ticket) in bytes.into_iter().zip(tickets) {
        match (byte, ticket.await) {
            (FAILS_ALONE | FAILS_BATCH, Err(EngineError::Model(_))) => {}
            (byte, Ok(scored)) => assert_eq!(scored.score.mos, f64::from(byte)),
            (byte, other) => panic!("{byte}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_device_that_fails_blank_frames_is_lost() {
    let house = House::new(64);
    for _ in 0..5 {
        let failed = house.submit(FAILS_BATCH, 1).unwrap().await;
        assert!(matches!(failed, Err(EngineError::Model(_))), "{failed:?}");
    }
    house.submit(1, 1).unwrap().await.unwrap();
    house.submit(BREAKS_DEVICE, 1).unwrap().await.unwrap_err();
    house.submit(1, 1).unwrap().await.unwrap_err();
    house.engine.ended().await;
    assert!(matches!(house.submit(1, 1), Err(EngineError::Stopped)));
}

#[tokio::test]
async fn a_panic_of_the_device_leaves_nobody_waiting() {
    let house = House::new(64);
    let first = house.occupied(1);
    let fatal = house.submit(PANICS, 32).unwrap();
    let behind = house.submit(3, 32).unwrap();
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    assert!(matches!(fatal.await, Err(EngineError::Stopped)));
    assert!(matches!(behind.await, Err(EngineError::Stopped)));
    house.engine.ended().await;
}

#[tokio::test]
async fn several_devices_take_from_one_line_and_one_that_is_lost_leaves_the_rest_to_the_others() {
    let house = House::with_devices(2, 64);
    let first = house.occupied(2);
    let fatal = house.submit(PANICS, 32).unwrap();
    let behind = house.submit(3, 32).unwrap();
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    assert!(matches!(fatal.await, Err(EngineError::Stopped)));
    house.engine.ending().await;
    assert!(matches!(house.submit(1, 1), Err(EngineError::Stopped)));
    assert_eq!(behind.await.unwrap().score.mos, 3.0);
    house.engine.ended().await;
    assert!(matches!(house.submit(1, 1), Err(EngineError::Stopped)));
}

#[tokio::test]
async fn stop_answers_what_has_a_place_and_takes_nothing_new() {
    let house = House::new(64);
    let first = house.occupied(1);
    let second = house.submit(2, 1).unwrap();
    let decoding = house.engine.reserve(order(1)).unwrap();
    house.engine.stop();
    assert!(matches!(house.submit(3, 1), Err(EngineError::Stopped)));
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    assert_eq!(second.await.unwrap().score.mos, 2.0);
    assert_eq!(decoding.submit(prompt(2), frames(4, 1)).await.unwrap().score.mos, 4.0);
    house.engine.ended().await;
}

#[test]
fn a_load_that_fails_or_panics_is_an_error_of_start() {
    type Load = fn() -> Result<Fake, ModelError>;
    let failing: Load = || Err(ModelError::Input("no".to_owned()));
    let panicking: Load = || panic!("while loading");
    let good: Load = || Ok(Fake::default());
    let start = |loads: Vec<Load>, frames| Engine::start(loads, config(frames)).err();
    let failed = start(vec![good, failing], 64);
    assert!(matches!(failed, Some(StartError::Model(_))), "{failed:?}");
    let panicked = start(vec![panicking], 64);
    assert!(matches!(panicked, Some(StartError::Panicked)), "{panicked:?}");
    assert!(matches!(start(vec![], 64), Some(StartError::NoDevice)));
    let tight = start(vec![good], 15);
    assert!(
        matches!(tight, Some(StartError::Budget { frames: 16, setting: "max_queue_frames", limit: 15 })),
        "{tight:?}"
    );
}
