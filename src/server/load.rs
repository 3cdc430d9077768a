//! From configuration to a model that scores: bundle, tokenizer, decoder processes, engine. At start, and whenever the
//! bundle is loaded again.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};

use super::config::{Config, DeviceChoice, DeviceName, DtypeChoice};
use super::decode::Decoding;
use super::scoring::Scoring;
use crate::engine::{Engine, EngineConfig};
use crate::model::{Bundle, BundleCheck, Device, Dtype, Ensemble, LoadOptions, Manifest, ModelError, Serving, Track};
use crate::native;
use crate::text::Tokenizer;

/// A bundle that can be read, and where it came from a directory, whether its files are what it says.
pub(super) struct Opened {
    bundle: Bundle,
    check: Option<BundleCheck>,
    /// For errors.
    source: String,
}

impl Opened {
    /// As [`Bundle::digest`].
    pub fn digest(&self) -> &str {
        self.bundle.digest()
    }

    /// Reads and checks its files. Blocks.
    pub fn check(self) -> Result<()> {
        run(self.check).context(self.source)
    }
}

/// Opens the bundle; most of its bytes are not read yet. Blocks.
pub(super) fn open(config: &Config) -> Result<Opened> {
    match &config.model.bundle {
        Some(directory) => {
            let source = format!("bundle {}", directory.display());
            let (bundle, check) = Bundle::open_unchecked(directory).with_context(|| source.clone())?;
            Ok(Opened { bundle, check: Some(check), source })
        }
        None => {
            let source = "the demo bundle".to_owned();
            Ok(Opened { bundle: Bundle::demo().with_context(|| source.clone())?, check: None, source })
        }
    }
}

/// Checks its files, beside that loads everything and warms it up. Blocks.
pub(super) fn load(config: &Config, opened: Opened) -> Result<Scoring> {
    let Opened { bundle, check, source } = opened;
    thread::scope(|scope| {
        let checking = scope.spawn(|| run(check));
        let loaded = load_unchecked(config, bundle, &source);
        let checked = checking.join().unwrap_or_else(|panic| resume_unwind(panic));
        // Files that are not what they should be are the reason for whatever else went wrong.
        checked.context(source)?;
        loaded
    })
}

/// On half of the processors: the engine loads on the others.
fn run(check: Option<BundleCheck>) -> Result<(), ModelError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    check.map_or(Ok(()), |check| check.run((cores / 2).max(1)))
}

fn load_unchecked(config: &Config, bundle: Bundle, source: &str) -> Result<Scoring> {
    let manifest = bundle.manifest();
    let options = options(config, manifest)?;
    let digest = bundle.digest().to_owned();
    announce(config, manifest, &digest);

    let tokenizer = bundle.file(&manifest.text.tokenizer)?;
    let tokenizer = Tokenizer::from_json(tokenizer.bytes(), manifest.text.context_length)
        .with_context(|| format!("bundle: {}", manifest.text.tokenizer))?;
    let decoding = Decoding::start(config, manifest.max_frames)
        .with_context(|| format!("decoder {}", config.decoding.decoder.display()))?;
    let max_batch_frames = config.time.max_batch_frames.get();
    let engine_config = EngineConfig {
        max_queue_frames: config.time.max_queue_frames.get(),
        max_batch_frames,
        max_queue_delay: config.time.max_queue_delay_seconds.duration(),
        text_cache_bytes: config.model.text_cache_bytes,
        threads: config.model.threads.get(),
        warm_up_prompt: tokenizer.encode("warm up"),
    };
    let serving = Serving {
        max_batch_frames,
        graphs: config.model.cuda_graphs,
        kernels: config.model.cuda_kernels,
        memory_bytes: config.model.device_memory_bytes.map(Into::into),
    };
    let bundle = Arc::new(bundle);
    let load = |options| {
        let bundle = bundle.clone();
        move || Ensemble::serve(&bundle, options, serving)
    };
    let engine =
        Engine::start(options.into_iter().map(load).collect(), engine_config).with_context(|| source.to_owned())?;
    native::keep_freed_memory();
    let facts = engine.facts();
    Ok(Scoring {
        image_sides: facts.sides(Track::Image),
        video_sides: facts.sides(Track::Video),
        engine,
        tokenizer,
        decoding,
        limits: config.limits.clone(),
        digest,
        max_batch_frames,
    })
}

/// How the bundle is put on each device.
fn options(config: &Config, manifest: &Manifest) -> Result<Vec<LoadOptions>> {
    let gpus = native::gpus();
    let devices = match &config.model.device {
        DeviceChoice::Auto => vec![match &gpus {
            Ok(1..) => Device::Cuda(0),
            Ok(0) => {
                tracing::warn!("libtorch's CUDA part is here and sees no GPU: scoring on the CPU");
                Device::Cpu
            }
            Err(problem) => {
                // A GPU that is there and not used is a mistake that shows in nothing but the rate.
                if Path::new("/dev/nvidiactl").exists() {
                    tracing::warn!(problem, "there is a GPU, but CUDA cannot be used: scoring on the CPU");
                } else {
                    tracing::info!(problem, "no CUDA: scoring on the CPU");
                }
                Device::Cpu
            }
        }],
        DeviceChoice::These(devices) => devices.iter().map(|&name| device(name, &gpus)).collect::<Result<_>>()?,
    };
    if config.model.device_memory_bytes.is_some() && devices.iter().all(|device| *device == Device::Cpu) {
        tracing::warn!("device_memory_bytes: is set, but bounds the memory of GPUs alone, and none scores");
    }
    let tta = config.model.tta;
    let is_calibrated = |dtype| manifest.experts.iter().all(|expert| manifest.calibrated(expert, dtype, tta).is_some());
    // One for all: a score must not depend on the device.
    let all_fast = devices.iter().all(|device| matches!(device, Device::Cuda(gpu) if native::multiplies_bf16(*gpu)));
    let dtype = match config.model.dtype {
        DtypeChoice::Auto if all_fast && is_calibrated(Dtype::Bf16) => Dtype::Bf16,
        DtypeChoice::Bf16 => Dtype::Bf16,
        DtypeChoice::Auto | DtypeChoice::F32 => Dtype::F32,
    };
    Ok(devices.into_iter().map(|device| LoadOptions { device, dtype, tta }).collect())
}

fn device(name: DeviceName, gpus: &Result<usize, &str>) -> Result<Device> {
    match (name, gpus) {
        (DeviceName::Cpu, _) => Ok(Device::Cpu),
        (DeviceName::Cuda(index), Ok(count)) if index < *count => Ok(Device::Cuda(index)),
        (DeviceName::Cuda(_), Ok(count)) => bail!("device: is {name}, but libtorch sees {count} GPUs here"),
        (DeviceName::Cuda(_), Err(problem)) => bail!("device: is {name}, but CUDA cannot be used here: {problem}"),
    }
}

fn announce(config: &Config, manifest: &Manifest, digest: &str) {
    let Manifest { name, version, trained, .. } = manifest;
    let source = match &config.model.bundle {
        Some(directory) => directory.display().to_string(),
        None => "compiled in".to_owned(),
    };
    tracing::info!(name, version, digest, source, trained, "bundle");
    if !trained {
        tracing::warn!(
            "this bundle is untrained: its scores show the path from prompt and media to a number and mean nothing"
        );
    }
}
