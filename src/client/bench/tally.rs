//! Counting outcomes: histograms, errors by code, means of the server's timings.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::run::{Counts, Window};
use super::summary::{ByCode, Figures, Summary};
use crate::client::output::{Failure, stage_milliseconds};
use crate::proto::Score;

/// Stages in which the server works on the item itself; the rest of the round trip is overhead and waiting.
const AT_WORK: [&str; 5] = ["decode_ms", "resize_ms", "text_ms", "vision_ms", "head_ms"];

/// A warm-up, a measurement and a timeout of a day each.
const LONGEST_MICROSECONDS: u64 = 3 * 86_400_000_000;

/// What became of one request.
#[derive(Debug)]
pub struct Outcome {
    /// When it was meant to be sent.
    pub due: Instant,
    /// When it was.
    pub sent: Instant,
    /// When the answer or the failure was there.
    pub answered: Instant,
    /// The server's figures, or why there are none.
    pub result: Result<Answer, Failure>,
}

/// The part of a score that counts here.
#[derive(Debug)]
pub struct Answer {
    stages: Stages,
    has_timings: bool,
    frames: u32,
    batch_frames: u32,
}

type Stages = [(&'static str, Option<f64>); 8];

impl Answer {
    /// Of a score that arrived.
    pub fn new(score: &Score) -> Self {
        let timings = score.timings.as_ref();
        Self {
            stages: stage_milliseconds(timings),
            has_timings: timings.is_some(),
            frames: score.frames_used,
            batch_frames: score.batch_frames,
        }
    }

    /// The time outside [`AT_WORK`].
    fn outside(&self, round_trip: Duration) -> Option<Duration> {
        let at_work = self.stages.iter().filter(|(name, _)| AT_WORK.contains(name));
        let milliseconds: f64 = at_work.filter_map(|(_, milliseconds)| *milliseconds).sum();
        let work = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
        self.has_timings.then(|| round_trip.saturating_sub(work))
    }
}

/// Durations with three significant digits from a microsecond up.
struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST_MICROSECONDS, 3).expect("the histogram takes these bounds"))
    }

    fn add(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    fn figures(&self) -> Figures {
        #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
        let at = |quantile: f64| (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile) as f64 / 1e3);
        Figures {
            count: self.0.len(),
            mean: (!self.0.is_empty()).then(|| self.0.mean() / 1e3),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

struct Refused {
    latency: Latency,
    example: String,
}

/// A sum and how many it has.
#[derive(Debug, Default, Clone, Copy)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// The outcomes of one phase.
pub struct Tally {
    /// What counts.
    pub window: Window,
    latency: Latency,
    lag: Latency,
    outside: Latency,
    refused: BTreeMap<&'static str, Refused>,
    stages: BTreeMap<&'static str, Mean>,
    frames: f64,
    batches: f64,
    /// Scores and failures that came at any time.
    so_far: (u64, u64),
    /// Scores and failures that came in the measured time.
    in_time: (u64, u64),
}

impl Tally {
    /// Of a phase that begins.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            latency: Latency::new(),
            lag: Latency::new(),
            outside: Latency::new(),
            refused: BTreeMap::new(),
            stages: BTreeMap::new(),
            frames: 0.0,
            batches: 0.0,
            so_far: (0, 0),
            in_time: (0, 0),
        }
    }

    /// Scores and failures so far, the warm-up's among them.
    pub fn so_far(&self) -> (u64, u64) {
        self.so_far
    }

    /// Takes one outcome.
    pub fn add(&mut self, outcome: Outcome) {
        let count = |(scores, failures): &mut (u64, u64)| match &outcome.result {
            Ok(_) => *scores += 1,
            Err(_) => *failures += 1,
        };
        count(&mut self.so_far);
        if self.window.holds(outcome.answered) {
            count(&mut self.in_time);
        }
        if !self.window.holds(outcome.due) {
            return;
        }
        let latency = outcome.answered.saturating_duration_since(outcome.due);
        self.lag.add(outcome.sent.saturating_duration_since(outcome.due));
        match outcome.result {
            Ok(answer) => {
                self.latency.add(latency);
                self.add_answer(&answer, outcome.answered.saturating_duration_since(outcome.sent));
            }
            Err(Failure { code, message }) => {
                let new = || Refused { latency: Latency::new(), example: message };
                self.refused.entry(code).or_insert_with(new).latency.add(latency);
            }
        }
    }

    fn add_answer(&mut self, answer: &Answer, round_trip: Duration) {
        if let Some(outside) = answer.outside(round_trip) {
            self.outside.add(outside);
        }
        for (name, milliseconds) in answer.stages {
            if let Some(milliseconds) = milliseconds {
                self.stages.entry(name).or_default().add(milliseconds);
            }
        }
        if answer.batch_frames > 0 {
            // Each item is its share of a batch; the mean over items would count full batches more often.
            self.frames += f64::from(answer.frames);
            self.batches += f64::from(answer.frames) / f64::from(answer.batch_frames);
        }
    }

    /// The figures, when no outcome follows. `full_batch` is the frames of the server's largest batch, or 0.
    pub fn finish(self, counts: &Counts, full_batch: u32, is_interrupted: bool) -> Summary {
        // The last answer of an open loop may come before the time is over.
        let end = if is_interrupted { Instant::now().min(self.window.until) } else { self.window.until };
        let measured = end.saturating_duration_since(self.window.from);
        let (requests, not_sent) = (counts.due.load(Ordering::Relaxed), counts.not_sent.load(Ordering::Relaxed));
        let (scores, failures) = self.in_time;
        #[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
        let per_second = |count: u64| (!measured.is_zero()).then(|| count as f64 / measured.as_secs_f64());
        let by_code: BTreeMap<_, _> = self.refused.into_iter().map(|(code, refused)| (code, refused.into())).collect();
        let errors = by_code.values().map(|code: &ByCode| code.latency_ms.count).sum();
        let latency_ms = self.latency.figures();
        let batch_frames = (self.batches > 0.0).then(|| self.frames / self.batches);
        Summary {
            is_interrupted,
            seconds: measured.as_secs_f64(),
            requests,
            scores: latency_ms.count,
            errors,
            unanswered: requests.saturating_sub(latency_ms.count + errors + not_sent),
            not_sent,
            offered_per_s: per_second(requests),
            answered_per_s: per_second(scores + failures),
            goodput_per_s: per_second(scores),
            latency_ms,
            outside_ms: self.outside.figures(),
            send_lag_ms: self.lag.figures(),
            by_code,
            stages_ms: stage_milliseconds(None)
                .map(|(name, _)| (name, self.stages.get(name).and_then(|mean| mean.value()))),
            batch_frames,
            batch_fill: batch_frames.filter(|_| full_batch > 0).map(|frames| frames / f64::from(full_batch)),
        }
    }
}

impl From<Refused> for ByCode {
    fn from(refused: Refused) -> Self {
        let latency_ms = refused.latency.figures();
        Self { count: latency_ms.count, example: refused.example, latency_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(frames: u32, batch_frames: u32) -> Answer {
        Answer { stages: stage_milliseconds(None), has_timings: false, frames, batch_frames }
    }

    #[test]
    fn waiting_and_transport_are_outside() {
        let stages = [50.0, 10.0, 5.0, 100.0, 1.0, 2.0, 3.0, 171.0];
        let mut timed = answer(1, 0);
        timed.has_timings = true;
        for ((_, found), milliseconds) in timed.stages.iter_mut().zip(stages) {
            *found = Some(milliseconds);
        }
        let round_trip = Duration::from_millis(200);
        assert_eq!(timed.outside(round_trip), Some(round_trip - Duration::from_millis(21)));
        assert_eq!(timed.outside(Duration::from_millis(20)), Some(Duration::ZERO), "clocks differ a little");
    }

    fn window(start: Instant) -> Window {
        let second = Duration::from_secs(1);
        Window { start: start - 3 * second, from: start - 2 * second, until: start - second }
    }

    #[test]
    fn the_fill_is_that_of_batches_not_of_items() {
        let now = Instant::now();
        let mut tally = Tally::new(window(now));
        let due = tally.window.from;
        // A batch of eight pictures, one of two, and a clip of 16 frames with half of its batch.
        let answers = [(1, 8, 8), (1, 2, 2), (16, 32, 1)];
        for (frames, batch_frames, count) in answers {
            for _ in 0..count {
                tally.add(Outcome { due, sent: due, answered: now, result: Ok(answer(frames, batch_frames)) });
            }
        }
        let summary = tally.finish(&Counts::default(), 64, false);
        let mean = (8.0 + 2.0 + 16.0) / 2.5;
        assert!((summary.batch_frames.unwrap() - mean).abs() < 1e-9, "{summary:?}");
        assert!((summary.batch_fill.unwrap() - mean / 64.0).abs() < 1e-9);
    }

    #[test]
    fn rates_are_of_answers_in_time_and_latencies_of_requests_due_in_time() {
        let now = Instant::now();
        let mut tally = Tally::new(window(now));
        let Window { start, from, until } = tally.window;
        let busy = || Err(Failure { code: "RESOURCE_EXHAUSTED", message: "full".to_owned() });
        let half = Duration::from_millis(500);
        let mut add = |due, answered, result| tally.add(Outcome { due, sent: due + half, answered, result });
        add(start, from + half, Ok(answer(1, 0)));
        add(from, from + 2 * half - half / 2, Ok(answer(1, 0)));
        add(from, until + half, Ok(answer(1, 0)));
        add(from, from + half, busy());
        add(until, until + half, busy());
        let counts = Counts::default();
        counts.due.store(4, Ordering::Relaxed);
        let summary = tally.finish(&counts, 0, true);
        assert_eq!((summary.scores, summary.errors, summary.unanswered), (2, 1, 1));
        assert_eq!((summary.goodput_per_s, summary.answered_per_s), (Some(2.0), Some(3.0)));
        let near = |found: Option<f64>, milliseconds: f64| (found.unwrap() / milliseconds - 1.0).abs() < 2e-3;
        assert!(near(summary.latency_ms.p50, 750.0) && near(summary.latency_ms.max, 1500.0), "{summary:?}");
        assert!(near(summary.send_lag_ms.p99, 500.0));
        assert!(near(summary.by_code["RESOURCE_EXHAUSTED"].latency_ms.max, 500.0));
        assert_eq!((summary.batch_frames, summary.batch_fill), (None, None));
        assert_eq!(summary.outside_ms, Figures::default(), "no timings, no overhead");
    }
}
