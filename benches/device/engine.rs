//! The engine on a device: with too little memory, and as fast as it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use pcqa::engine::{Caller, Engine, EngineConfig, Order, Priority};
use pcqa::model::{Device, Dtype, Ensemble, LoadOptions, Track};
use pcqa::native;
use pcqa::trace::Parent;
use serde_json::json;

use super::{Fast, House, Outcome};

/// Batches that fitted in warming up meet a device of which something else has taken the memory.
pub(super) fn memory(house: &House) -> Outcome {
    let Device::Cuda(index) = house.args.device else { return Ok(None) };
    // Long enough for a burst to become one batch.
    let engine = start(house, Fast { graphs: false, ..House::FAST }, Duration::from_secs(1))?;
    let before = native::memory(house.args.device)?.context("no memory")?;
    native::empty_cache()?;
    let left = native::memory(house.args.device)?.context("no memory")?;
    let working = before.reserved.saturating_sub(left.reserved);
    let count = u64::from(house.args.max_batch_frames);
    let items = house.items(Track::Image, 0, count);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let prompt = house.tokenizer.encode("a red fox in the snow");
    let burst = || -> anyhow::Result<(usize, u32)> {
        // All of them have their places before the first is ready, so that they go as one batch.
        let places: Vec<_> = (0..count).map(|caller| engine.reserve(order(caller, 1))).collect::<Result<_, _>>()?;
        let ready: Vec<_> = places.into_iter().zip(items.clone()).collect();
        let tickets: Vec<_> = ready.into_iter().map(|(place, item)| place.submit(prompt.clone(), item)).collect();
        let (mut answered, mut largest) = (0, 0);
        for ticket in tickets {
            if let Ok(scored) = runtime.block_on(ticket) {
                answered += 1;
                largest = largest.max(scored.batch_frames);
            }
        }
        Ok((answered, largest))
    };
    let (mut cap, mut was_short, mut bursts) = (0, false, Vec::new());
    // What libtorch keeps for later can be several times what the largest batch needs.
    for part in [2, 3, 4, 6, 8, 12] {
        cap = left.reserved + working / part;
        native::empty_cache()?;
        native::memory_cap(index, cap as f64 / left.total as f64)?;
        bursts.push(burst()?);
        let again = burst()?;
        bursts.push(again);
        // Once memory has not sufficed for a batch, none is more than half as large.
        was_short = again.1 <= house.args.max_batch_frames / 2;
        if was_short {
            break;
        }
    }
    native::memory_cap(index, 1.0)?;
    bursts.push(burst()?);
    let all = count as usize;
    let (answered, largest): (Vec<usize>, Vec<u32>) = bursts.into_iter().unzip();
    let ok = answered.iter().all(|&answered| answered == all) && was_short;
    let figures = json!({"items": all, "answered": answered, "largest_batch": largest, "working_bytes": working,
                         "cap_bytes": cap});
    Ok(Some((ok, figures)))
}

/// What the engine makes of the device when frames come decoded: two batches on their way, one prompt.
pub(super) fn engine(house: &House) -> Outcome {
    let engine = Arc::new(start(house, House::FAST, Duration::from_millis(5))?);
    // A picture of its own for each caller: a batch looks at equal ones once.
    let items = Arc::new(house.items(Track::Image, 0, u64::from(2 * house.args.max_batch_frames)));
    let prompt = house.tokenizer.encode("a red fox in the snow");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (scored, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let seconds = Duration::from_secs_f64(house.args.seconds);
    let begin = Instant::now();
    let rate = runtime.block_on(async {
        let mut callers = Vec::new();
        for caller in 0..u64::from(2 * house.args.max_batch_frames) {
            let (engine, items, prompt) = (engine.clone(), items.clone(), prompt.clone());
            let (scored, failed) = (scored.clone(), failed.clone());
            callers.push(tokio::spawn(async move {
                while begin.elapsed() < 2 * seconds {
                    let item = items[caller as usize].clone();
                    let answer = match engine.reserve(order(caller, 1)) {
                        Ok(place) => place.submit(prompt.clone(), item).await,
                        Err(error) => Err(error),
                    };
                    let count = if answer.is_ok() { &scored } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        // The first half is the warm-up.
        tokio::time::sleep_until((begin + seconds).into()).await;
        let (before, since) = (scored.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep_until((begin + 2 * seconds).into()).await;
        let rate = (scored.load(Ordering::Relaxed) - before) as f64 / since.elapsed().as_secs_f64();
        for caller in callers {
            let _ = caller.await;
        }
        rate
    });
    let failed = failed.load(Ordering::Relaxed);
    let figures = json!({"items_per_second": rate, "failed": failed, "max_batch_frames": house.args.max_batch_frames});
    Ok(Some((failed == 0 && rate > 0.0, figures)))
}

fn start(house: &House, fast: Fast, max_queue_delay: Duration) -> anyhow::Result<Engine> {
    let config = EngineConfig {
        max_queue_frames: u64::from(house.args.max_batch_frames) * 8,
        max_batch_frames: house.args.max_batch_frames,
        max_queue_delay,
        text_cache_bytes: 64 << 20,
        threads: usize::try_from(house.args.threads)?,
        warm_up_prompt: house.tokenizer.encode("warm up"),
    };
    let (bundle, serving) = (house.bundle.clone(), house.serving(fast));
    // The CPU may be one that has no bf16 instructions.
    let dtype = if house.args.device == Device::Cpu { Dtype::F32 } else { Dtype::Bf16 };
    let options = LoadOptions { device: house.args.device, dtype, tta: false };
    Ok(Engine::start(vec![move || Ensemble::serve(&bundle, options, serving)], config)?)
}

fn order(caller: u64, frames: u32) -> Order {
    let deadline = Instant::now() + Duration::from_secs(300);
    Order {
        caller: Caller(caller),
        track: Track::Image,
        priority: Priority::Interactive,
        frames,
        deadline,
        span: Parent::default(),
    }
}
