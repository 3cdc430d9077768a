//! What is trained: the experts of the settings, or those of the bundle that they start from.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::model::{Activation, Backbone, ExpertSpec, MANIFEST, Manifest, Mixer, TextSpec, Track};

/// One expert that is to be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertSettings {
    /// Name, unique in the bundle to be.
    pub name: String,
    /// What it scores; video experts have the temporal module.
    pub track: Track,
    /// The vision backbone; its weights are where it starts from.
    pub backbone: Backbone,
    /// A checkpoint whose tensors replace those of `backbone.weights` that they fit; the others stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
    /// Weights of the head to start from; drawn by the seed where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Width of both latents of a new head (1024 in the paper).
    #[serde(default = "paper_width")]
    pub latent: usize,
    /// Width between the two layers of a new head.
    #[serde(default = "paper_width")]
    pub hidden: usize,
    /// Side of the square that frames are resized to, in pixels.
    #[serde(default = "paper_side")]
    pub input_size: u32,
    /// How prompt and vision latents are merged.
    pub mixer: Mixer,
    /// After each temporal convolution.
    #[serde(default = "relu")]
    pub temporal_activation: Activation,
    /// After each adapter.
    #[serde(default = "identity")]
    pub adapter_activation: Activation,
    /// Between the head's two layers.
    #[serde(default = "gelu")]
    pub head_activation: Activation,
}

impl ExpertSettings {
    /// How a bundle would describe this expert, with weights and head in files of these names.
    pub fn spec(&self, weights: &str, head: &str) -> ExpertSpec {
        ExpertSpec {
            name: self.name.clone(),
            track: self.track,
            backbone: Backbone { weights: weights.to_owned(), ..self.backbone.clone() },
            head: head.to_owned(),
            input_size: self.input_size,
            mixer: self.mixer,
            temporal_activation: self.temporal_activation,
            adapter_activation: self.adapter_activation,
            head_activation: self.head_activation,
        }
    }

    /// The expert of a bundle; a head that is made in place of its own is as wide.
    fn of(spec: &ExpertSpec, directory: &Path) -> anyhow::Result<Self> {
        let (latent, hidden) = head_widths(&directory.join(&spec.head))?;
        let place = |name: &str| directory.join(name).to_string_lossy().into_owned();
        Ok(Self {
            name: spec.name.clone(),
            track: spec.track,
            backbone: Backbone { weights: place(&spec.backbone.weights), ..spec.backbone.clone() },
            pretrained: None,
            head: Some(place(&spec.head)),
            latent,
            hidden,
            input_size: spec.input_size,
            mixer: spec.mixer,
            temporal_activation: spec.temporal_activation,
            adapter_activation: spec.adapter_activation,
            head_activation: spec.head_activation,
        })
    }
}

/// Widths of a head's latents and of its hidden layer.
fn head_widths(path: &Path) -> anyhow::Result<(usize, usize)> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("{shown}: cannot be read"))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{shown}: is no safetensors file"))?;
    let rows = |key: &str| -> anyhow::Result<usize> {
        let tensor = file.tensor(key).with_context(|| format!("{shown}: tensor {key}"))?;
        tensor.shape().first().copied().with_context(|| format!("{shown}: tensor {key} has no rows"))
    };
    Ok((rows("prompt_adapter.weight")?, rows("mlp.fc1.weight")?))
}

/// Writes out what `settings` takes from its bundle, and leaves of the experts the one called `name`: the settings of
/// one run, which no longer need the bundle's manifest.
///
/// # Errors
///
/// When the bundle's manifest cannot be read, or no expert has that name.
pub fn resolve(settings: &Settings, name: &str) -> anyhow::Result<Settings> {
    let mut settings = all(settings)?;
    let known: Vec<&str> = settings.experts.iter().map(|expert| expert.name.as_str()).collect();
    ensure!(known.contains(&name), "expert {name:?}: is not one of {}", known.join(", "));
    settings.experts.retain(|expert| expert.name == name);
    Ok(settings)
}

/// `settings` with text towers and experts written out.
pub(in crate::train) fn all(settings: &Settings) -> anyhow::Result<Settings> {
    let mut settings = settings.clone();
    let Some(directory) = settings.bundle.take() else { return Ok(settings) };
    let directory = Path::new(&directory);
    let path = directory.join(MANIFEST);
    let shown = path.display();
    let text = fs::read_to_string(&path).with_context(|| format!("{shown}: cannot be read"))?;
    let manifest = Manifest::parse(&text).with_context(|| shown.to_string())?;
    manifest.check_values().with_context(|| shown.to_string())?;
    manifest.check_files().with_context(|| shown.to_string())?;
    if settings.text.is_none() {
        settings.text = Some(placed(manifest.text, directory));
    }
    if settings.experts.is_empty() {
        let experts = manifest.experts.iter().map(|spec| ExpertSettings::of(spec, directory));
        settings.experts = experts.collect::<anyhow::Result<_>>()?;
    }
    if settings.experts.is_empty() {
        bail!("{shown}: has no experts");
    }
    Ok(settings)
}

fn placed(mut text: TextSpec, directory: &Path) -> TextSpec {
    let place = |name: &mut String| *name = directory.join(&*name).to_string_lossy().into_owned();
    place(&mut text.tokenizer);
    text.towers.iter_mut().for_each(|tower| place(&mut tower.weights));
    text
}

fn paper_width() -> usize {
    1024
}

fn paper_side() -> u32 {
    448
}

fn relu() -> Activation {
    Activation::Relu
}

fn identity() -> Activation {
    Activation::None
}

fn gelu() -> Activation {
    Activation::Gelu
}
