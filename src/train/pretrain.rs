//! `pcqa-train pretrain`: what CLIP's and ImageNet's pretraining are to full-size networks, for those that nobody has
//! trained. Text towers learn to tell what prompts ask for, backbones what scenes show and how they are broken, heads
//! how well the two match; all from synthetic scenes that are made on the spot and never from a MOS.

mod heads;
mod probe;
mod text;
mod vision;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use self::text::Towers;
use super::bundle::seal;
use super::staging::Staging;
use super::synth::lessons;
use super::trial;
use crate::model::{Bundle, FileDigest, Manifest};

/// What `pcqa-train pretrain` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Bundle to start from, as `pcqa-train init` writes it.
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Every seed gives other scenes and another order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Prompts that the text towers learn from.
    #[arg(long, value_name = "N", default_value_t = 96000, value_parser = clap::value_parser!(u32).range(64..))]
    pub prompts: u32,
    /// Pictures that the backbones and the heads learn from, all of them in memory.
    #[arg(long, value_name = "N", default_value_t = 64000, value_parser = clap::value_parser!(u32).range(64..))]
    pub pictures: u32,
    /// Passes over the prompts, and over the pictures.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// Directory of the bundle to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace a bundle that is there already.
    #[arg(long)]
    pub force: bool,
}

/// Writes the bundle `arguments.bundle` with pretrained networks to `arguments.out`, which appears only once it is
/// complete. Its calibration is as it was: that of other networks.
///
/// # Errors
///
/// When the bundle cannot be opened or written.
pub fn run(arguments: &Arguments) -> anyhow::Result<Bundle> {
    let Arguments { bundle, seed, out, force, .. } = arguments;
    let bundle = Bundle::open(bundle).with_context(|| bundle.display().to_string())?;
    let staging = Staging::new(out, *force)?;
    let sides: BTreeSet<u32> = bundle.manifest().experts.iter().map(|expert| expert.input_size).collect();
    let pictures = sides.into_iter().map(|side| (side, lessons(*seed, arguments.pictures, side))).collect();
    let towers = Towers::pretrain(&bundle, arguments)?;
    let mut files = vision::pretrain(&bundle, arguments, &pictures)?;
    files.extend(heads::pretrain(&bundle, *seed, &towers, &pictures, &files)?);
    files.extend(towers.files()?);

    let mut manifest = bundle.manifest().clone();
    manifest.version = format!("{}-pretrained", manifest.version);
    manifest.provenance =
        format!("{} Pretrained on synthetic scenes by `pcqa-train pretrain --seed {seed}`.", manifest.provenance);
    write(&bundle, &mut manifest, &files, staging.path())?;
    let bundle = seal(&manifest, staging.path())?;
    trial::try_out(&bundle)?;
    staging.publish()?;
    Ok(bundle)
}

/// All files of `bundle`, of which those in `files` are new.
fn write(
    bundle: &Bundle,
    manifest: &mut Manifest,
    files: &BTreeMap<String, Vec<u8>>,
    directory: &Path,
) -> anyhow::Result<()> {
    for (name, digest) in &mut manifest.files {
        let old = bundle.file(name)?;
        let bytes = files.get(name).map_or(old.bytes(), Vec::as_slice);
        *digest = FileDigest { sha256: format!("{:x}", Sha256::digest(bytes)), bytes: bytes.len() as u64 };
        fs::write(directory.join(name), bytes).with_context(|| format!("{name}: cannot be written"))?;
    }
    Ok(())
}
