//! Every setting of a training run in one TOML file, which is copied into the run's folder with all defaults and all
//! paths written out. What is left out has the paper's value (section 4.2). No tensors.

mod check;
pub(super) mod device;
mod experts;

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

pub(super) use self::experts::all;
pub use self::experts::{ExpertSettings, resolve};
use super::augment::Augmentation;
use super::dataset::DatasetArguments;
use super::split::SplitBy;
use crate::model::TextSpec;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Every random choice follows from it: split, order, augmentation, new weights.
    pub seed: u64,
    /// Directory of a bundle to start from (`pcqa-train init` writes one): its text towers and tokenizer where `text` is
    /// absent, its experts where `experts` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Draw every weight of the experts anew by `seed`; only the shapes of the given files count then.
    pub fresh: bool,
    /// Most frames of a video that are looked at, 1 to 64.
    pub max_frames: u32,
    /// `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is one.
    pub device: String,
    /// CPU threads of one operation; 0 for one per core. Other numbers of threads add in another order, so that the last
    /// digits of a loss differ.
    pub threads: u32,
    /// The data set; given on the command line as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DatasetArguments>,
    /// Who is trained on, who is held out.
    pub split: SplitSettings,
    /// How it is learnt.
    pub recipe: Recipe,
    /// What a training item may look like; absent: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
    /// An ensemble whose z the expert learns as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherSettings>,
    /// Checkpoints and ends.
    pub keep: KeepSettings,
    /// Tokenizer and text towers, as a bundle's description has them, with paths relative to this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSpec>,
    /// The experts, with paths relative to this file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            bundle: None,
            fresh: false,
            max_frames: 16,
            device: "auto".to_owned(),
            threads: 0,
            data: None,
            split: SplitSettings::default(),
            recipe: Recipe::default(),
            augmentation: Some(Augmentation::default()),
            teacher: None,
            keep: KeepSettings::default(),
            text: None,
            experts: Vec::new(),
        }
    }
}

/// Which items judge the expert while it learns: they are never trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitSettings {
    /// What training and held-out items may not have in common: nothing (`random`), `prompt`, `generator` or `group`.
    pub by: SplitBy,
    /// Share of the items that is held out, 0 to below 1, where there are no folds.
    pub held_out: f64,
    /// Number of parts that the items are dealt into for cross-validation, at least 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// The part that is held out, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold: Option<usize>,
}

impl Default for SplitSettings {
    fn default() -> Self {
        Self { by: SplitBy::Prompt, held_out: 0.1, folds: None, fold: None }
    }
}

/// AdamW, cosine with warm-up, mean squared error on normalised MOS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Passes over the training items.
    pub epochs: u32,
    /// Items of one step of the optimiser.
    pub batch: usize,
    /// Items that are on the device at once; gradients of a batch add up over its parts. 0: the whole batch. Batch norm
    /// sees one part at a time.
    pub micro_batch: usize,
    /// The highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Share of all steps over which the learning rate rises in a straight line, 0 to 1. It then falls to 0 as a cosine.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Greatest length of the gradient over all parameters; a longer one is scaled down to it.
    pub clip: f64,
    /// Number format of the backbone's arithmetic. Weights and optimiser are f32 always.
    pub precision: Precision,
    /// Train the text towers too. Only for comparison: a bundle's experts share their towers.
    pub train_text: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 50,
            batch: 16,
            micro_batch: 0,
            learning_rate: 2e-5,
            warmup: 0.05,
            weight_decay: 1e-2,
            clip: 1.0,
            precision: Precision::Auto,
            train_text: false,
        }
    }
}

impl Recipe {
    /// Items that are on the device at once, while learning and while the held-out ones are judged.
    pub fn at_once(&self) -> usize {
        if self.micro_batch == 0 { self.batch } else { self.micro_batch.min(self.batch) }
    }
}

/// Number format of the backbone's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bf16 on CUDA, f32 on the CPU.
    Auto,
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision; the loss is scaled so that small gradients do not vanish.
    Fp16,
}

/// Distillation (section 4.5.4): the expert learns a whole ensemble's z.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherSettings {
    /// Directory of the ensemble's bundle; the one that is compiled in where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Share of the teacher's z in the loss of an item that has a MOS as well, 0 to 1.
    pub share: f64,
    /// Whether the teacher looks at the flipped frames as well.
    pub tta: bool,
    /// Further data sets, of which only prompts and media count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unlabelled: Vec<DatasetArguments>,
}

impl Default for TeacherSettings {
    fn default() -> Self {
        Self { bundle: None, share: 0.5, tta: true, unlabelled: Vec::new() }
    }
}

/// What is kept, and when a run ends early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepSettings {
    /// A checkpoint is written after every epoch, and after so many steps within one; 0: not within one.
    pub checkpoint_steps: u64,
    /// Greatest share of the training items that may be unreadable, 0 to 1; more of them end the run.
    pub unreadable: f64,
}

impl Default for KeepSettings {
    fn default() -> Self {
        Self { checkpoint_steps: 500, unreadable: 0.01 }
    }
}

impl Settings {
    /// Reads and checks the TOML file at `path`; paths in it become absolute.
    ///
    /// # Errors
    ///
    /// Names the file, the key, the limit and the value.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("{shown}: cannot be read"))?;
        let mut settings = Self::parse(&text).with_context(|| shown.to_string())?;
        let path = path.canonicalize().with_context(|| shown.to_string())?;
        let base = path.parent().unwrap_or(Path::new("/"));
        settings.anchor(base);
        settings.check().with_context(|| shown.to_string())?;
        Ok(settings)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let deserializer = toml::Deserializer::parse(text)?;
        serde_path_to_error::deserialize(deserializer)
            .map_err(|error| anyhow!(check::in_words(&error.path().to_string(), error.inner().message())))
    }

    /// The file that gives these settings again.
    ///
    /// # Errors
    ///
    /// When a value has no place in TOML.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        toml::to_string(self).context("the settings cannot be written as TOML")
    }

    /// Makes every path relative to `base` absolute.
    fn anchor(&mut self, base: &Path) {
        let anchor = |path: &mut String| *path = base.join(&*path).to_string_lossy().into_owned();
        self.bundle.as_mut().map(anchor);
        if let Some(teacher) = &mut self.teacher {
            teacher.bundle.as_mut().map(anchor);
            teacher.unlabelled.iter_mut().for_each(|data| data.data = base.join(&data.data));
        }
        if let Some(data) = &mut self.data {
            data.data = base.join(&data.data);
        }
        if let Some(text) = &mut self.text {
            anchor(&mut text.tokenizer);
            text.towers.iter_mut().for_each(|tower| anchor(&mut tower.weights));
        }
        for expert in &mut self.experts {
            anchor(&mut expert.backbone.weights);
            expert.pretrained.as_mut().map(anchor);
            expert.head.as_mut().map(anchor);
        }
    }
}
