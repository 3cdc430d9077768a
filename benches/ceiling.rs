//! The raw ceiling: how fast the device scores when nothing but batched forward passes happens. No decoding, no queue,
//! no server; prompts are encoded beforehand and frames are in memory as u8, as the server hands them over.
//!
//! ```sh
//! cargo bench --bench ceiling -- --bundle DIR --dtype f32 --batch 8 --threads 2
//! cargo bench --bench ceiling -- --bundle DIR --parts          # each network alone
//! cargo bench --bench ceiling -- --bundle DIR --convert        # what a start has to do at least
//! ```
//!
//! `benches/pytorch_ceiling.py` measures the same networks in PyTorch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use pcqa::media::{FrameStack, Frames};
use pcqa::model::backbone::VisionBackbone;
use pcqa::model::{Bundle, Device, Dtype, Ensemble, LoadOptions, TextTower, Track, Weights};
use pcqa::text::{TokenIds, Tokenizer};
use pcqa::train::hash_init::bits;
use rustix::time::{ClockId, clock_gettime};
use safetensors::SafeTensors;
use serde_json::json;
use tch::{Kind, Tensor};

/// Fewest batches that a median is taken of.
const REPEATS: usize = 3;
const PROMPT: &str = "an astronaut riding a horse on mars, cinematic lighting";

/// Measures batched forward passes in process.
#[derive(Parser)]
struct Args {
    /// Bundle directory; the compiled-in demo where absent.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Number format.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Format,
    /// What is scored: images, or clips of the most frames that the bundle takes.
    #[arg(long, value_enum, default_value = "image")]
    track: Media,
    /// Items a batch.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// CPU threads of one operation.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    threads: i32,
    /// Least time to measure each figure for; at least three batches are measured.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Each backbone of the track and each text tower alone, instead of the whole ensemble.
    #[arg(long)]
    parts: bool,
    /// Instead of forward passes, once: read every tensor of the bundle and convert it to the number format.
    #[arg(long, conflicts_with = "parts")]
    convert: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    F32,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Media {
    Image,
    Video,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tch::set_num_threads(args.threads);
    let bundle = match &args.bundle {
        Some(directory) => Bundle::open(directory)?,
        None => Bundle::demo()?,
    };
    let manifest = bundle.manifest();
    let tokenizer = bundle.file(&manifest.text.tokenizer)?;
    let tokenizer = Tokenizer::from_json(tokenizer.bytes(), manifest.text.context_length)?;
    let prompts: Vec<TokenIds> = (0..args.batch).map(|item| tokenizer.encode(&format!("{PROMPT}, {item}"))).collect();
    let prompts: Vec<&TokenIds> = prompts.iter().collect();
    let rows = if args.convert {
        convert(&args, &bundle)?
    } else if args.parts {
        parts(&args, &bundle, &tokenizer, &prompts)?
    } else {
        whole(&args, &bundle, &prompts)?
    };
    let memory = peak_memory()?;
    if args.json {
        println!("{}", report(&args, &bundle, &rows, memory));
        return Ok(());
    }
    let (dtype, unit) = (args.dtype.model().name(), args.track.unit());
    println!("bundle {}, {unit}, {dtype}, batch {}, {} threads", manifest.name, args.batch, args.threads);
    for Row { name, median, best, repeats } in &rows {
        let rate = f64::from(args.batch) / median.as_secs_f64();
        let (median, best) = (milliseconds(*median), milliseconds(*best));
        println!("{name:24} {rate:9.3} items/s  {median:9.1} ms a batch, the best {best:.1}, of {repeats}");
    }
    println!("peak memory {} MiB", memory / 1024);
    Ok(())
}

/// One measured figure.
struct Row {
    name: String,
    median: Duration,
    best: Duration,
    repeats: usize,
}

/// The ensemble as a device worker uses it: all of it, then its stages.
fn whole(args: &Args, bundle: &Bundle, prompts: &[&TokenIds]) -> anyhow::Result<Vec<Row>> {
    let options = LoadOptions { device: Device::Cpu, dtype: args.dtype.model(), tta: false };
    let ensemble = Ensemble::load(bundle, options)?;
    pcqa::native::keep_freed_memory();
    let track = args.track.model();
    let count = if track == Track::Image { 1 } else { bundle.manifest().max_frames };
    let items: Vec<Frames> =
        (0..args.batch).map(|item| noise(u64::from(item), count, &ensemble.sides(track))).collect();
    let items: Vec<&Frames> = items.iter().collect();
    let text = ensemble.encode_prompts(prompts)?;
    let mut stages: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut forward = || -> anyhow::Result<()> {
        let (scores, timings) = ensemble.score(track, &items, &text)?;
        scores.into_iter().collect::<Result<Vec<_>, _>>()?;
        stages.entry("vision").or_default().push(timings.vision);
        stages.entry("head").or_default().push(timings.head);
        Ok(())
    };
    let total = measure(args, &mut forward)?;
    let mut rows = vec![row("ensemble", total)];
    // The first one of each stage was the warm-up.
    rows.extend(stages.into_iter().map(|(stage, times)| row(&format!("  {stage}"), times[1..].to_vec())));
    let text = measure(args, || ensemble.encode_prompts(prompts))?;
    rows.push(row("text, where not cached", text));
    Ok(rows)
}

/// Every network alone; one of them is in memory at a time.
fn parts(args: &Args, bundle: &Bundle, tokenizer: &Tokenizer, prompts: &[&TokenIds]) -> anyhow::Result<Vec<Row>> {
    let _no_grad = tch::no_grad_guard();
    let (track, kind) = (args.track.model(), args.dtype.kind());
    let frames = if track == Track::Image { args.batch } else { args.batch * bundle.manifest().max_frames };
    let longest = tokenizer.encode(&PROMPT.repeat(20));
    let long = vec![&longest; prompts.len()];
    let mut rows = Vec::new();
    for spec in bundle.manifest().experts.iter().filter(|spec| spec.track == track) {
        let file = bundle.file(&spec.backbone.weights)?;
        let backbone = VisionBackbone::load(spec, Weights::of(&file, Device::Cpu, kind)?)?;
        let side = i64::from(spec.input_size);
        let input = Tensor::f_randn([i64::from(frames), side, side, 3], (Kind::Float, Device::Cpu))?;
        let input = input.f_to_kind(kind)?.f_permute([0, 3, 1, 2])?;
        rows.push(row(&spec.name, measure(args, || backbone.forward(&input))?));
    }
    for spec in &bundle.manifest().text.towers {
        let file = bundle.file(&spec.weights)?;
        let tower = TextTower::load(spec, Weights::of(&file, Device::Cpu, kind)?)?;
        let name = format!("text_{}", spec.name);
        rows.push(row(&name, measure(args, || tower.forward(prompts))?));
        rows.push(row(&format!("{name}, {} tokens", longest.ids.len()), measure(args, || tower.forward(&long))?));
    }
    Ok(rows)
}

/// Every tensor of every network, in the format that it computes in. The files are in the page cache, since opening the
/// bundle has read them.
fn convert(args: &Args, bundle: &Bundle) -> anyhow::Result<Vec<Row>> {
    let manifest = bundle.manifest();
    let experts = manifest.experts.iter().flat_map(|expert| [&expert.backbone.weights, &expert.head]);
    let names: Vec<&String> = manifest.text.towers.iter().map(|tower| &tower.weights).chain(experts).collect();
    let start = Instant::now();
    let mut tensors = Vec::new();
    for name in names {
        let file = bundle.file(name)?;
        for (key, view) in SafeTensors::deserialize(file.bytes())?.iter() {
            let stored = match view.dtype() {
                safetensors::Dtype::F32 => Kind::Float,
                safetensors::Dtype::F16 => Kind::Half,
                safetensors::Dtype::BF16 => Kind::BFloat16,
                safetensors::Dtype::I64 => continue,
                other => anyhow::bail!("{name}: {key} is {other:?}"),
            };
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            tensors.push(Tensor::f_from_data_size(view.data(), &shape, stored)?.f_to_kind(args.dtype.kind())?);
        }
    }
    Ok(vec![row("read and convert", vec![start.elapsed()])])
}

/// Times of `run` after one that does not count. With one thread it is the processor's time, which other programs
/// disturb least.
fn measure<T, E: Into<anyhow::Error>>(
    args: &Args,
    mut run: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<Vec<Duration>> {
    let clock = if args.threads == 1 { ClockId::ProcessCPUTime } else { ClockId::Monotonic };
    let now = || Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    run().map_err(Into::into)?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < REPEATS || begin.elapsed().as_secs_f64() < args.seconds {
        let start = now();
        run().map_err(Into::into)?;
        times.push(now() - start);
    }
    Ok(times)
}

fn row(name: &str, mut times: Vec<Duration>) -> Row {
    times.sort_unstable();
    Row { name: name.to_owned(), median: times[times.len() / 2], best: times[0], repeats: times.len() }
}

/// Frames that differ from those of every other `item`.
fn noise(item: u64, count: u32, sides: &[u32]) -> Frames {
    let stack = |&side: &u32| {
        let bytes = count as usize * side as usize * side as usize * 3;
        FrameStack { side, rgb: bits("ceiling", item).take(bytes).map(|bits| bits as u8).collect() }
    };
    Frames { count, stacks: sides.iter().map(stack).collect() }
}

fn report(args: &Args, bundle: &Bundle, rows: &[Row], memory: u64) -> serde_json::Value {
    let row = |row: &Row| {
        let figures = json!({
            "items_per_second": f64::from(args.batch) / row.median.as_secs_f64(),
            "median_ms": milliseconds(row.median),
            "best_ms": milliseconds(row.best),
            "repeats": row.repeats,
        });
        (row.name.trim().to_owned(), figures)
    };
    json!({
        "bundle": bundle.manifest().name,
        "track": args.track.unit(),
        "dtype": args.dtype.model().name(),
        "batch": args.batch,
        "threads": args.threads,
        "peak_memory_kib": memory,
        "figures": rows.iter().map(row).collect::<serde_json::Map<_, _>>(),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The most memory that this process has held, in KiB.
fn peak_memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Format {
    fn model(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

impl Media {
    fn model(self) -> Track {
        match self {
            Self::Image => Track::Image,
            Self::Video => Track::Video,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Video => "clips",
        }
    }
}
