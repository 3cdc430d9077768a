//! Two replicas that are replaced one after the other while they are called.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pcqa::proto::ScoreImageRequest;
use pcqa::proto::scoring_service_client::ScoringServiceClient;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::house::House;
use crate::media::png;

type Client = ScoringServiceClient<Channel>;

/// What a load balancer knows: who may be called.
type Endpoints = Arc<Mutex<Vec<Client>>>;

/// As the README's chapter on operations has it: attempts in all, and the waits between them.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Callers that send one image after another.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Status>>>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn start(endpoints: &Endpoints, attempts: u32) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..8).map(|seed| {
            let (endpoints, stop, answered) = (endpoints.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let (mut turn, mut failures) = (seed as usize, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match score(&endpoints, &mut turn, seed, attempts).await {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => failures.push(status),
                    }
                }
                failures
            })
        });
        Self { callers: callers.collect(), stop, answered }
    }

    /// Until so many more requests have been answered.
    async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 40;
        while self.answered.load(Ordering::Relaxed) < enough && !self.callers.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn unharmed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for caller in self.callers {
            failures.extend(caller.await.unwrap());
        }
        let answered = self.answered.load(Ordering::Relaxed);
        eprintln!("{answered} requests answered, {} failed", failures.len());
        assert!(failures.is_empty(), "{} requests failed, {answered} did not: {:?}", failures.len(), failures[0]);
    }
}

/// One request, on whatever endpoint has its turn; what is UNAVAILABLE is tried again on the next.
async fn score(endpoints: &Endpoints, turn: &mut usize, seed: u32, attempts: u32) -> Result<(), Status> {
    let request =
        ScoreImageRequest { prompt: "a lighthouse".to_owned(), image: png(seed).into(), ..Default::default() };
    let mut wait = FIRST_WAIT;
    let mut attempt = 1;
    loop {
        *turn += 1;
        let mut client = {
            let endpoints = endpoints.lock().unwrap();
            endpoints[*turn % endpoints.len()].clone()
        };
        match client.score_image(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if is_unsent(&status) => continue,
            Err(status) if attempt < attempts && status.code() == Code::Unavailable => {}
            Err(status) => return Err(status),
        }
        tokio::time::sleep(wait).await;
        wait = LONGEST_WAIT.min(wait * 2);
        attempt += 1;
    }
}

/// gRPC clients send a request that was still theirs when its connection ended on the next one and say nothing; tonic
/// leaves that to its users. hyper's word for such a request is "canceled": nothing of it was ever sent.
pub fn is_unsent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn where_endpoints_follow_health_no_request_fails_without_any_retry() {
    let flags = ["--drain-wait-seconds=0.5", "--drain-grace-seconds=600"];
    let mut old = vec![House::start(&flags).await, House::start(&flags).await];
    let endpoints: Endpoints = Arc::new(Mutex::new(old.iter().map(House::another_client).collect()));
    let load = Load::start(&endpoints, 1);
    load.goes_on().await;
    let mut new = Vec::new();
    for place in 0..2 {
        let house = House::start(&flags).await;
        let leaving = old.remove(0);
        leaving.signal(Signal::TERM);
        // Well within the wait, and after the signal: what was sent in between is served.
        tokio::time::sleep(Duration::from_millis(100)).await;
        endpoints.lock().unwrap()[place] = house.another_client();
        new.push(house);
        let (status, log) = tokio::task::spawn_blocking(|| leaving.ended()).await.unwrap();
        assert!(status.code() == Some(0) && log.contains("drained"), "{log}");
        load.goes_on().await;
    }
    load.unharmed().await;
}

#[tokio::test]
async fn where_endpoints_stay_the_retry_policy_hides_every_restart() {
    let flags = ["--drain-grace-seconds=600"];
    let mut houses = vec![House::start(&flags).await, House::start(&flags).await];
    let endpoints: Endpoints = Arc::new(Mutex::new(houses.iter().map(House::another_client).collect()));
    let load = Load::start(&endpoints, ATTEMPTS);
    load.goes_on().await;
    for _ in 0..2 {
        let leaving = houses.remove(0);
        let listen = format!("--listen={}", leaving.address);
        leaving.signal(Signal::TERM);
        let (status, log) = tokio::task::spawn_blocking(|| leaving.ended()).await.unwrap();
        assert!(status.code() == Some(0) && log.contains("drained"), "{log}");
        load.goes_on().await;
        houses.push(House::start(&[flags[0], &listen]).await);
        load.goes_on().await;
    }
    load.unharmed().await;
}

#[tokio::test]
async fn connections_that_end_by_age_cost_no_request() {
    let house = House::start(&["--max-connection-age-seconds=0.3"]).await;
    let endpoints: Endpoints = Arc::new(Mutex::new((0..4).map(|_| house.another_client()).collect()));
    let load = Load::start(&endpoints, 1);
    for _ in 0..4 {
        load.goes_on().await;
    }
    load.unharmed().await;
}
