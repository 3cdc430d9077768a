//! Sending: a closed or an open loop against the clock, whose every outcome goes to one tally.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::sync::{Notify, mpsc};

use super::load::{Load, Shot};
use super::summary::Summary;
use super::tally::{Answer, Outcome, Tally};
use crate::client::call;
use crate::client::connect::Client;
use crate::client::kind::Kind;
use crate::client::output::Failure;
use crate::client::send;
use crate::proto::{ScoreImageRequest, ScoreVideoRequest};

/// Requests that an open loop leaves unanswered at most: enough for every answer that is still of use, and an end to
/// the memory that a server which never answers takes here.
pub const MOST_OUTSTANDING: usize = 10_000;
/// How long a closed loop's place waits after a server that is away or refuses for its load. Without it, such a server
/// would be measured by how fast this side fails.
const PAUSE: Duration = Duration::from_millis(100);

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// When one of this many is answered.
    Closed(usize),
    /// This often per second.
    Open(f64),
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// How requests are sent.
    pub pace: Pace,
    /// Time before `duration` that is not counted.
    pub warm_up: Duration,
    /// Measured time.
    pub duration: Duration,
}

/// The three moments of a phase.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The first request is due.
    pub start: Instant,
    /// Requests that are due from here on count.
    pub from: Instant,
    /// Nothing is sent from here on.
    pub until: Instant,
}

impl Window {
    /// Whether the moment is in the measured time.
    pub fn holds(&self, moment: Instant) -> bool {
        self.from <= moment && moment < self.until
    }
}

/// The server and what is sent to it, over all phases.
#[derive(Debug)]
pub struct Target {
    /// At least one; requests take turns.
    pub clients: Vec<Client>,
    /// What is sent.
    pub load: Load,
    /// Deadline of a request.
    pub timeout: Duration,
    /// Frames of the server's largest batch, or 0 when it does not say.
    pub full_batch: u32,
    /// Number of the next request, so that new prompts stay new from phase to phase.
    pub next: AtomicU64,
}

/// Requests of a phase.
#[derive(Debug, Default)]
pub struct Counts {
    /// Due in the measured time, sent or not.
    pub due: AtomicU64,
    /// Due in the measured time, but over [`MOST_OUTSTANDING`].
    pub not_sent: AtomicU64,
    outstanding: AtomicUsize,
}

/// What the senders of a phase share. When the last of them ends, the tally is complete.
struct Sender {
    target: Arc<Target>,
    window: Window,
    counts: Arc<Counts>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

/// Runs one phase to its last answer, or to the interrupt.
pub async fn run(target: &Arc<Target>, phase: Phase, interrupt: &Notify, progress: &ProgressBar) -> Summary {
    let start = Instant::now();
    let from = start + phase.warm_up;
    let window = Window { start, from, until: from + phase.duration };
    let counts = Arc::new(Counts::default());
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let sender = Arc::new(Sender { target: target.clone(), window, counts: counts.clone(), outcomes: sender });
    match phase.pace {
        Pace::Closed(concurrency) => {
            for _ in 0..concurrency {
                tokio::spawn(send_when_answered(sender.clone()));
            }
        }
        // A thread of its own: the runtime's clock ticks in whole milliseconds.
        Pace::Open(rate) => {
            let runtime = tokio::runtime::Handle::current();
            let sender = sender.clone();
            tokio::task::spawn_blocking(move || send_at_rate(&sender, rate, &runtime));
        }
    }
    drop(sender);

    let mut tally = Tally::new(window);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut seen = Seen::default();
    let is_interrupted = loop {
        tokio::select! {
            outcome = outcomes.recv() => match outcome {
                Some(outcome) => tally.add(outcome),
                None => break false,
            },
            () = interrupt.notified() => break true,
            _ = tick.tick() => seen.show(&tally, &counts, progress),
        }
    };
    tally.finish(&counts, target.full_batch, is_interrupted)
}

async fn send_when_answered(sender: Arc<Sender>) {
    loop {
        let due = Instant::now();
        if due >= sender.window.until {
            return;
        }
        sender.counts.outstanding.fetch_add(1, Ordering::Relaxed);
        let outcome = sender.send(due).await;
        let is_turned_away =
            outcome.result.as_ref().is_err_and(|failure| matches!(failure.code, "UNAVAILABLE" | "RESOURCE_EXHAUSTED"));
        if sender.outcomes.send(outcome).is_err() {
            return;
        }
        if is_turned_away {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Blocks until the last request is sent.
fn send_at_rate(sender: &Arc<Sender>, rate: f64, runtime: &tokio::runtime::Handle) {
    let Window { start, until, .. } = sender.window;
    for number in 0_u64.. {
        #[expect(clippy::cast_precision_loss, reason = "nobody sends 2^53 requests")]
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        if due >= until || sender.outcomes.is_closed() {
            return;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if sender.counts.outstanding.load(Ordering::Relaxed) >= MOST_OUTSTANDING {
            sender.skip(due);
            continue;
        }
        sender.counts.outstanding.fetch_add(1, Ordering::Relaxed);
        let sender = sender.clone();
        runtime.spawn(async move {
            let outcome = sender.send(due).await;
            // Nobody listens any more after an interrupt.
            let _ = sender.outcomes.send(outcome);
        });
    }
}

impl Sender {
    /// Sends the next request and waits for what becomes of it.
    async fn send(&self, due: Instant) -> Outcome {
        if self.window.holds(due) {
            self.counts.due.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.target.next.fetch_add(1, Ordering::Relaxed);
        let shot = self.target.load.shot(number);
        let sent = Instant::now();
        let result = match shot {
            Some(shot) => self.target.ask(number, shot).await,
            None => Err(Failure::invalid("there is nothing to send".to_owned())),
        };
        let answered = Instant::now();
        self.counts.outstanding.fetch_sub(1, Ordering::Relaxed);
        Outcome { due, sent, answered, result }
    }

    fn skip(&self, due: Instant) {
        if self.window.holds(due) {
            self.counts.due.fetch_add(1, Ordering::Relaxed);
            self.counts.not_sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Target {
    async fn ask(&self, number: u64, shot: Shot) -> Result<Answer, Failure> {
        let turn = usize::try_from(number).unwrap_or_default() % self.clients.len().max(1);
        let Some(mut client) = self.clients.get(turn).cloned() else {
            return Err(Failure { code: "UNAVAILABLE", message: "there is no connection".to_owned() });
        };
        let Shot { kind, prompt, bytes, priority } = shot;
        let priority = priority.into();
        let score = match kind {
            Kind::Image => {
                let request = ScoreImageRequest { prompt, image: bytes, priority };
                call::once(self.timeout, request, |request| async move { client.score_image(request).await })
                    .await?
                    .score
            }
            Kind::Video => {
                let request = ScoreVideoRequest { prompt, video: bytes, priority };
                call::once(self.timeout, request, |request| async move { client.score_video(request).await })
                    .await?
                    .score
            }
        };
        Ok(Answer::new(&send::present(score)?))
    }
}

/// What the progress bar last showed.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    scores: u64,
}

impl Seen {
    fn show(&mut self, tally: &Tally, counts: &Counts, progress: &ProgressBar) {
        let now = Instant::now();
        let Window { start, until, .. } = tally.window;
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        progress.set_length(milliseconds(until - start));
        progress.set_position(milliseconds(now.min(until).saturating_duration_since(start)));
        let seconds = now.saturating_duration_since(self.at.unwrap_or(start)).as_secs_f64();
        let (scores, failures) = tally.so_far();
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let rate = if seconds > 0.0 { (scores - self.scores) as f64 / seconds } else { 0.0 };
        let outstanding = counts.outstanding.load(Ordering::Relaxed);
        progress.set_message(format!("{rate:.1} scores/s, {failures} errors, {outstanding} on their way"));
        *self = Self { at: Some(now), scores };
    }
}
