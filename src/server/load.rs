//! From configuration to a model that scores: bundle, tokenizer, decoder processes, engine. At start, and whenever the
//! bundle is loaded again.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::config::{Config, DeviceChoice, DeviceName, DtypeChoice};
use super::decode::Decoding;
use super::scoring::Scoring;
use crate::engine::{Engine, EngineConfig};
use crate::model::{Bundle, Device, Dtype, Ensemble, LoadOptions, Manifest, Track};
use crate::text::Tokenizer;

/// Opens the bundle and checks its files. Blocks.
pub(super) fn open(config: &Config) -> Result<Bundle> {
    match &config.model.bundle {
        Some(directory) => Bundle::open(directory).with_context(|| format!("bundle {}", directory.display())),
        None => Bundle::demo().context("the demo bundle"),
    }
}

/// Loads everything and warms it up. Blocks.
pub(super) fn load(config: &Config, bundle: Bundle) -> Result<Scoring> {
    let options = options(config)?;
    let manifest = bundle.manifest();
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
    let bundle = Arc::new(bundle);
    let load = |options| {
        let bundle = bundle.clone();
        move || Ensemble::load(&bundle, options)
    };
    let engine = Engine::start(options.into_iter().map(load).collect(), engine_config).context("bundle")?;
    crate::native::keep_freed_memory();
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
fn options(config: &Config) -> Result<Vec<LoadOptions>> {
    let devices = match &config.model.device {
        DeviceChoice::Auto => &[DeviceName::Cpu][..],
        DeviceChoice::These(devices) => devices,
    };
    let dtype = match config.model.dtype {
        DtypeChoice::Auto | DtypeChoice::F32 => Dtype::F32,
        DtypeChoice::Bf16 => Dtype::Bf16,
    };
    let option = |device: &DeviceName| match device {
        DeviceName::Cpu => Ok(LoadOptions { device: Device::Cpu, dtype, tta: config.model.tta }),
        DeviceName::Cuda(_) => bail!("device: {device} is not available, this server scores on cpu"),
    };
    devices.iter().map(option).collect()
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
