//! A device that computes beside its thread, and is given the next batch meanwhile.

use super::fake::Event::{self, Answered, Asked};
use super::fake::{FAILS_BATCH, FITS, House, LARGE, LOSES_DEVICE};
use crate::engine::*;

/// One item is before the gate while others come; what has happened by the time that all are answered, with the answers
/// of the others. The device has had a full batch before, and knows how long it takes.
async fn behind_one(house: &House, items: &[(u8, u32)]) -> (Vec<Event>, Vec<Result<Scored, EngineError>>) {
    house.submit(9, 32).unwrap().await.unwrap();
    house.fake.events.lock().unwrap().clear();
    let first = house.occupied(1);
    let tickets: Vec<_> = items.iter().map(|&(byte, frames)| house.submit(byte, frames).unwrap()).collect();
    house.open();
    for ticket in first {
        ticket.await.unwrap();
    }
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await);
    }
    let events = std::mem::take(&mut *house.fake.events.lock().unwrap());
    (events, answers)
}

#[tokio::test]
async fn a_full_batch_is_brought_to_a_busy_device() {
    let house = House::beside(640);
    let (events, answers) = behind_one(&house, &[(2, 32), (3, 32), (4, 32)]).await;
    let expected = [Asked(vec![1]), Answered(vec![1]), Asked(vec![2]), Asked(vec![3]), Answered(vec![2])];
    assert_eq!(events[..5], expected);
    assert_eq!(events[5..], [Asked(vec![4]), Answered(vec![3]), Answered(vec![4])]);
    for (byte, answer) in (2u8..).zip(answers) {
        assert_eq!(answer.unwrap().score.mos, f64::from(byte));
    }
}

#[tokio::test]
async fn one_that_may_still_grow_is_not() {
    let house = House::beside(640);
    let (events, answers) = behind_one(&house, &[(2, 32), (3, 16), (4, 8)]).await;
    let expected = [Asked(vec![2]), Answered(vec![2]), Asked(vec![3, 4]), Answered(vec![3, 4])];
    assert_eq!(events[2..], expected);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
}

#[tokio::test]
async fn after_a_batch_of_a_size_that_is_new_the_next_one_waits() {
    let house = House::beside(640);
    let first = house.occupied(1);
    let tickets = [2, 3].map(|byte| house.submit(byte, 32).unwrap());
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        ticket.await.unwrap();
    }
    let asked = [Asked(vec![2]), Answered(vec![2]), Asked(vec![3]), Answered(vec![3])];
    assert_eq!(house.fake.events.lock().unwrap()[2..], asked);
}

#[tokio::test]
async fn a_batch_that_fails_takes_none_along() {
    let house = House::beside(640);
    let items = [(2, 16), (FAILS_BATCH, 16), (3, 32), (FAILS_BATCH, 1), (4, 31)];
    let (events, answers) = behind_one(&house, &items).await;
    assert_eq!(events[2..4], [Asked(vec![2, FAILS_BATCH]), Asked(vec![3])]);
    for ((byte, _), answer) in items.into_iter().zip(answers) {
        match answer {
            Err(EngineError::Model(_)) => assert_eq!(byte, FAILS_BATCH),
            answer => assert_eq!(answer.unwrap().score.mos, f64::from(byte)),
        }
    }
}

#[tokio::test]
async fn too_little_memory_fails_nobody() {
    let house = House::beside(640);
    let (_, answers) = behind_one(&house, &[(LARGE, 16), (LARGE, 16), (LARGE, 16), (LARGE, 16), (2, 16)]).await;
    for answer in answers {
        assert!(answer.unwrap().batch_frames <= FITS.max(16));
    }
}

#[tokio::test]
async fn a_lost_device_leaves_nobody_waiting() {
    let house = House::beside(640);
    let (events, answers) = behind_one(&house, &[(LOSES_DEVICE, 32), (2, 32), (3, 32)]).await;
    assert_eq!(events[2..], [Asked(vec![LOSES_DEVICE]), Asked(vec![2])]);
    assert!(answers.into_iter().all(|answer| matches!(answer, Err(EngineError::Stopped))));
    house.engine.ended().await;
}

#[tokio::test]
async fn what_waits_for_the_batch_before_waits_in_line() {
    let house = House::beside(640);
    let (_, answers) = behind_one(&house, &[(2, 32), (3, 32)]).await;
    let scored: Vec<Scored> = answers.into_iter().map(Result::unwrap).collect();
    let [before, after] = &scored[..] else { panic!("two were sent") };
    assert!(after.begun >= before.begun + before.text + before.vision + before.head);
    assert!(after.queue >= before.queue);
}

#[tokio::test]
async fn stop_answers_what_a_busy_device_was_brought() {
    let house = House::beside(640);
    let first = house.occupied(1);
    let tickets = [2, 3].map(|byte| house.submit(byte, 32).unwrap());
    house.engine.stop();
    house.open();
    for ticket in first.into_iter().chain(tickets) {
        ticket.await.unwrap();
    }
    house.engine.ended().await;
}
