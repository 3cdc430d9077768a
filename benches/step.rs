//! One training step of a full-size expert: forward, backward, clipping and AdamW, on frames that are in memory.
//!
//! ```sh
//! cargo bench --bench step -- --backbone convnext --batch 4 --side 448 --threads 2
//! cargo bench --bench step -- --backbone convnext --batch 32 --device cuda:0 --dtype bf16
//! ```
//!
//! `benches/pytorch_step.py` measures the same step in PyTorch with timm.

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use pcqa::model::{Activation, BackboneKind, Device, Expert, ExpertSpec, Mixer, Parameters, Track};
use pcqa::native;
use pcqa::train::Architecture;
use pcqa::train::optimiser::{AdamW, Options, clipping};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tch::{Kind, Reduction, Tensor};

/// Width of the paper's two text towers together.
const TEXT: usize = 2048;
const LATENT: usize = 1024;
const LEARNING_RATE: f64 = 2e-5;
const MAX_NORM: f64 = 1.0;

/// Measures training steps in process.
#[derive(Parser)]
struct Args {
    /// Whose expert learns; may be given more than once. All five where absent.
    #[arg(long, value_enum)]
    backbone: Vec<Kinds>,
    /// Images a step.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i64).range(1..))]
    batch: i64,
    /// Side of the images.
    #[arg(long, value_name = "PIXELS", default_value_t = 448, value_parser = clap::value_parser!(u32).range(32..))]
    side: u32,
    /// Format that the backbone computes in.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Format,
    /// Where to compute: cpu or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = pcqa::train::device)]
    device: Device,
    /// CPU threads of one operation.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    threads: i32,
    /// Steps that are measured, after those that are not.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kinds {
    Convnext,
    Efficientvit,
    Eva02,
    Resnet,
    Vit,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    F32,
    Bf16,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.device != Device::Cpu {
        // No matrix product is left in f32 but the head's.
        native::exact_arithmetic()?;
        // As `pcqa-train fit`.
        tch::Cuda::cudnn_set_benchmark(true);
    }
    tch::set_num_threads(args.threads);
    native::keep_freed_memory();
    let wanted = if args.backbone.is_empty() { Kinds::value_variants() } else { &args.backbone };
    let mut figures = serde_json::Map::new();
    for kind in wanted.iter().map(|kind| kind.model()) {
        let times = measure(&args, kind)?;
        let figure = json!({
            "median_ms": times.median(|step| step.total()),
            "best_ms": times.best(),
            "forward_ms": times.median(|step| step.forward),
            "backward_ms": times.median(|step| step.backward),
            "optimiser_ms": times.median(|step| step.optimiser),
        });
        if !args.json {
            println!("{:14} {figure}", kind.name());
        }
        figures.insert(kind.name().to_owned(), figure);
    }
    if args.json {
        println!("{}", json!({"batch": args.batch, "side": args.side, "threads": args.threads, "figures": figures}));
    }
    if args.device != Device::Cpu {
        // The destructors of CUDA are no part of what was measured.
        native::end_at_once(0);
    }
    Ok(())
}

/// Where a step's time went.
#[derive(Clone, Copy, Default)]
struct Step {
    forward: Duration,
    backward: Duration,
    optimiser: Duration,
}

impl Step {
    fn total(&self) -> Duration {
        self.forward + self.backward + self.optimiser
    }
}

struct Times(Vec<Step>);

impl Times {
    fn median(&self, of: impl Fn(&Step) -> Duration) -> f64 {
        let mut times: Vec<Duration> = self.0.iter().map(of).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    }

    fn best(&self) -> f64 {
        self.0.iter().map(Step::total).min().unwrap_or_default().as_secs_f64() * 1e3
    }
}

fn measure(args: &Args, kind: BackboneKind) -> anyhow::Result<Times> {
    let architecture = Architecture::full(kind);
    let spec = ExpertSpec {
        name: kind.name().to_owned(),
        track: Track::Image,
        backbone: architecture.backbone("backbone"),
        head: "head".to_owned(),
        input_size: args.side,
        mixer: if kind == BackboneKind::Convnext { Mixer::Concat } else { Mixer::Dot },
        temporal_activation: Activation::Relu,
        adapter_activation: Activation::None,
        head_activation: Activation::Gelu,
    };
    let backbone = on(args.device, &architecture.untrained(args.side, 1)?)?;
    let head = on(args.device, &head(architecture.channels(), spec.mixer)?)?;
    let parameters = [("backbone", &backbone), ("head", &head)];
    let parameters = parameters.iter().flat_map(|(part, network)| {
        network.learnable().map(move |(key, x)| (format!("{part}.{key}"), x.shallow_clone()))
    });
    let mut optimiser = AdamW::new(parameters, Options::default())?;

    let (side, float) = (i64::from(args.side), (Kind::Float, args.device));
    let format = args.dtype.kind();
    let frames = Tensor::f_randn([args.batch, side, side, 3], float)?.f_permute([0, 3, 1, 2])?.f_to_kind(format)?;
    let text = Tensor::f_randn([args.batch, TEXT as i64], float)?;
    let targets = Tensor::f_randn([args.batch], float)?;
    let counts = vec![1; args.batch as usize];
    let mut steps = Vec::new();
    // A GPU's first steps look for the fastest convolutions and take their memory.
    let warm_up = if args.device == Device::Cpu { 1 } else { 3 };
    for _ in 0..warm_up + args.steps {
        let now = clock(args)?;
        let expert = Expert::load(&spec, backbone.weights(format), head.weights(Kind::Float), TEXT as i64)?;
        let raw = expert.judge(&expert.features(&frames)?, &counts, &text)?.raw;
        let loss = raw.f_mse_loss(&targets, Reduction::Mean)?;
        let forward = clock(args)? - now;
        let now = clock(args)?;
        optimiser.backward(&loss)?;
        let backward = clock(args)? - now;
        let now = clock(args)?;
        let factor = clipping(optimiser.gradient_norm()?, MAX_NORM);
        optimiser.step(LEARNING_RATE, factor)?;
        steps.push(Step { forward, backward, optimiser: clock(args)? - now });
    }
    Ok(Times(steps.split_off(warm_up as usize)))
}

fn on(device: Device, parameters: &Parameters) -> anyhow::Result<Parameters> {
    let tensors = parameters.learnable().chain(parameters.buffers());
    let tensors = tensors.map(|(key, tensor)| (key.to_owned(), tensor.shallow_clone()));
    Ok(Parameters::new("on device", tensors, device)?)
}

/// Random: the head's share of the time does not depend on its values.
fn head(channels: usize, mixer: Mixer) -> anyhow::Result<Parameters> {
    let merged = if mixer == Mixer::Concat { 2 * LATENT } else { LATENT };
    let layers = [
        ("prompt_adapter", LATENT, TEXT),
        ("vision_adapter", LATENT, channels),
        ("mlp.fc1", LATENT, merged),
        ("mlp.fc2", 1, LATENT),
    ];
    let mut tensors = Vec::new();
    for (name, outputs, inputs) in layers {
        let (outputs, inputs, float) = (outputs as i64, inputs as i64, (Kind::Float, Device::Cpu));
        tensors.push((format!("{name}.weight"), Tensor::f_randn([outputs, inputs], float)? * 0.02));
        tensors.push((format!("{name}.bias"), Tensor::f_zeros([outputs], float)?));
    }
    Ok(Parameters::new("head", tensors, Device::Cpu)?)
}

/// What the device has done by now. With one thread the processor's time, which other programs disturb least.
fn clock(args: &Args) -> anyhow::Result<Duration> {
    native::wait_for(args.device)?;
    let clock =
        if args.threads == 1 && args.device == Device::Cpu { ClockId::ProcessCPUTime } else { ClockId::Monotonic };
    Duration::try_from(clock_gettime(clock)).context("the clock is before its beginning")
}

impl Kinds {
    fn model(self) -> BackboneKind {
        match self {
            Self::Convnext => BackboneKind::Convnext,
            Self::Efficientvit => BackboneKind::Efficientvit,
            Self::Eva02 => BackboneKind::Eva02,
            Self::Resnet => BackboneKind::Resnet,
            Self::Vit => BackboneKind::Vit,
        }
    }
}

impl Format {
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}
