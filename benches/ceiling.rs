//! The raw ceiling: how fast the device scores when nothing but batched forward passes happens. No decoding, no queue,
//! no server; prompts are encoded beforehand and frames are in memory as u8, as the server hands them over.
//!
//! ```sh
//! cargo bench --bench ceiling -- --bundle DIR --dtype f32 --batch 8 --threads 2
//! cargo bench --bench ceiling -- --bundle DIR --parts          # each network alone
//! cargo bench --bench ceiling -- --bundle DIR --device cuda:0 --dtype bf16 --batch 1,8,64
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
use pcqa::model::{Bundle, Device, Dtype, Ensemble, LoadOptions, ModelError, Serving, TextTower, Track, Weights};
use pcqa::native::{self, DeviceMemory, InferenceMode};
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
    /// Items a batch; several with commas between them are measured one after the other.
    #[arg(long, value_name = "N", default_value = "8", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    batch: Vec<u32>,
    /// Where to compute: cpu or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = pcqa::train::device)]
    device: Device,
    /// On a GPU, ask for every operation by itself instead of replaying CUDA graphs.
    #[arg(long)]
    no_graphs: bool,
    /// On a GPU in bf16, use libtorch's kernels alone.
    #[arg(long)]
    no_kernels: bool,
    /// On a GPU, let cuDNN look for the fastest convolutions: seconds for every size, which the server does not take.
    #[arg(long)]
    autotune: bool,
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
    if args.autotune {
        tch::Cuda::cudnn_set_benchmark(true);
    }
    // As a device's thread has it.
    let _mode = InferenceMode::enter()?;
    let bundle = match &args.bundle {
        Some(directory) => Bundle::open(directory)?,
        None => Bundle::demo()?,
    };
    let manifest = bundle.manifest();
    let tokenizer = bundle.file(&manifest.text.tokenizer)?;
    let tokenizer = Tokenizer::from_json(tokenizer.bytes(), manifest.text.context_length)?;
    if args.convert {
        let (rows, memory) = (convert(&args, &bundle)?, Memory { peak_kib: peak_memory()?, gpu: None });
        show(&args, 1, &bundle, &rows, &memory);
        return Ok(());
    }
    let ensemble = if args.parts { None } else { Some(load(&args, &bundle)?) };
    for &batch in &args.batch {
        let prompts: Vec<TokenIds> = (0..batch).map(|item| tokenizer.encode(&format!("{PROMPT}, {item}"))).collect();
        let prompts: Vec<&TokenIds> = prompts.iter().collect();
        let rows = match &ensemble {
            Some(ensemble) => whole(&args, ensemble, &prompts)?,
            None => parts(&args, &bundle, &tokenizer, &prompts)?,
        };
        let memory = Memory { peak_kib: peak_memory()?, gpu: native::memory(args.device)? };
        show(&args, batch, &bundle, &rows, &memory);
    }
    if args.device != Device::Cpu {
        // The destructors of CUDA are no part of what was measured.
        native::end_at_once(0);
    }
    Ok(())
}

fn show(args: &Args, batch: u32, bundle: &Bundle, rows: &[Row], memory: &Memory) {
    if args.json {
        println!("{}", report(args, batch, bundle, rows, memory));
        return;
    }
    let (name, device, threads) = (&bundle.manifest().name, args.device, args.threads);
    let (dtype, unit) = (args.dtype.model().name(), args.track.unit());
    println!("bundle {name}, {unit}, {dtype}, batch {batch}, {device:?}, {threads} threads");
    for Row { name, median, best, repeats } in rows {
        let rate = f64::from(batch) / median.as_secs_f64();
        let (median, best) = (milliseconds(*median), milliseconds(*best));
        println!("{name:24} {rate:9.3} items/s  {median:9.1} ms a batch, the best {best:.1}, of {repeats}");
    }
    println!("peak memory {} MiB", memory.peak_kib / 1024);
    if let Some(gpu) = memory.gpu {
        println!("GPU memory {} MiB, of which tensors hold {} MiB", gpu.reserved >> 20, gpu.allocated >> 20);
    }
}

/// What this process holds.
struct Memory {
    peak_kib: u64,
    gpu: Option<DeviceMemory>,
}

/// One measured figure.
struct Row {
    name: String,
    median: Duration,
    best: Duration,
    repeats: usize,
}

/// The ensemble as a device worker has it.
fn load(args: &Args, bundle: &Bundle) -> anyhow::Result<Ensemble> {
    let options = LoadOptions { device: args.device, dtype: args.dtype.model(), tta: false };
    let items = args.batch.iter().copied().max().unwrap_or(1);
    let max_batch_frames = items * frames_of(args.track.model(), bundle.manifest().max_frames);
    let (graphs, kernels) = (!args.no_graphs, !args.no_kernels);
    let serving = Serving { max_batch_frames, graphs, kernels, memory_bytes: None };
    let ensemble = Ensemble::serve(bundle, options, serving)?;
    native::keep_freed_memory();
    Ok(ensemble)
}

fn frames_of(track: Track, max_frames: u32) -> u32 {
    if track == Track::Image { 1 } else { max_frames }
}

/// The ensemble as a device worker uses it: batch after batch, the stages of each, and, where they overlap, one alone.
fn whole(args: &Args, ensemble: &Ensemble, prompts: &[&TokenIds]) -> anyhow::Result<Vec<Row>> {
    let track = args.track.model();
    let count = frames_of(track, ensemble.manifest().max_frames);
    let items: Vec<Frames> = (0..).take(prompts.len()).map(|item| noise(item, count, &ensemble.sides(track))).collect();
    let items: Vec<&Frames> = items.iter().collect();
    let text = ensemble.encode_prompts(prompts)?;
    let mut stages: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut underway = None;
    let mut forward = || -> anyhow::Result<()> {
        // As many full batches follow each other: the next one is asked for before one is answered.
        let next = ensemble.ask(track, &items, &text)?;
        let Some(asked) = underway.replace(next) else { return Ok(()) };
        let (scores, timings) = ensemble.answer(&asked)?;
        scores.into_iter().collect::<Result<Vec<_>, _>>()?;
        stages.entry("vision").or_default().push(timings.vision);
        stages.entry("head").or_default().push(timings.head);
        Ok(())
    };
    let total = measure(args, &mut forward)?;
    let mut rows = vec![row("ensemble", total)];
    // The first ones of each stage were the warm-up.
    let counted = |times: Vec<Duration>| times[times.len() - rows[0].repeats..].to_vec();
    let stages: Vec<Row> =
        stages.into_iter().map(|(stage, times)| row(&format!("  {stage}"), counted(times))).collect();
    rows.extend(stages);
    if args.device != Device::Cpu {
        let alone = measure(args, || -> anyhow::Result<()> {
            let (scores, _) = ensemble.score(track, &items, &text)?;
            scores.into_iter().try_for_each(|score| score.map(drop)).map_err(Into::into)
        })?;
        rows.push(row("alone", alone));
    }
    let text = measure(args, || {
        let text = ensemble.encode_prompts(prompts)?;
        native::wait_for(args.device)?;
        anyhow::Ok(text)
    })?;
    rows.push(row("text, where not cached", text));
    Ok(rows)
}

/// Every network alone; one of them is in memory at a time.
fn parts(args: &Args, bundle: &Bundle, tokenizer: &Tokenizer, prompts: &[&TokenIds]) -> anyhow::Result<Vec<Row>> {
    let (track, kind, device) = (args.track.model(), args.dtype.kind(), args.device);
    // As a device's thread is, for which serving sees to it.
    native::own_stream(device)?;
    native::exact_arithmetic()?;
    let with_kernels = !args.no_kernels && kind == Kind::BFloat16;
    if with_kernels {
        native::kernels::compile(device)?;
    }
    let _kernels = native::kernels::scope(device, with_kernels);
    let frames = prompts.len() as i64 * i64::from(frames_of(track, bundle.manifest().max_frames));
    let longest = tokenizer.encode(&PROMPT.repeat(20));
    let long = vec![&longest; prompts.len()];
    let mut rows = Vec::new();
    for spec in bundle.manifest().experts.iter().filter(|spec| spec.track == track) {
        let file = bundle.file(&spec.backbone.weights)?;
        let backbone = VisionBackbone::load(spec, Weights::of(&file, device, kind)?)?;
        let side = i64::from(spec.input_size);
        let input = Tensor::f_randn([frames, side, side, 3], (Kind::Float, device))?;
        let input = input.f_to_kind(kind)?.f_permute([0, 3, 1, 2])?;
        rows.push(row(&spec.name, measure(args, || done(device, backbone.forward(&input)))?));
    }
    for spec in &bundle.manifest().text.towers {
        let file = bundle.file(&spec.weights)?;
        let tower = TextTower::load(spec, Weights::of(&file, device, kind)?)?;
        let name = format!("text_{}", spec.name);
        rows.push(row(&name, measure(args, || done(device, tower.forward(prompts)))?));
        rows.push(row(
            &format!("{name}, {} tokens", longest.ids.len()),
            measure(args, || done(device, tower.forward(&long)))?,
        ));
    }
    Ok(rows)
}

/// `made` when the device has made it.
fn done(device: Device, made: Result<Tensor, ModelError>) -> Result<Tensor, ModelError> {
    let made = made?;
    native::wait_for(device)?;
    Ok(made)
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
            tensors.push(Tensor::f_from_data_size(view.data(), &shape, stored)?.f_to_kind(args.dtype.model().kind())?);
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
    let clock =
        if args.threads == 1 && args.device == Device::Cpu { ClockId::ProcessCPUTime } else { ClockId::Monotonic };
    let now = || Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    run().map_err(Into::into)?;
    if args.device != Device::Cpu {
        // The first one was recorded, the second is the first that is replayed.
        run().map_err(Into::into)?;
    }
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

fn report(args: &Args, batch: u32, bundle: &Bundle, rows: &[Row], memory: &Memory) -> serde_json::Value {
    let row = |row: &Row| {
        let figures = json!({
            "items_per_second": f64::from(batch) / row.median.as_secs_f64(),
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
        "batch": batch,
        "device": format!("{:?}", args.device).to_lowercase(),
        "threads": args.threads,
        "peak_memory_kib": memory.peak_kib,
        "gpu_reserved_bytes": memory.gpu.map(|gpu| gpu.reserved),
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
