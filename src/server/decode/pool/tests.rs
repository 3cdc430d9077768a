use std::sync::mpsc;

use super::*;
use crate::engine::Caller;
use crate::engine::Priority::{self, Bulk, Interactive};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// Of the first caller.
fn by(priority: Priority, deadline: Instant) -> Terms {
    Terms { caller: Caller(1), priority, arrived: Instant::now(), deadline, span: Default::default() }
}

/// One thread that is busy until the returned sender is used or dropped.
async fn busy_pool<T: Send + Default + 'static>() -> (Pool<T>, mpsc::Sender<()>, Turn<T>) {
    let pool = Pool::start("test", 1).unwrap();
    let (release, released) = mpsc::channel();
    let (begun, has_begun) = oneshot::channel();
    let work = move |_: &Cancel| {
        let _ = begun.send(());
        let _ = released.recv();
        T::default()
    };
    let turn = pool.enter(by(Interactive, Instant::now() + LONG), work).unwrap();
    has_begun.await.unwrap();
    (pool, release, turn)
}

#[tokio::test]
async fn work_goes_by_priority_and_then_by_deadline() {
    let (pool, release, _turn) = busy_pool::<()>().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let now = Instant::now();
    let turns: Vec<_> = [(Bulk, 100, 'd'), (Interactive, 300, 'c'), (Interactive, 100, 'a'), (Interactive, 200, 'b')]
        .into_iter()
        .map(|(priority, seconds, name)| {
            let order = order.clone();
            let work = move |_: &Cancel| order.lock().unwrap().push(name);
            pool.enter(by(priority, now + Duration::from_secs(seconds)), work).unwrap()
        })
        .collect();
    drop(release);
    for turn in turns {
        turn.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ['a', 'b', 'c', 'd']);
}

#[tokio::test]
async fn callers_take_turns() {
    let (pool, release, _turn) = busy_pool::<()>().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let deadline = Instant::now() + LONG;
    let turns: Vec<_> = [2, 2, 2, 2, 3]
        .into_iter()
        .map(|caller| {
            let order = order.clone();
            let terms = Terms { caller: Caller(caller), ..by(Interactive, deadline) };
            pool.enter(terms, move |_: &Cancel| order.lock().unwrap().push(caller)).unwrap()
        })
        .collect();
    drop(release);
    for turn in turns {
        turn.await.unwrap();
    }
    assert_ne!(order.lock().unwrap().last(), Some(&3));
}

#[tokio::test]
async fn what_nobody_waits_for_leaves_the_line_at_once() {
    let (pool, release, _turn) = busy_pool::<()>().await;
    let held = Arc::new(());
    let work = {
        let held = held.clone();
        move |_: &Cancel| drop(held)
    };
    let turn = pool.enter(by(Interactive, Instant::now() + LONG), work).unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(turn);
    assert_eq!(Arc::strong_count(&held), 1, "the thread is still busy");
    drop(release);
}

#[tokio::test]
async fn what_has_begun_is_told_to_stop() {
    let pool = Pool::start("test", 1).unwrap();
    let (begun, has_begun) = oneshot::channel();
    let (stopped, has_stopped) = oneshot::channel();
    let work = move |cancel: &Cancel| {
        let _ = begun.send(());
        while !cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = stopped.send(());
    };
    let turn = pool.enter(by(Interactive, Instant::now() + LONG), work).unwrap();
    has_begun.await.unwrap();
    drop(turn);
    has_stopped.await.unwrap();
    pool.enter(by(Interactive, Instant::now() + LONG), |_| ()).unwrap().await.unwrap();
}

#[tokio::test]
async fn what_is_too_late_is_never_begun() {
    let (pool, release, _turn) = busy_pool::<()>().await;
    let turn = pool.enter(by(Interactive, Instant::now()), |_: &Cancel| panic!("begun")).unwrap();
    drop(release);
    assert_eq!(turn.await, Err(Lost::Late));
}

#[tokio::test]
async fn a_panic_costs_the_work_and_not_the_thread() {
    let pool = Pool::start("test", 1).unwrap();
    let deadline = Instant::now() + LONG;
    let panicked = pool.enter(by(Interactive, deadline), |_: &Cancel| panic!("of a decoder")).unwrap().await;
    assert_eq!(panicked, Err(Lost::Panicked("of a decoder".to_owned())));
    assert_eq!(pool.enter(by(Interactive, deadline), |_| 7).unwrap().await, Ok(7));
}

#[tokio::test]
async fn who_cannot_be_done_in_time_is_refused_at_the_door() {
    let (pool, release, turn) = busy_pool::<()>().await;
    let enter = |seconds| pool.enter(by(Interactive, Instant::now() + Duration::from_secs(seconds)), |_| ());
    // Nothing has been measured.
    drop(enter(1).unwrap());
    pool.shared.lock().pace.record(1, Duration::from_secs(100), Instant::now());
    let refused = enter(140).err().unwrap();
    assert_eq!(refused.takes, Duration::from_secs(150));
    assert!(refused.left <= Duration::from_secs(140) && refused.left > Duration::from_secs(20), "{refused:?}");
    let waiting = [enter(300).unwrap(), enter(300).unwrap()];
    assert_eq!(enter(300).err().unwrap().takes, Duration::from_secs(350));
    assert_eq!(enter(200).err(), None, "an earlier deadline goes first");
    drop(release);
    turn.await.unwrap();
    for turn in waiting {
        turn.await.unwrap();
    }
    // Nothing is ahead.
    enter(1).unwrap().await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_pool_is_said_to_who_waits() {
    let (pool, release, _turn) = busy_pool::<()>().await;
    let turn = pool.enter(by(Interactive, Instant::now() + LONG), |_| ()).unwrap();
    drop(pool);
    assert_eq!(turn.await, Err(Lost::Ended));
    drop(release);
}
