//! The runs of an ensemble: whether they belong together, and their files in the bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use sha2::{Digest, Sha256};

use crate::model::{ExpertSpec, FileDigest, Manifest};
use crate::train::bundle::{Source, copy};
use crate::train::checkpoint::{Epoch, Progress, read_progress};
use crate::train::config::Settings;
use crate::train::fit::{BACKBONE, HEAD, Record, is_run, read_record, read_settings, read_trained_on};

/// One run.
pub(in crate::train) struct Member {
    /// As in a bundle, whose files are those of the checkpoint.
    pub(in crate::train) spec: ExpertSpec,
    pub(in crate::train) settings: Settings,
    pub(in crate::train) record: Record,
    /// The epoch that its weights are of.
    pub(in crate::train) epoch: Option<Epoch>,
    /// Epochs of the run that have ended.
    pub(super) done: usize,
    /// Names and prompts.
    pub(super) trained_on: BTreeSet<(String, String)>,
    checkpoint: PathBuf,
}

/// Reads the runs in `folders`, with the best weights of each or the last ones.
pub(super) fn read(folders: &[PathBuf], last: bool) -> anyhow::Result<Vec<Member>> {
    let members = folders.iter().map(|folder| one(folder, last).with_context(|| folder.display().to_string()));
    let members = members.collect::<anyhow::Result<Vec<_>>>()?;
    let Some((first, others)) = members.split_first() else { bail!("--runs: is empty") };
    let digests = |member: &Member| -> Vec<Option<String>> {
        let towers = member.settings.text.iter().flat_map(|text| &text.towers);
        towers.map(|tower| member.record.weights_sha256.get(&tower.weights).cloned()).collect()
    };
    for (member, folder) in others.iter().zip(folders.iter().skip(1)) {
        let shown = folder.display();
        let named = members.iter().filter(|other| other.spec.name == member.spec.name).count();
        ensure!(named == 1, "{shown}: its expert is called {:?}, like another run's", member.spec.name);
        let same_text = digests(first) == digests(member)
            && first.settings.text.as_ref().map(|text| (text.l2_norm, text.context_length))
                == member.settings.text.as_ref().map(|text| (text.l2_norm, text.context_length));
        ensure!(same_text, "{shown}: learnt with other text towers than {}", first.spec.name);
        let (has, wants) = (member.settings.max_frames, first.settings.max_frames);
        ensure!(has == wants, "{shown}: max_frames: is {has}, expected {wants} as in {}", first.spec.name);
    }
    Ok(members)
}

fn one(folder: &Path, last: bool) -> anyhow::Result<Member> {
    ensure!(folder.is_dir(), "is no folder");
    ensure!(is_run(folder), "holds no run; --runs takes the folder of each run, one for each expert");
    let settings = read_settings(folder)?;
    let record = read_record(folder)?;
    let checkpoint = folder.join(if last { "last" } else { "best" });
    let checkpoint = checkpoint.canonicalize().context("has no checkpoint yet")?;
    let progress: Progress = read_progress(&checkpoint)?;
    let epoch = progress.epochs.last().filter(|epoch| epoch.step == progress.step).cloned();
    let [expert] = settings.experts.as_slice() else { bail!("has not one expert") };
    let frozen = !settings.recipe.train_text;
    ensure!(frozen, "its text towers learnt too, but the experts of a bundle share theirs");
    let spec = expert.spec(BACKBONE, HEAD);
    ensure!(last || epoch.is_some(), "no epoch of it has ended yet; `fit --resume` goes on with it");
    let done = read_progress(&folder.join("last"))?.epochs.len();
    if done < settings.recipe.epochs as usize {
        let (shown, all) = (folder.display(), settings.recipe.epochs);
        eprintln!("{shown}: is not finished, {done} of {all} epochs are done; `fit --resume` goes on with it");
    }
    let trained_on = read_trained_on(folder)?;
    Ok(Member { spec, settings, record, epoch, done, trained_on, checkpoint })
}

/// What the manifest says of where the weights come from.
pub(super) fn provenance(members: &[Member]) -> String {
    let one = |member: &Member| {
        let record = &member.record;
        let all = member.settings.recipe.epochs;
        let unfinished = if member.done < all as usize { format!("{} of ", member.done) } else { String::new() };
        format!(
            "{}: {} (sha256 {:.12}), seed {}, {unfinished}{all} epochs",
            member.spec.name,
            record.sources(),
            record.items_sha256,
            member.settings.seed
        )
    };
    let all: Vec<String> = members.iter().map(one).collect();
    format!("trained by pcqa-train {}: {}", env!("CARGO_PKG_VERSION"), all.join("; "))
}

/// Writes every file into `directory`, names them in `manifest`, and says what they are.
pub(super) fn write_files(
    manifest: &mut Manifest,
    members: &[Member],
    directory: &Path,
    stored: Dtype,
) -> anyhow::Result<BTreeMap<String, FileDigest>> {
    let mut sources = Vec::new();
    let mut take = |path: &mut String, name: String| -> anyhow::Result<()> {
        let from = PathBuf::from(std::mem::replace(path, name.clone()));
        let bytes = fs::metadata(&from).with_context(|| format!("{}: cannot be read", from.display()))?.len();
        sources.push(Source { path: from, bytes, name });
        Ok(())
    };
    take(&mut manifest.text.tokenizer, "tokenizer.json".to_owned())?;
    for tower in &mut manifest.text.towers {
        let name = format!("text_{}.safetensors", tower.name);
        take(&mut tower.weights, name)?;
    }
    let mut files = copy(&sources, directory)?;
    let learnt = members.first().map(|member| &member.record.weights_sha256);
    for source in &sources {
        let path = source.path.to_string_lossy();
        let (wanted, copied) = (learnt.and_then(|learnt| learnt.get(&*path)), files.get(&source.name));
        if let (Some(wanted), Some(copied)) = (wanted, copied) {
            let learnt_with = wanted == &copied.sha256;
            ensure!(
                learnt_with,
                "{path}: is not the text tower that the experts learnt with, whose SHA-256 is {wanted}"
            );
        }
    }
    for (expert, member) in manifest.experts.iter_mut().zip(members) {
        let parts = [("backbone", &mut expert.backbone.weights), ("head", &mut expert.head)];
        for (part, file) in parts {
            let from = member.checkpoint.join(&*file);
            *file = format!("{part}_{}.safetensors", expert.name);
            let bytes = fs::read(&from)
                .map_err(anyhow::Error::from)
                .and_then(|bytes| converted(&bytes, stored))
                .with_context(|| format!("{}: cannot be read", from.display()))?;
            let to = directory.join(&*file);
            fs::write(&to, &bytes).with_context(|| format!("{}: cannot be written", to.display()))?;
            let digest = FileDigest { sha256: format!("{:x}", Sha256::digest(&bytes)), bytes: bytes.len() as u64 };
            files.insert(file.clone(), digest);
        }
    }
    Ok(files)
}

/// A checkpoint's file, which is f32, with its tensors in f16 where that is `stored`.
fn converted(bytes: &[u8], stored: Dtype) -> anyhow::Result<Vec<u8>> {
    if stored != Dtype::F16 {
        return Ok(bytes.to_vec());
    }
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors = Vec::new();
    for (key, view) in file.iter() {
        ensure!(view.dtype() == Dtype::F32, "tensor {key}: has type {:?}, expected F32", view.dtype());
        let (values, _) = view.data().as_chunks::<4>();
        let halves = values.iter().map(|bytes| f16::from_f32(f32::from_le_bytes(*bytes)));
        let halves: Vec<f16> = halves.collect();
        ensure!(halves.iter().all(|half| half.is_finite()), "tensor {key}: has values that f16 cannot hold");
        let data: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        tensors.push((key, view.shape().to_vec(), data));
    }
    let views = tensors.iter().map(|(key, shape, data)| Ok((*key, TensorView::new(Dtype::F16, shape.clone(), data)?)));
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>, SafeTensorError>>()?, None)?)
}
