//! What a device promises, checked in process with a whole bundle; `deploy/gpu/check.sh` runs it on a GPU.
//!
//! ```sh
//! cargo bench --bench device -- parity --bundle DIR --device cuda:0
//! ```
//!
//! Each check prints one JSON object with its figures and whether they are within their limits. Exit codes: 0 it holds,
//! 1 it does not, 3 there is nothing to check on this device.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use pcqa::engine::{Caller, Engine, EngineConfig, Order, Priority};
use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Bundle, Device, Dtype, Ensemble, EnsembleScore, LoadOptions, Serving, Track};
use pcqa::native::{self, InferenceMode};
use pcqa::text::{TokenIds, Tokenizer};
use pcqa::trace::Parent;
use pcqa::train::hash_init::bits;
use serde_json::{Value, json};

/// Tolerances of a raw score, in the two number formats.
const F32: f64 = 1e-4;
const BF16: f64 = 2e-2;
const NOTHING_TO_CHECK: u8 = 3;

/// Checks a device.
#[derive(Parser)]
struct Args {
    /// What to check.
    #[arg(value_enum)]
    check: Check,
    /// Bundle directory; the compiled-in demo where absent.
    #[arg(long, value_name = "DIR")]
    bundle: Option<std::path::PathBuf>,
    /// Where to compute: cpu or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = pcqa::train::device)]
    device: Device,
    /// CPU threads of one operation.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    threads: i32,
    /// Most frames of a batch.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(16..))]
    max_batch_frames: u32,
    /// How long `engine` measures.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Check {
    /// Names the device.
    Info,
    /// Raw scores in f32 and bf16 against those of the CPU in f32.
    Parity,
    /// An item scores in any batch as alone.
    Neighbours,
    /// CUDA graphs score as the same operations one by one.
    Graphs,
    /// Too little memory fails no request.
    Memory,
    /// Items per second through the engine, with frames that are decoded.
    Engine,
}

/// The figures, and whether they are within their limits; none where there is nothing to check.
type Outcome = anyhow::Result<Option<(bool, Value)>>;

fn main() -> ExitCode {
    let args = Args::parse();
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
    tch::set_num_threads(args.threads);
    let name = args.check.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let (code, page) = match run(&args) {
        Ok(Some((ok, figures))) => (u8::from(!ok), json!({"check": name, "ok": ok, "figures": figures})),
        Ok(None) => (NOTHING_TO_CHECK, json!({"check": name, "ok": null})),
        Err(error) => (1, json!({"check": name, "ok": false, "error": format!("{error:#}")})),
    };
    println!("{page}");
    // The destructors of CUDA are no part of the check.
    native::end_at_once(code.into())
}

fn run(args: &Args) -> Outcome {
    let house = House::new(args)?;
    match args.check {
        Check::Info => info(args),
        Check::Parity => parity(&house),
        Check::Neighbours => neighbours(&house),
        Check::Graphs => graphs(&house),
        Check::Memory => memory(&house),
        Check::Engine => engine(&house),
    }
}

/// The bundle and what is scored.
struct House<'a> {
    args: &'a Args,
    bundle: Arc<Bundle>,
    tokenizer: Tokenizer,
}

impl<'a> House<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let bundle = match &args.bundle {
            Some(directory) => Bundle::open(directory)?,
            None => Bundle::demo()?,
        };
        let tokenizer = bundle.file(&bundle.manifest().text.tokenizer)?;
        let tokenizer = Tokenizer::from_json(tokenizer.bytes(), bundle.manifest().text.context_length)?;
        Ok(Self { args, bundle: Arc::new(bundle), tokenizer })
    }

    fn serve(&self, device: Device, dtype: Dtype, graphs: bool) -> anyhow::Result<Ensemble> {
        let options = LoadOptions { device, dtype, tta: false };
        Ensemble::serve(&self.bundle, options, self.serving(graphs)).context("loading")
    }

    fn serving(&self, graphs: bool) -> Serving {
        Serving { max_batch_frames: self.args.max_batch_frames, graphs, memory_bytes: None }
    }

    fn sides(&self, track: Track) -> Vec<u32> {
        self.bundle.manifest().experts.iter().filter(|e| e.track == track).map(|e| e.input_size).collect()
    }

    /// Items of a track that have exactly so many frames together, told apart by numbers from `first` on.
    fn filling(&self, track: Track, first: u64, frames: u32) -> Vec<Frames> {
        let longest = if track == Track::Image { 1 } else { self.bundle.manifest().max_frames };
        let sides = self.sides(track);
        let item = |item: u32| noise(first + u64::from(item), longest.min(frames - item * longest), &sides);
        (0..frames.div_ceil(longest)).map(item).collect()
    }

    /// So many items of a track, told apart by numbers from `first` on. Clips have different lengths.
    fn items(&self, track: Track, first: u64, count: u64) -> Vec<Frames> {
        let manifest = self.bundle.manifest();
        let sides = self.sides(track);
        let length =
            |item: u64| if track == Track::Image { 1 } else { 1 + (item * 5 + 15) as u32 % manifest.max_frames };
        (first..first + count).map(|item| noise(item, length(item), &sides)).collect()
    }

    fn prompts(&self, count: usize) -> Vec<TokenIds> {
        (0..count).map(|item| self.tokenizer.encode(&format!("a red fox in the snow, take {item}"))).collect()
    }

    /// Scores of `items`, each for the prompt of its place.
    fn score(&self, network: &Ensemble, track: Track, items: &[&Frames], first: usize) -> anyhow::Result<Vec<Score>> {
        let prompts = self.prompts(first + items.len());
        let text = network.encode_prompts(&prompts[first..].iter().collect::<Vec<_>>())?;
        let (scores, _) = network.score(track, items, &text)?;
        Ok(scores.into_iter().collect::<Result<_, _>>()?)
    }
}

type Score = EnsembleScore;

const TRACKS: [(&str, Track); 2] = [("image", Track::Image), ("video", Track::Video)];

fn info(args: &Args) -> Outcome {
    let Device::Cuda(index) = args.device else { return Ok(Some((true, json!({"device": "cpu"})))) };
    let memory = native::memory(args.device)?.context("no memory")?;
    let name = native::device_name(index).unwrap_or_else(|error| format!("unknown: {error}"));
    Ok(Some((true, json!({"device": name, "total_bytes": memory.total, "free_bytes": memory.free}))))
}

fn parity(house: &House) -> Outcome {
    let _mode = InferenceMode::enter()?;
    let (device, mut figures, mut ok) = (house.args.device, serde_json::Map::new(), true);
    let network = house.serve(Device::Cpu, Dtype::F32, false)?;
    let mut expected = Vec::new();
    for (name, track) in TRACKS {
        let items = house.items(track, 0, if track == Track::Image { 4 } else { 2 });
        let scores = house.score(&network, track, &items.iter().collect::<Vec<_>>(), 0)?;
        expected.push((name, track, items, scores));
    }
    drop(network);
    for (dtype, limit) in [(Dtype::F32, F32), (Dtype::Bf16, BF16)] {
        let network = house.serve(device, dtype, true)?;
        for (name, track, items, expected) in &expected {
            let items: Vec<&Frames> = items.iter().collect();
            // The second time it is replayed.
            for time in ["first", "again"] {
                let gap = raw_gap(expected, &house.score(&network, *track, &items, 0)?);
                ok &= gap <= limit;
                let key = format!("{name} {} {time}", dtype.name());
                figures.insert(key, json!({"raw_difference": gap, "limit": limit}));
            }
        }
    }
    let raw: Vec<Vec<f64>> = expected.iter().map(|(_, _, _, scores)| raw(&scores[0])).collect();
    figures.insert("raw of the first items, f32 on the CPU".to_owned(), json!(raw));
    Ok(Some((ok, Value::Object(figures))))
}

fn neighbours(house: &House) -> Outcome {
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    for (dtype, limit) in [(Dtype::F32, F32), (Dtype::Bf16, BF16)] {
        let network = house.serve(house.args.device, dtype, true)?;
        for (name, track) in TRACKS {
            let count = house.args.max_batch_frames.min(if track == Track::Image { 24 } else { 6 });
            let items = house.items(track, 0, count.into());
            let items: Vec<&Frames> = items.iter().collect();
            let mut alone = Vec::new();
            for (index, item) in items.iter().enumerate() {
                alone.extend(house.score(&network, track, &[item], index)?);
            }
            let mut most = 0.0f64;
            for size in [2, 3, 5, 7, 11, 24].into_iter().filter(|&size| size <= items.len()) {
                let first = (items.len() - size) / 2;
                let together = house.score(&network, track, &items[first..first + size], first)?;
                let alone = &alone[first..first + size];
                // In f32 z is what must not change, in bf16 the raw score.
                most = most.max(if dtype == Dtype::F32 { z_gap(alone, &together) } else { raw_gap(alone, &together) });
            }
            let spread = spread(&alone);
            ok &= most <= limit && spread > 0.0;
            let key = format!("{name} {}", dtype.name());
            figures.insert(key, json!({"difference": most, "limit": limit, "spread_of_raw": spread}));
        }
    }
    Ok(Some((ok, Value::Object(figures))))
}

fn graphs(house: &House) -> Outcome {
    if house.args.device == Device::Cpu {
        return Ok(None);
    }
    let _mode = InferenceMode::enter()?;
    let (mut figures, mut ok) = (serde_json::Map::new(), true);
    let with = house.serve(house.args.device, Dtype::Bf16, true)?;
    let without = house.serve(house.args.device, Dtype::Bf16, false)?;
    for (name, track) in TRACKS {
        let (mut most, mut seconds) = (0.0f64, [0.0f64; 2]);
        let sizes: Vec<u32> = with.fixed_sizes().to_vec();
        for &size in &sizes {
            // What is recorded with the first is replayed with others.
            for first in [0, 1000] {
                let items = house.filling(track, first, size);
                let items: Vec<&Frames> = items.iter().collect();
                let mut score = |network: &Ensemble, time: usize| {
                    let begin = Instant::now();
                    let scores = house.score(network, track, &items, 0);
                    seconds[time] += if first > 0 { begin.elapsed().as_secs_f64() } else { 0.0 };
                    scores
                };
                let (a, b) = (score(&without, 0)?, score(&with, 1)?);
                most = most.max(raw_gap(&a, &b));
            }
        }
        let recorded = with.recorded_sizes(track);
        ok &= most <= BF16 && recorded == sizes.len() && without.recorded_sizes(track) == 0;
        let figure = json!({"difference": most, "limit": BF16, "is_equal": most == 0.0, "sizes": sizes,
                            "recorded": recorded, "seconds_without": seconds[0], "seconds_with": seconds[1]});
        figures.insert(name.to_owned(), figure);
    }
    Ok(Some((ok, Value::Object(figures))))
}

/// Batches that fitted in warming up meet a device of which something else has taken the memory.
fn memory(house: &House) -> Outcome {
    let Device::Cuda(index) = house.args.device else { return Ok(None) };
    let engine = start(house, false)?;
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
        let tickets: Vec<_> =
            places.into_iter().zip(&items).map(|(place, item)| place.submit(prompt.clone(), item.clone())).collect();
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
        was_short = again.1 < house.args.max_batch_frames;
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
fn engine(house: &House) -> Outcome {
    let engine = Arc::new(start(house, true)?);
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

fn start(house: &House, graphs: bool) -> anyhow::Result<Engine> {
    let config = EngineConfig {
        max_queue_frames: u64::from(house.args.max_batch_frames) * 8,
        max_batch_frames: house.args.max_batch_frames,
        max_queue_delay: Duration::from_millis(5),
        text_cache_bytes: 64 << 20,
        threads: usize::try_from(house.args.threads)?,
        warm_up_prompt: house.tokenizer.encode("warm up"),
    };
    let (bundle, serving) = (house.bundle.clone(), house.serving(graphs));
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

/// Tiles of random colours with a little noise, unlike those of every other `item`.
fn noise(item: u64, count: u32, sides: &[u32]) -> Frames {
    let mut distinct = sides.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let stack = |&side: &u32| {
        let (side_pixels, tile) = (side as usize, (side as usize / 7).max(1));
        let tiles: Vec<u32> = bits("tiles", item).take(64 * 3 * count as usize).collect();
        let mut noise = bits("noise", item);
        let mut rgb = Vec::with_capacity(count as usize * side_pixels * side_pixels * 3);
        for (time, y, x) in (0..count as usize)
            .flat_map(|time| (0..side_pixels).flat_map(move |y| (0..side_pixels).map(move |x| (time, y, x))))
        {
            let tile = (time * 64 + (y / tile).min(7) * 8 + (x / tile).min(7)) * 3;
            rgb.extend(
                tiles[tile..tile + 3].iter().map(|tile| ((tile & 0xe0) + (noise.next().unwrap_or(0) & 0x1f)) as u8),
            );
        }
        FrameStack { side, rgb }
    };
    Frames { count, stacks: distinct.iter().map(stack).collect() }
}

fn raw(score: &Score) -> Vec<f64> {
    score.experts.iter().map(|expert| expert.raw).collect()
}

/// The greatest difference of the experts' raw scores.
fn raw_gap(a: &[Score], b: &[Score]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.experts.iter().zip(&b.experts));
    pairs.map(|(a, b)| (a.raw - b.raw).abs()).fold(if a.len() == b.len() { 0.0 } else { f64::INFINITY }, f64::max)
}

/// The greatest difference of the experts' z.
fn z_gap(a: &[Score], b: &[Score]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.experts.iter().zip(&b.experts));
    pairs.map(|(a, b)| (a.z - b.z).abs()).fold(if a.len() == b.len() { 0.0 } else { f64::INFINITY }, f64::max)
}

/// Between the highest and the lowest raw score of the first expert: nothing is told apart where it is 0.
fn spread(scores: &[Score]) -> f64 {
    let raw = || scores.iter().filter_map(|score| score.experts.first()).map(|expert| expert.raw);
    raw().fold(f64::NEG_INFINITY, f64::max) - raw().fold(f64::INFINITY, f64::min)
}
