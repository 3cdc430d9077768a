//! Which items go to a device together, and when. Pure: the clock is an argument and nothing waits here.
//!
//! An item takes its place before its frames are decoded, so that the door answers at once, and goes when they are. A
//! batch is formed when a device asks for one and not before: until then it grows. The device is given it at once when
//! it is full or when nothing could join it, and otherwise when its first item has waited `max_queue_delay`.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::budget::{Budget, Refusal};
use super::line::{Key, Line};
use super::pace::Pace;
use super::{EngineError, Order};
use crate::model::Track;

/// The shortest and longest wait that a refused caller is told.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// How batches are formed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most frames of all items that wait.
    pub max_queue_frames: u64,
    /// Most frames of a batch.
    pub max_batch_frames: u32,
    /// How long a free device waits at most for a batch to fill.
    pub max_queue_delay: Duration,
    /// Devices that take batches.
    pub devices: u32,
}

/// The waiting items, each with a payload `T` once its frames are there.
pub(super) struct Former<T> {
    limits: Limits,
    line: Line<Slot<T>>,
    budget: Budget,
    /// Of a frame on a device, by track.
    pace: [Pace; 2],
    /// What devices have and have not done.
    under_way: Vec<UnderWay>,
}

/// A batch on a device.
struct UnderWay {
    track: Track,
    frames: u32,
    /// By the measured rate.
    ends: Instant,
}

struct Slot<T> {
    order: Order,
    /// When it got its place.
    since: Instant,
    /// When its frames were there, and what goes to the device.
    ready: Option<(Instant, T)>,
}

/// What a free device does now.
#[derive(Debug, PartialEq)]
pub(super) enum Step<T> {
    /// Score this.
    Run(Batch<T>),
    /// Ask again at this time, or when anything has changed.
    WaitUntil(Instant),
    /// Ask again when anything has changed.
    Wait,
}

/// Why a batch did not wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Full,
    /// Its first item has waited long enough.
    Delay,
    /// Nothing could join.
    Alone,
}

/// Items of one track, most urgent first.
#[derive(Debug, PartialEq)]
pub(super) struct Batch<T> {
    pub track: Track,
    pub reason: Reason,
    /// Frames of all items.
    pub frames: u32,
    /// Since when each item has waited, and the item.
    pub items: Vec<(Instant, T)>,
}

impl Reason {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delay => "delay",
            Self::Alone => "alone",
        }
    }
}

impl<T> Former<T> {
    pub fn new(limits: Limits) -> Self {
        let (line, budget) = (Line::default(), Budget::new(limits.max_queue_frames));
        Self { limits, line, budget, pace: [Pace::default(); 2], under_way: Vec::new() }
    }

    /// Gives `order` its place in line.
    pub fn reserve(&mut self, order: Order, now: Instant) -> Result<Key, EngineError> {
        let left = order.deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(EngineError::Deadline);
        }
        if order.frames > self.limits.max_batch_frames {
            return Err(EngineError::TooLarge { frames: order.frames, limit: self.limits.max_batch_frames });
        }
        let wait = self.wait_for(&order, now);
        if wait > left {
            return Err(EngineError::Hopeless { wait, left });
        }
        let frames = u64::from(order.frames);
        self.budget.take(order.caller, frames).map_err(|refusal| self.refused(refusal, order.track, now))?;
        Ok(self.line.insert(
            order.caller,
            order.priority,
            order.deadline,
            frames,
            false,
            Slot { order, since: now, ready: None },
        ))
    }

    /// Lets the item at `key` go, which has `frames`, at most as many as it reserved. Gives it back where it has lost its
    /// place, because its deadline has passed.
    pub fn make_ready(&mut self, key: &Key, frames: u32, item: T, now: Instant) -> Result<(), T> {
        let mut item = Some(item);
        let mut surplus = None;
        self.line.make_ready(key, u64::from(frames), |slot| {
            surplus = Some((slot.order.caller, u64::from(slot.order.frames.saturating_sub(frames))));
            slot.order.frames = frames;
            slot.ready = item.take().map(|item| (now, item));
        });
        if let Some((caller, frames)) = surplus {
            self.budget.give_back(caller, frames);
        }
        item.map_or(Ok(()), Err)
    }

    /// Forgets the item at `key`, where it still waits.
    pub fn remove(&mut self, key: &Key) -> Option<T> {
        let slot = self.line.remove(key)?;
        self.leave(slot)
    }

    /// Takes out what has waited beyond its deadline.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        let expired = self.line.expire(now);
        expired.into_iter().filter_map(|(_, slot)| self.leave(slot)).collect()
    }

    /// When [`expire`](Self::expire) next finds something.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.line.next_deadline()
    }

    /// What a device does that is free at `now` and takes at most `max_frames`, which the largest item has not more than.
    /// Items must have been [expired](Self::expire) at `now`.
    pub fn next(&mut self, now: Instant, max_frames: u32) -> Step<T> {
        let Some((track, full, since)) = self.lead(max_frames) else { return Step::Wait };
        let due = since + self.limits.max_queue_delay;
        let may_grow = self.line.iter().any(|(slot, _, ready)| !ready && slot.order.track == track);
        let reason = match () {
            () if full => Reason::Full,
            () if !may_grow => Reason::Alone,
            () if due <= now => Reason::Delay,
            () => return Step::WaitUntil(due),
        };
        Step::Run(self.form(track, reason, now, max_frames))
    }

    /// What a device that is free at `free` can be given before: a batch that would not grow until then.
    pub fn full(&mut self, free: Instant, max_frames: u32) -> Option<Batch<T>> {
        match self.lead(max_frames)? {
            (track, true, _) => Some(self.form(track, Reason::Full, free, max_frames)),
            _ => None,
        }
    }

    /// A device is done with a batch of `frames`.
    pub fn finish(&mut self, track: Track, frames: u32) {
        let done = self.under_way.iter().position(|batch| (batch.track, batch.frames) == (track, frames));
        if let Some(done) = done {
            self.under_way.remove(done);
        }
    }

    /// Learns from `frames` of `track` scored in `elapsed`.
    pub fn record(&mut self, track: Track, frames: u32, elapsed: Duration, now: Instant) {
        self.pace[index(track)].record(frames, elapsed, now);
    }

    /// Frames that have a place.
    pub fn frames(&self) -> u64 {
        self.budget.used()
    }

    /// Items that have a place.
    pub fn items(&self) -> usize {
        self.line.iter().count()
    }

    /// Since when the first that came has had its place.
    pub fn oldest(&self) -> Option<Instant> {
        self.line.iter().map(|(slot, _, _)| slot.since).min()
    }

    /// Whether nobody has a place.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Takes out everything.
    pub fn clear(&mut self) -> Vec<T> {
        let all = self.line.clear();
        all.into_iter().filter_map(|slot| self.leave(slot)).collect()
    }

    /// Track of the item that goes next, whether more of it is ready than fits a batch, and since when the first waits.
    fn lead(&self, max_frames: u32) -> Option<(Track, bool, Instant)> {
        let (key, _) = self.line.next(|_| true)?;
        let track = self.line.get(&key)?.order.track;
        let ready = || self.line.iter().filter(move |(slot, _, _)| slot.order.track == track);
        let frames: u64 = ready().filter(|(slot, _, _)| slot.ready.is_some()).map(|(_, frames, _)| frames).sum();
        let since = ready().filter_map(|(slot, _, _)| slot.ready.as_ref().map(|(since, _)| *since)).min()?;
        Some((track, frames >= u64::from(max_frames), since))
    }

    /// Takes items of `track` in their order until the next one does not fit, or would make the batch last longer than
    /// the most urgent item in it can wait.
    fn form(&mut self, track: Track, reason: Reason, now: Instant, max_frames: u32) -> Batch<T> {
        let mut batch = Batch { track, reason, frames: 0, items: Vec::new() };
        let seconds_per_frame = self.pace[index(track)].last_known().unwrap_or(0.0);
        let mut least_left = f64::INFINITY;
        while let Some((key, _)) = self.line.next(|slot| slot.order.track == track)
            && let Some(slot) = self.line.get(&key)
            && let frames = batch.frames + slot.order.frames
            && let left = least_left.min(slot.order.deadline.saturating_duration_since(now).as_secs_f64())
            && frames <= max_frames
            && (batch.items.is_empty() || f64::from(frames) * seconds_per_frame <= left)
            && let Some(slot) = self.line.take(&key)
        {
            batch.frames = frames;
            least_left = left;
            self.budget.give_back(slot.order.caller, slot.order.frames.into());
            batch.items.extend(slot.ready);
        }
        let seconds = Duration::try_from_secs_f64(f64::from(batch.frames) * seconds_per_frame).unwrap_or_default();
        self.under_way.push(UnderWay { track, frames: batch.frames, ends: now + seconds });
        batch
    }

    fn leave(&mut self, slot: Slot<T>) -> Option<T> {
        self.budget.give_back(slot.order.caller, slot.order.frames.into());
        slot.ready.map(|(_, item)| item)
    }

    /// How long it takes until `order` is scored; 0 where nothing has been measured lately, and where it waits for nothing:
    /// a device that is free tries what may be too late, since a rate that was measured in a bad moment would hold as long
    /// as everything is refused.
    fn wait_for(&self, order: &Order, now: Instant) -> Duration {
        let ahead = self.line.ahead(order.caller, order.priority, order.deadline);
        let ahead: f64 = ahead.into_iter().map(|(slot, frames)| self.seconds_for(slot.order.track, frames, now)).sum();
        let before = ahead + self.until_one_is_free(now);
        if before == 0.0 {
            return Duration::ZERO;
        }
        let own = self.pace[index(order.track)].seconds(now).unwrap_or(0.0) * f64::from(order.frames);
        Duration::try_from_secs_f64(before + own).unwrap_or(Duration::MAX)
    }

    /// Seconds, by the measured rate.
    fn until_one_is_free(&self, now: Instant) -> f64 {
        let Some(waiting) = self.under_way.len().checked_sub(self.limits.devices as usize) else { return 0.0 };
        // Some may have been given their next batch already.
        let mut ends: Vec<Instant> = self.under_way.iter().map(|batch| batch.ends).collect();
        ends.sort_unstable();
        ends.get(waiting).map_or(0.0, |ends| ends.saturating_duration_since(now).as_secs_f64())
    }

    fn seconds_for(&self, track: Track, frames: u64, now: Instant) -> f64 {
        self.pace[index(track)].seconds(now).unwrap_or(0.0) * frames as f64 / f64::from(self.limits.devices)
    }

    fn refused(&self, refusal: Refusal, track: Track, now: Instant) -> EngineError {
        let retry_after = |excess| {
            let wait = Duration::try_from_secs_f64(self.seconds_for(track, excess, now)).unwrap_or(RETRY_AFTER.1);
            wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1)
        };
        match refusal {
            Refusal::Spent { used, limit, excess } => {
                EngineError::QueueFull { queued: used, limit, retry_after: retry_after(excess) }
            }
            Refusal::Share { held, free, excess } => {
                EngineError::ShareFull { held, free, retry_after: retry_after(excess) }
            }
        }
    }
}

fn index(track: Track) -> usize {
    match track {
        Track::Image => 0,
        Track::Video => 1,
    }
}
