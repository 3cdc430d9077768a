//! Whether the loader keeps training fed: the same training steps on frames that are in memory and through the loader,
//! turn by turn, with every file decoded anew (a first epoch) and with frames in the loader's cache (all later ones).
//!
//! ```sh
//! cargo bench --bench loader                          # EfficientViT-L2 at 448 pixels, the fastest full-size expert
//! cargo bench --bench loader -- --demo                # as `make train-demo` does: pictures of 56 pixels, one thread
//! cargo bench --bench loader -- --demo --source 512   # the same small expert, whose files are nine times as wide
//! ```
//!
//! Prints a line each with the word `ratio`: the loader's step rate as a share of that with frames in memory. The files
//! are pictures of 1024 x 1024 where nothing else is said, half of them PNG, half JPEG; both are resized and augmented.
//! Frames in memory are not: what they wait for is the step alone.
//!
//! On cores that the network wants for itself, decoding takes from the steps what it costs: little beside a full-size
//! step, but where a picture takes longer to decode than to learn from, no order of the work makes a first epoch fast.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{Rgb, RgbImage};
use pcqa::media::Frames;
use pcqa::model::{Activation, BackboneKind, Device, Expert, ExpertSpec, Mixer, Parameters, Track};
use pcqa::train::optimiser::{AdamW, Options, clipping};
use pcqa::train::{Architecture, Augmentation, Item, Loader, LoaderOptions};
use tch::{Kind, Reduction, Tensor};

/// Widths of the head: of prompt embeddings, of what the adapters give, of the hidden layer.
const FULL: [i64; 3] = [2048, 1024, 1024];
const DEMO: [i64; 3] = [44, 96, 256];

/// Measures how much of a training step's rate the loader leaves.
#[derive(Parser)]
struct Args {
    /// An expert of the demo's size, and the settings that it is trained with.
    #[arg(long)]
    demo: bool,
    /// Side of the files' pictures. Default: 1024, with --demo 56.
    #[arg(long, value_name = "PIXELS")]
    source: Option<u32>,
    /// Images a step. Default: 4, with --demo 32.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Steps of one turn; every turn is taken by all ways one after the other.
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Turns; the best of each way counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    turns: usize,
    /// CPU threads of one operation of the network, and threads that load. Default: 2, with --demo 1.
    #[arg(long, value_name = "N")]
    threads: Option<i32>,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (side, source, batch, threads) = if args.demo { (56, 56, 32, 1) } else { (448, 1024, 4, 2) };
    let (source, batch) = (args.source.unwrap_or(source), args.batch.unwrap_or(batch));
    let threads = args.threads.unwrap_or(threads);
    tch::set_num_threads(threads);
    pcqa::native::keep_freed_memory();
    let folder = tempfile::tempdir()?;
    let items = Arc::new(write_pictures(folder.path(), batch * args.steps, source)?);
    let batches: Vec<Vec<usize>> = (0..items.len()).collect::<Vec<_>>().chunks(batch).map(<[usize]>::to_vec).collect();
    let options = |cache_bytes| LoaderOptions {
        sides: vec![side],
        augment: Some(augmentation(args.demo)),
        threads: threads.max(1) as usize,
        cache_bytes,
        ..LoaderOptions::default()
    };
    let uncached = Loader::new(items.clone(), options(0))?;
    let cached = Loader::new(items.clone(), options(usize::MAX))?;
    let in_memory: Vec<Vec<Frames>> = cached.run(batches.clone(), 0).map(|loaded| loaded.frames).collect();

    let mut learner = Learner::new(&args, side)?;
    learner.step(&in_memory[0])?;
    let mut best = [Duration::MAX; 3];
    for turn in 0..args.turns as u64 {
        let mut time = |way: usize, steps: &mut dyn Iterator<Item = Vec<Frames>>| -> anyhow::Result<()> {
            let begin = Instant::now();
            for frames in steps {
                learner.step(&frames)?;
            }
            best[way] = best[way].min(begin.elapsed());
            Ok(())
        };
        time(0, &mut in_memory.iter().cloned())?;
        time(1, &mut uncached.run(batches.clone(), turn).map(|loaded| loaded.frames))?;
        time(2, &mut cached.run(batches.clone(), turn).map(|loaded| loaded.frames))?;
    }
    let ms = best.map(|time| time.as_secs_f64() * 1e3 / args.steps as f64);
    println!("in memory   {:8.1} ms a step of {}", ms[0], batch);
    println!("decoding    {:8.1} ms, ratio {:.3}", ms[1], ms[0] / ms[1]);
    println!("from cache  {:8.1} ms, ratio {:.3}", ms[2], ms[0] / ms[2]);
    Ok(())
}

/// The demo's is that of deploy/demo/image.toml, which does not resize.
fn augmentation(demo: bool) -> Augmentation {
    match demo {
        true => Augmentation { crop_area: 1.0, crop_aspect: 1.0, ..Augmentation::default() },
        false => Augmentation::default(),
    }
}

/// An expert that learns from random targets.
struct Learner {
    spec: ExpertSpec,
    backbone: Parameters,
    head: Parameters,
    optimiser: AdamW,
    /// Width of prompt embeddings.
    text: i64,
}

impl Learner {
    fn new(args: &Args, side: u32) -> anyhow::Result<Self> {
        let kind = BackboneKind::Efficientvit;
        let architecture = if args.demo { Architecture::demo(kind) } else { Architecture::full(kind) };
        let spec = ExpertSpec {
            name: kind.name().to_owned(),
            track: Track::Image,
            backbone: architecture.backbone("backbone"),
            head: "head".to_owned(),
            input_size: side,
            mixer: Mixer::Dot,
            temporal_activation: Activation::Relu,
            adapter_activation: Activation::None,
            head_activation: Activation::Gelu,
        };
        let backbone = architecture.untrained(side, 1)?;
        let widths = if args.demo { DEMO } else { FULL };
        let head = head(architecture.channels() as i64, widths)?;
        let parameters = [("backbone", &backbone), ("head", &head)].into_iter().flat_map(|(part, network)| {
            network.learnable().map(move |(key, x)| (format!("{part}.{key}"), x.shallow_clone()))
        });
        let optimiser = AdamW::new(parameters, Options::default())?;
        Ok(Self { spec, backbone, head, optimiser, text: widths[0] })
    }

    fn step(&mut self, frames: &[Frames]) -> anyhow::Result<()> {
        let side = i64::from(self.spec.input_size);
        let pictures: Vec<Tensor> = frames
            .iter()
            .map(|frames| Tensor::f_from_data_size(&frames.stacks[0].rgb, &[1, side, side, 3], Kind::Uint8))
            .collect::<Result<_, _>>()?;
        let pictures = Tensor::f_cat(&pictures, 0)?.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)? / 255.0;
        let count = frames.len() as i64;
        let text = Tensor::f_ones([count, self.text], (Kind::Float, Device::Cpu))?;
        let targets = Tensor::f_zeros([count], (Kind::Float, Device::Cpu))?;
        let (backbone, head) = (self.backbone.weights(Kind::Float), self.head.weights(Kind::Float));
        let expert = Expert::load(&self.spec, backbone, head, self.text)?;
        let raw = expert.judge(&expert.features(&pictures)?, &vec![1; frames.len()], &text)?.raw;
        self.optimiser.backward(&raw.f_mse_loss(&targets, Reduction::Mean)?)?;
        let factor = clipping(self.optimiser.gradient_norm()?, 1.0);
        self.optimiser.step(2e-5, factor)
    }
}

fn head(channels: i64, [text, latent, hidden]: [i64; 3]) -> anyhow::Result<Parameters> {
    let layers = [
        ("prompt_adapter", latent, text),
        ("vision_adapter", latent, channels),
        ("mlp.fc1", hidden, latent),
        ("mlp.fc2", 1, hidden),
    ];
    let mut tensors = Vec::new();
    for (name, outputs, inputs) in layers {
        let float = (Kind::Float, Device::Cpu);
        tensors.push((format!("{name}.weight"), Tensor::f_randn([outputs, inputs], float)? * 0.02));
        tensors.push((format!("{name}.bias"), Tensor::f_zeros([outputs], float)?));
    }
    Ok(Parameters::new("head", tensors, Device::Cpu)?)
}

fn write_pictures(folder: &Path, count: usize, side: u32) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for number in 0..count {
        let mut bytes = Vec::new();
        let picture = picture(side, number as f32);
        let name = if number % 2 == 0 {
            picture.write_with_encoder(PngEncoder::new(&mut bytes))?;
            format!("{number}.png")
        } else {
            picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90))?;
            format!("{number}.jpg")
        };
        let path = folder.join(&name);
        fs::write(&path, bytes)?;
        items.push(Item {
            name,
            path,
            prompt: "a wave".to_owned(),
            mos: None,
            generator: None,
            group: None,
            track: Track::Image,
        });
    }
    Ok(items)
}

/// Waves with a little noise: neither flat nor noise alone, as photographs are.
fn picture(side: u32, phase: f32) -> RgbImage {
    let mut state = 1u32;
    RgbImage::from_fn(side, side, |x, y| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (x, y) = (x as f32 / 37.0 + phase, y as f32 / 23.0);
        let wave = 110.0 + 60.0 * x.sin() * y.cos() + 30.0 * (x * 5.0 + y * 7.0).sin();
        let noise = (state % 16) as f32;
        Rgb([wave + noise, wave * 0.7 + noise + 20.0, 240.0 - wave + noise].map(|level| level as u8))
    })
}
