//! Weights as their authors publish them, brought to what bundles hold: one network, upstream's names, f32 or bf16.
//!
//! Nothing of a file is executed and nothing of it is in memory but the piece that is being copied, so that the text
//! tower of a model of twenty gigabytes comes out of it in the time that reading the tower takes.

mod archive;
mod backbone;
mod checkpoint;
mod pickle;
mod plan;
mod text;
mod write;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use safetensors::Dtype;

use self::checkpoint::Checkpoint;
use self::plan::Piece;
use self::text::Layout;
pub(super) use self::write::numbers_of;
use crate::model::{BackboneKind, FileDigest};

/// What `pcqa-train convert` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// File of weights: `.safetensors`, or what torch.save wrote (`.bin`, `.pt`, `.pth`).
    #[arg(value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Number format to write.
    #[arg(long, value_enum, default_value_t = NumberFormat::F32)]
    pub dtype: NumberFormat,
    /// Replace a file that is there already.
    #[arg(long)]
    pub force: bool,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberFormat {
    /// IEEE single precision.
    F32,
    /// bfloat16: half as large, three decimal digits.
    Bf16,
}

impl NumberFormat {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }

    fn bytes(self) -> usize {
        self.dtype().bitsize() / 8
    }

    /// Whether it has this number, rounded, and it is one.
    fn holds(self, number: f32) -> bool {
        match self {
            Self::F32 => number.is_finite(),
            Self::Bf16 => half::bf16::from_f32(number).is_finite(),
        }
    }

    /// As flags and files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What a checkpoint is the weights of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A CLIP text tower, perhaps with all the rest of its model.
    TextTower,
    /// A vision backbone.
    Backbone(BackboneKind),
}

impl Part {
    fn name(self) -> String {
        match self {
            Self::TextTower => "text tower".to_owned(),
            Self::Backbone(kind) => format!("{} backbone", kind.name()),
        }
    }
}

/// `pcqa-train convert`: says what it found and what it wrote.
///
/// # Errors
///
/// Names the file, the tensor and the expectation.
pub fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let Arguments { checkpoint, out, dtype, force } = arguments;
    let same = checkpoint.canonicalize().is_ok_and(|from| out.canonicalize().is_ok_and(|out| out == from));
    ensure!(!same, "{}: would replace what is to be read", out.display());
    let converted = convert(checkpoint, None, *dtype, out, *force)?;
    let Converted { found, tensors, digest } = converted;
    let FileDigest { sha256, bytes } = digest;
    let shown = out.display();
    Ok(format!("{shown}: {found}, {tensors} tensors in {}, {bytes} bytes, SHA-256 {sha256}\n", dtype.name()))
}

/// What was made of a checkpoint.
pub(super) struct Converted {
    /// What was found in it, for people.
    pub(super) found: String,
    /// Number of tensors written.
    pub(super) tensors: usize,
    /// The file that was written.
    pub(super) digest: FileDigest,
}

/// Writes the network that the file `from` holds, which must be `expected` where that is given, to `out`, in the place of
/// another file only with `force`.
pub(super) fn convert(
    from: &Path,
    expected: Option<Part>,
    format: NumberFormat,
    out: &Path,
    force: bool,
) -> anyhow::Result<Converted> {
    let planned = || -> anyhow::Result<_> {
        let checkpoint = Checkpoint::open(from)?;
        let (part, found, pieces) = recognise(&checkpoint)?;
        if let Some(expected) = expected.filter(|expected| *expected != part) {
            bail!("holds a {}, expected a {}", part.name(), expected.name());
        }
        Ok((checkpoint, found, pieces))
    };
    let (checkpoint, found, pieces) = planned().with_context(|| from.display().to_string())?;
    let tensors = pieces.len();
    let digest = write::write(from, &checkpoint, pieces, format, out, force)?;
    Ok(Converted { found, tensors, digest })
}

fn recognise(checkpoint: &Checkpoint) -> anyhow::Result<(Part, String, Vec<Piece>)> {
    if let Some(layout) = Layout::detect(checkpoint) {
        let found = format!("text tower in {} layout", layout.name());
        return Ok((Part::TextTower, found, text::tower(checkpoint, layout)?));
    }
    let Some(kind) = backbone::detect(checkpoint) else {
        let some = checkpoint.keys().next().map_or("no tensor".to_owned(), |key| format!("{key:?}"));
        bail!(
            "holds no network that is known, but {some}: expected a CLIP model of open_clip, EVA-CLIP or transformers, \
             or ConvNeXt, EfficientViT-L or EVA02 with timm's or BAAI's names"
        );
    };
    let author = if backbone::is_baai(checkpoint) { "BAAI" } else { "timm" };
    let part = Part::Backbone(kind);
    Ok((part, format!("{} with {author}'s names", part.name()), backbone::backbone(checkpoint, kind)?))
}
