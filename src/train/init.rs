//! Bundles whose weights are made up: to try the path from bytes to score, to measure speed, to compare with other
//! implementations. Every tensor follows from its name and a seed (see [`hash_init`](super::hash_init)), so the same
//! command writes the same bytes anywhere.

mod design;
mod measure;
mod media;
mod store;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::Context;
use rayon::prelude::*;
use safetensors::SafeTensorError;
use sha2::{Digest, Sha256};

use self::design::Design;
use super::bundle::{progress, seal};
use super::staging::Staging;
use super::trial;
use crate::model::{Bundle, FileDigest, TOKENIZER};

/// Sizes of an untrained ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// What the compiled-in ensemble began as: 56 pixels, a few layers each. Calibrated on made-up items.
    Demo,
    /// ConvNeXt-S, EfficientViT-L2 and EVA02-B at 448 pixels, ViT-H-14 and EVA02-E-14-plus text towers: 3.4 GB. Its
    /// calibration is made up as well.
    Full,
}

/// Writes an untrained bundle of `preset` to the directory `out`, which appears only once it is complete. A bundle that
/// is there already is replaced only with `force`.
pub fn initialise(preset: Preset, seed: u64, out: &Path, force: bool) -> anyhow::Result<Bundle> {
    let mut design = Design::new(preset, seed);
    let staging = Staging::new(out, force)?;
    let directory = staging.path();

    let bar = progress(design.weights.iter().map(|weights| weights.bytes()).sum());
    for weights in &design.weights {
        bar.set_message(weights.file.clone());
        let written = weights.write(directory, seed, &bar).map_err(|error| match error {
            // It says twice what it is about.
            SafeTensorError::IoError(error) => anyhow::Error::new(error),
            error => error.into(),
        });
        written.with_context(|| format!("{}: {}: cannot be written", out.display(), weights.file))?;
    }
    bar.finish_and_clear();
    let tokenizer = directory.join(&design.manifest.text.tokenizer);
    fs::write(&tokenizer, TOKENIZER).with_context(|| format!("{}: cannot be written", tokenizer.display()))?;
    list_files(&mut design, directory)?;

    let mut bundle = seal(&design.manifest, directory)?;
    if preset != Preset::Full {
        design.manifest.calibration.clear();
        for tta in [false, true] {
            design.manifest.calibration.extend(measure::measure(&bundle, tta)?);
        }
        bundle = seal(&design.manifest, directory)?;
    }
    trial::try_out(&bundle)?;
    staging.publish()?;
    Ok(bundle)
}

fn list_files(design: &mut Design, directory: &Path) -> anyhow::Result<()> {
    let mut names: Vec<String> = design.weights.iter().map(|weights| weights.file.clone()).collect();
    names.push(design.manifest.text.tokenizer.clone());
    let listed = names.into_par_iter().map(|name| {
        let digest = digest(&directory.join(&name)).with_context(|| format!("{name}: cannot be read"))?;
        Ok((name, digest))
    });
    design.manifest.files.extend(listed.collect::<anyhow::Result<Vec<_>>>()?);
    Ok(())
}

fn digest(path: &Path) -> io::Result<FileDigest> {
    let mut hasher = Sha256::new();
    let bytes = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(FileDigest { sha256: format!("{:x}", hasher.finalize()), bytes })
}
