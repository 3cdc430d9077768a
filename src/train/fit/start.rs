//! What an expert begins with, and what became of the tensors of the files that were given for it.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context;
use tch::{Device, Kind};

use crate::model::backbone::VisionBackbone;
use crate::model::{Adopted, Expert, Parameters, Track};
use crate::train::config::ExpertSettings;
use crate::train::embeddings::file_digest;
use crate::train::initial;

/// Keys of one kind that are printed; of more, only their number.
const SHOWN: usize = 12;

/// Where the weights came from, for people.
#[derive(Debug, Default)]
pub(in crate::train) struct Start {
    /// One entry a file: path, SHA-256, what became of its tensors.
    files: Vec<(String, String, Adopted)>,
}

impl Start {
    /// Paths and SHA-256 of the files that values were taken from.
    pub(in crate::train) fn digests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, digest, _)| (path.as_str(), digest.as_str()))
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (path, _, Adopted { loaded, ignored, missing }) in &self.files {
            writeln!(
                f,
                "{path}: {} tensors loaded, {} ignored, {} missing",
                loaded.len(),
                ignored.len(),
                missing.len()
            )?;
            for (what, keys) in [("ignored", ignored), ("missing", missing)] {
                for key in keys.iter().take(SHOWN) {
                    writeln!(f, "  {what} {key}")?;
                }
                if keys.len() > SHOWN {
                    writeln!(f, "  {what} {} more", keys.len() - SHOWN)?;
                }
            }
        }
        Ok(())
    }
}

/// Parameters of backbone and head. With `fresh`, only the shapes of the given files count and the values follow from
/// that seed; a head that is not given follows from `seed`.
pub(in crate::train) fn parameters(
    expert: &ExpertSettings,
    text_dim: i64,
    device: Device,
    fresh: bool,
    seed: u64,
) -> anyhow::Result<(Parameters, Parameters, Start)> {
    let mut start = Start::default();
    let spec = expert.spec(&expert.backbone.weights, "head");
    let mut backbone = read(&expert.backbone.weights, device)?;
    let network = VisionBackbone::load(&spec, backbone.inference_weights(Kind::Float))?;
    let ignored = backbone.retain_used();
    if fresh {
        backbone = initial::redrawn(&backbone, "backbone", seed)?;
    } else {
        start.note(&expert.backbone.weights, &backbone, ignored)?;
    }
    if let Some(path) = &expert.pretrained {
        let bytes = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
        let adopted = backbone.adopt(path, &bytes)?;
        start.files.push((path.clone(), file_digest(Path::new(path))?, adopted));
    }
    let head = match &expert.head {
        Some(path) => {
            let head = read(path, device)?;
            let still = spec.track == Track::Video && !head.learnable().any(|(key, _)| key.starts_with("temporal."));
            let head = if still { initial::with_temporal(&head, network.channels(), seed)? } else { head };
            if fresh { initial::redrawn(&head, "head", seed)? } else { head }
        }
        None => {
            let (latent, hidden) = (expert.latent as i64, expert.hidden as i64);
            initial::head(&spec, network.channels(), text_dim, latent, hidden, seed, device)?
        }
    };
    Expert::load(&spec, backbone.inference_weights(Kind::Float), head.inference_weights(Kind::Float), text_dim)
        .map_err(|error| match &expert.head {
            Some(path) => anyhow::Error::new(error).context(path.clone()),
            None => error.into(),
        })?;
    if let (Some(path), false) = (&expert.head, fresh) {
        start.note(path, &head, Vec::new())?;
    }
    Ok((backbone, head, start))
}

impl Start {
    fn note(&mut self, path: &str, parameters: &Parameters, ignored: Vec<String>) -> anyhow::Result<()> {
        let loaded = parameters.learnable().chain(parameters.buffers()).map(|(key, _)| key.to_owned()).collect();
        let adopted = Adopted { loaded, ignored, missing: Vec::new() };
        self.files.push((path.to_owned(), file_digest(Path::new(path))?, adopted));
        Ok(())
    }
}

fn read(path: &str, device: Device) -> anyhow::Result<Parameters> {
    let bytes = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
    Ok(Parameters::read(path, &bytes, device)?)
}
