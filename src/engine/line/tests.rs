//! The order, without threads and with a clock that stands.

use std::time::Duration;

use proptest::prelude::*;

use super::Priority::{Bulk, Interactive};
use super::*;

const ME: Caller = Caller(7);

fn take_next(line: &mut Line<u32>) -> Option<u32> {
    let (key, _) = line.next(|_| true)?;
    line.take(&key)
}

#[test]
fn the_order_is_priority_then_deadline_then_turn() {
    let (now, mut line) = (Instant::now(), Line::default());
    let at = |seconds| now + Duration::from_secs(seconds);
    for (priority, deadline, name) in [
        (Bulk, at(1), 5),
        (Interactive, at(9), 3),
        (Interactive, at(2), 1),
        (Interactive, at(9), 4),
        (Interactive, at(3), 2),
    ] {
        line.insert(ME, priority, deadline, 1, true, name);
    }
    let order: Vec<u32> = std::iter::from_fn(|| take_next(&mut line)).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_not_ready_keeps_its_turn() {
    let (now, mut line) = (Instant::now(), Line::default());
    let first = line.insert(ME, Interactive, now, 16, false, 1);
    line.insert(ME, Interactive, now, 1, true, 2);
    line.insert(ME, Interactive, now, 1, true, 3);
    assert_eq!(take_next(&mut line), Some(2));
    assert!(line.make_ready(&first, 4, |work| *work = 10));
    assert_eq!(line.next(|_| true).map(|(_, cost)| cost), Some(4));
    assert_eq!(take_next(&mut line), Some(10));
    assert_eq!(take_next(&mut line), Some(3));
    assert!(!line.make_ready(&first, 4, |_| ()));
}

#[test]
fn what_would_go_before_a_newcomer_is_ahead() {
    let (now, mut line) = (Instant::now(), Line::default());
    let at = |seconds| now + Duration::from_secs(seconds);
    for (priority, deadline, cost) in
        [(Interactive, at(1), 1), (Interactive, at(5), 10), (Bulk, at(1), 100), (Bulk, at(5), 1000)]
    {
        line.insert(ME, priority, deadline, cost, true, ());
    }
    let cost = |priority, deadline| line.ahead(ME, priority, deadline).iter().map(|(_, cost)| cost).sum::<u64>();
    assert_eq!(cost(Interactive, at(0)), 0);
    assert_eq!(cost(Interactive, at(1)), 1);
    assert_eq!(cost(Interactive, at(9)), 11);
    assert_eq!(cost(Bulk, at(0)), 11);
    assert_eq!(cost(Bulk, at(5)), 1111);
}

#[test]
fn idle_time_of_bulk_work_is_no_credit() {
    let (now, mut line) = (Instant::now(), Line::default());
    for _ in 0..1000 {
        line.insert(ME, Interactive, now, 1, true, Interactive);
    }
    for _ in 0..500 {
        let (key, _) = line.next(|_| true).unwrap();
        line.take(&key);
    }
    for _ in 0..10 {
        line.insert(ME, Bulk, now, 1, true, Bulk);
    }
    let first: Vec<Priority> = (0..7)
        .map(|_| {
            let (key, _) = line.next(|_| true).unwrap();
            line.take(&key).unwrap()
        })
        .collect();
    assert_eq!(first, [Interactive; 7]);
}

#[test]
fn callers_take_turns_by_cost() {
    let (now, mut line) = (Instant::now(), Line::default());
    // The flood is first and more urgent.
    for item in 0..100 {
        line.insert(Caller(1), Interactive, now, 1, true, item);
    }
    for item in 100..103 {
        line.insert(Caller(2), Interactive, now + Duration::from_secs(9), 2, true, item);
    }
    let order: Vec<u32> = (0..10).filter_map(|_| take_next(&mut line)).collect();
    assert_eq!(order, [0, 100, 1, 2, 101, 3, 4, 102, 5, 6]);
    // Who comes later has no claim to what the others have had.
    line.insert(Caller(3), Interactive, now + Duration::from_secs(9), 1, true, 200);
    line.insert(Caller(3), Interactive, now + Duration::from_secs(9), 1, true, 201);
    let order: Vec<u32> = (0..4).filter_map(|_| take_next(&mut line)).collect();
    assert_eq!(order.iter().filter(|item| **item >= 200).count(), 2, "{order:?}");
}

proptest! {
    /// Callers that always have work waiting get equal shares, whatever their deadlines and however much waits.
    #[test]
    fn backlogged_callers_get_equal_shares(
        items in proptest::collection::vec((0u64..4, 1u64..=16, 0u64..1000), 100..400),
    ) {
        let (now, mut line) = (Instant::now(), Line::default());
        for &(caller, cost, milliseconds) in &items {
            line.insert(Caller(caller), Interactive, now + Duration::from_millis(milliseconds), cost, true, (caller, cost));
        }
        let mut left = [0, 1, 2, 3].map(|caller| items.iter().filter(|item| item.0 == caller).count());
        let mut had = [0u64; 4];
        while left.iter().all(|left| *left > 0) {
            let (key, _) = line.next(|_| true).unwrap();
            let (caller, cost) = line.take(&key).unwrap();
            left[caller as usize] -= 1;
            had[caller as usize] += cost;
            let spread = had.iter().max().unwrap() - had.iter().min().unwrap();
            prop_assert!(spread <= 2 * 16, "{had:?}");
        }
    }

    /// What is said to be ahead of a newcomer is what goes before it when nobody else comes.
    #[test]
    fn what_is_ahead_goes_before(
        items in proptest::collection::vec((0u64..4, any::<bool>(), 1u64..=16, 0u64..100), 0..60),
        gone in 0usize..30,
        newcomer in (0u64..5, 0u64..100),
    ) {
        let (now, mut line) = (Instant::now(), Line::default());
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        for (number, &(caller, bulk, cost, deadline)) in items.iter().enumerate() {
            let priority = if bulk { Bulk } else { Interactive };
            line.insert(Caller(caller), priority, at(deadline), cost, true, number);
        }
        for _ in 0..gone.min(items.len()) {
            let (key, _) = line.next(|_| true).unwrap();
            line.take(&key);
        }
        let (caller, deadline) = newcomer;
        let mut ahead: Vec<usize> =
            line.ahead(Caller(caller), Interactive, at(deadline)).iter().map(|(item, _)| **item).collect();
        line.insert(Caller(caller), Interactive, at(deadline), 1, true, usize::MAX);
        let mut before = Vec::new();
        while let Some((key, _)) = line.next(|item| *item == usize::MAX || !items[*item].1)
            && let Some(item) = line.take(&key)
            && item != usize::MAX
        {
            before.push(item);
        }
        ahead.sort_unstable();
        before.sort_unstable();
        prop_assert_eq!(ahead, before);
    }


    /// However interactive work floods in, bulk work gets its share of the cost, and no more.
    #[test]
    fn bulk_gets_its_share_under_a_flood(costs in proptest::collection::vec((1u64..=16, 1u64..=16), 400)) {
        let (now, mut line) = (Instant::now(), Line::default());
        for &(interactive, bulk) in &costs {
            line.insert(ME, Interactive, now, interactive, true, ());
            line.insert(ME, Bulk, now, bulk, true, ());
        }
        let (mut gone, mut bulk_gone) = (0, 0);
        for _ in 0..300 {
            let Some((key, cost)) = line.next(|_| true) else { break };
            line.take(&key);
            gone += cost;
            bulk_gone += if key.priority == Bulk { cost } else { 0 };
        }
        // One item more or less than the exact share.
        prop_assert!((bulk_gone + 16) * BULK_SHARE >= gone, "{bulk_gone} of {gone}");
        prop_assert!(bulk_gone.saturating_sub(16) * BULK_SHARE <= gone, "{bulk_gone} of {gone}");
    }
}
