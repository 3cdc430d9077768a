//! What a device promises, checked in process with a whole bundle; `deploy/gpu/check.sh` runs it on a GPU.
//!
//! ```sh
//! cargo bench --bench device -- parity --bundle DIR --device cuda:0
//! ```
//!
//! Each check prints one JSON object with its figures and whether they are within their limits. Exit codes: 0 it holds,
//! 1 it does not, 3 there is nothing to check on this device.

mod engine;
mod scores;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use pcqa::media::{FrameStack, Frames};
use pcqa::model::{Asked, Bundle, Device, Dtype, Ensemble, EnsembleScore, LoadOptions, Serving, Track};
use pcqa::native;
use pcqa::text::{TokenIds, Tokenizer};
use pcqa::train::hash_init::bits;
use serde_json::{Value, json};

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
    /// Our own kernels score as libtorch's.
    Kernels,
    /// Batches that are asked for before others are answered score as one by one.
    Ahead,
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
        Check::Parity => scores::parity(&house),
        Check::Neighbours => scores::neighbours(&house),
        Check::Graphs => scores::graphs(&house),
        Check::Kernels => scores::kernels(&house),
        Check::Ahead => scores::ahead(&house),
        Check::Memory => engine::memory(&house),
        Check::Engine => engine::engine(&house),
    }
}

/// What a GPU is served with.
#[derive(Clone, Copy)]
struct Fast {
    graphs: bool,
    kernels: bool,
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

    /// As it is served.
    const FAST: Fast = Fast { graphs: true, kernels: true };
    /// With libtorch's operations, one by one.
    const PLAIN: Fast = Fast { graphs: false, kernels: false };

    fn serve(&self, device: Device, dtype: Dtype, fast: Fast) -> anyhow::Result<Ensemble> {
        let options = LoadOptions { device, dtype, tta: false };
        Ensemble::serve(&self.bundle, options, self.serving(fast)).context("loading")
    }

    fn serving(&self, Fast { graphs, kernels }: Fast) -> Serving {
        Serving { max_batch_frames: self.args.max_batch_frames, graphs, kernels, memory_bytes: None }
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
    fn score(
        &self,
        network: &Ensemble,
        track: Track,
        items: &[&Frames],
        first: usize,
    ) -> anyhow::Result<Vec<EnsembleScore>> {
        let (scores, _) = network.answer(&self.ask(network, track, items, first)?)?;
        Ok(scores.into_iter().collect::<Result<_, _>>()?)
    }

    /// Asks for them.
    fn ask(&self, network: &Ensemble, track: Track, items: &[&Frames], first: usize) -> anyhow::Result<Asked> {
        let prompts = self.prompts(first + items.len());
        let text = network.encode_prompts(&prompts[first..].iter().collect::<Vec<_>>())?;
        Ok(network.ask(track, items, &text)?)
    }
}

fn info(args: &Args) -> Outcome {
    let Device::Cuda(index) = args.device else { return Ok(Some((true, json!({"device": "cpu"})))) };
    let memory = native::memory(args.device)?.context("no memory")?;
    let name = native::device_name(index).unwrap_or_else(|error| format!("unknown: {error}"));
    Ok(Some((true, json!({"device": name, "total_bytes": memory.total, "free_bytes": memory.free}))))
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
