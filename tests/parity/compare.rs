//! Our networks beside the libraries'.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::Context;
use pcqa::media::{FrameStack, Frames, resize};
use pcqa::model::backbone::VisionBackbone;
use pcqa::model::{Bundle, Device, Dtype, Ensemble, FileDigest, LoadOptions, TextTower, Track, Weights};
use pcqa::text::Tokenizer;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::golden::{self, Golden, Network, PictureCase, PromptCase};
use crate::weights::{Folder, picture};

/// Largest difference of an embedding, as a share of its root mean square, and of a score.
const TOLERANCE: f64 = 1e-4;
const TOKENIZER: &str = "tokenizer.json";

/// One case.
pub struct Row {
    pub what: String,
    pub library: String,
    pub case: String,
    /// Largest difference of a number.
    pub absolute: f64,
    /// The same over the root mean square of what is expected; of a score, over the score.
    pub relative: f64,
    /// What was scored and what was expected, where that is one number.
    pub values: Option<(f64, f64)>,
}

impl Row {
    fn of_vectors(network: &Network, case: String, ours: &Tensor, theirs: &[f32]) -> anyhow::Result<Self> {
        let ours = Vec::<f32>::try_from(ours.f_reshape([-1])?)?;
        anyhow::ensure!(ours.len() == theirs.len(), "{case}: {} numbers, expected {}", ours.len(), theirs.len());
        let difference = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
        // Unlike f64::max, keeps what is not a number.
        let absolute = ours
            .iter()
            .zip(theirs)
            .map(difference)
            .fold(0.0, |worst: f64, d| if d > worst || d.is_nan() { d } else { worst });
        let squares = theirs.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / theirs.len() as f64;
        let (what, library) = (network.name.clone(), network.library.clone());
        Ok(Self { what, library, case, absolute, relative: absolute / squares.sqrt(), values: None })
    }

    fn of_scores(case: &str, ours: f64, theirs: f64) -> Self {
        let absolute = (ours - theirs).abs();
        let relative = absolute / theirs.abs();
        let (what, library) = ("whole path".to_owned(), "timm, open_clip, Pillow".to_owned());
        Self { what, library, case: case.to_owned(), absolute, relative, values: Some((ours, theirs)) }
    }

    /// Scores are compared as they are: an expert's may be near 0.
    pub fn fits(&self) -> bool {
        let difference = if self.values.is_some() { self.absolute } else { self.relative };
        difference <= TOLERANCE
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { what, case, absolute, relative, .. } = self;
        let verdict = if self.fits() { "ok" } else { "WRONG" };
        write!(f, "{what:22} {case:12} largest difference {absolute:.1e}, relative {relative:.1e}  {verdict}")?;
        self.values.map_or(Ok(()), |(ours, theirs)| write!(f, "  {ours:.6}, expected {theirs:.6}"))
    }
}

/// All cases of one network, whose file stays in `folder`.
pub fn network(golden: &Golden, network: &Network, folder: &Folder) -> anyhow::Result<Vec<Row>> {
    folder.write(&network.file, &network.prefix, &network.tensors)?;
    let file = folder.map(&network.file)?;
    let weights = || Weights::parse(&network.file, &file, Device::Cpu, Kind::Float);
    match &network.kind {
        golden::Kind::Backbone { backbone, cases } => {
            let compare = |case: &PictureCase| {
                let spec = golden.whole.expert(backbone, case.side);
                let ours =
                    VisionBackbone::load(&spec, weights()?)?.forward(&frames(case, &backbone.mean, &backbone.std)?)?;
                Row::of_vectors(network, format!("{}²", case.side), &ours, golden.vector(&case.vector)?)
            };
            cases.iter().map(compare).collect()
        }
        golden::Kind::Tower { tower: spec, cases } => {
            let (tower, tokenizer) = (TextTower::load(spec, weights()?)?, tokenizer(golden)?);
            let compare = |case: &PromptCase| {
                let ids = tokenizer.encode(&case.prompt);
                anyhow::ensure!(*ids.ids == *case.tokens, "{}: other tokens than open_clip's", case.vector);
                let ours = tower.forward(&[&ids])?;
                Row::of_vectors(network, format!("{} tokens", ids.ids.len()), &ours, golden.vector(&case.vector)?)
            };
            cases.iter().map(compare).collect()
        }
    }
}

/// The paper's image ensemble as a bundle on disk: pixels of another size and words in, Eq. 4 out.
pub fn whole_path(golden: &Golden, folder: &Folder) -> anyhow::Result<Vec<Row>> {
    let whole = &golden.whole;
    for head in &whole.heads {
        folder.write(&head.file, "", &head.tensors)?;
    }
    let demo = Bundle::demo()?;
    fs::write(folder.path().join(TOKENIZER), demo.file(TOKENIZER)?.bytes())?;
    let mut manifest = whole.manifest.clone();
    manifest.files = digests(folder)?;
    fs::write(folder.path().join("bundle.toml"), toml::to_string(&manifest)?)?;

    let bundle = Bundle::open(folder.path())?;
    let ensemble = Ensemble::load(&bundle, LoadOptions { device: Device::Cpu, dtype: Dtype::F32, tta: false })?;
    let text = ensemble.encode_prompts(&[&tokenizer(golden)?.encode(&whole.prompt)])?;
    let pixels = picture(&whole.picture, whole.side);
    let stack = |side| FrameStack { side, rgb: resize(&pixels, whole.side, whole.side, side) };
    let frames = Frames { count: 1, stacks: ensemble.sides(Track::Image).into_iter().map(stack).collect() };
    let (scores, _) = ensemble.score(Track::Image, &[&frames], &text)?;
    let score = scores.into_iter().next().context("no score")??;
    anyhow::ensure!(score.experts.len() == whole.raw.len(), "{} experts", score.experts.len());
    let mut rows = Vec::new();
    for (expert, &raw) in score.experts.iter().zip(&whole.raw) {
        rows.push(Row::of_scores(&format!("raw of {}", expert.name), expert.raw, raw));
    }
    rows.push(Row::of_scores("z", score.z, whole.z));
    rows.push(Row::of_scores("MOS", score.mos, whole.mos));
    Ok(rows)
}

fn tokenizer(golden: &Golden) -> anyhow::Result<Tokenizer> {
    let demo = Bundle::demo()?;
    Ok(Tokenizer::from_json(demo.file(TOKENIZER)?.bytes(), golden.whole.manifest.text.context_length)?)
}

/// Normalised, `[1, 3, S, S]`.
fn frames(case: &PictureCase, mean: &[f64; 3], std: &[f64; 3]) -> anyhow::Result<Tensor> {
    let side = i64::from(case.side);
    let pixels = Tensor::f_from_data_size(&picture(&case.picture, case.side), &[1, side, side, 3], Kind::Uint8)?;
    let channels = |values: &[f64; 3]| Tensor::f_from_slice(values)?.f_to_kind(Kind::Float);
    let pixels = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
    Ok(pixels.f_sub(&channels(mean)?)?.f_div(&channels(std)?)?.f_permute([0, 3, 1, 2])?)
}

fn digests(folder: &Folder) -> anyhow::Result<BTreeMap<String, FileDigest>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder.path())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let bytes = folder.map(&name)?;
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        files.insert(name, FileDigest { sha256, bytes: bytes.len() as u64 });
    }
    Ok(files)
}
