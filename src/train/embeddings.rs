//! Embeddings of prompts by the frozen text towers: computed once and kept on disk, by tower and token ids.
//!
//! One file a tower, named after the SHA-256 of its weights and settings. It grows by records of one length (key, values,
//! check), so that whatever a killed process or a full disk leaves at its end is recognised and overwritten. On the CPU
//! prompts are encoded one at a time: an embedding's last digits then depend neither on its neighbours nor on what the
//! cache held before.

mod store;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::store::Store;
use super::progress;
use crate::model::{TextSpec, TextTower, TextTowerSpec, Weights, unit_length};
use crate::native::map_bundle_file;
use crate::text::{TokenIds, Tokenizer};

/// Prompts that go through a tower at once on a GPU.
const GPU_BATCH: usize = 64;
/// Prompts after which the cache is written.
const FLUSH: usize = 64;

/// The embeddings of a data set's prompts.
pub struct Embeddings {
    /// `[distinct prompts, D]`, f32, on the CPU.
    rows: Tensor,
    /// Of each item.
    row_of: Vec<i64>,
    /// Of each row.
    ids: Vec<TokenIds>,
    /// Items whose prompts have more tokens than the context.
    truncated: usize,
}

impl Embeddings {
    /// Of `prompts`, one an item, by the towers of `text`, whose file names are paths.
    ///
    /// # Errors
    ///
    /// When the tokenizer, a tower or the cache cannot be read or written.
    pub fn compute(text: &TextSpec, prompts: &[&str], device: Device, cache: &Path) -> anyhow::Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let tokenizer = tokenizer(text)?;
        let mut row_of_prompt: HashMap<&str, (i64, bool)> = HashMap::new();
        let mut row_of_ids: HashMap<TokenIds, i64> = HashMap::new();
        let mut distinct: Vec<TokenIds> = Vec::new();
        let mut row_of = Vec::with_capacity(prompts.len());
        let mut truncated = 0;
        for &prompt in prompts {
            let (row, cut) = *row_of_prompt.entry(prompt).or_insert_with(|| {
                let ids = tokenizer.encode(prompt);
                let cut = ids.truncated;
                let row = *row_of_ids.entry(ids.clone()).or_insert_with(|| {
                    distinct.push(ids);
                    distinct.len() as i64 - 1
                });
                (row, cut)
            });
            truncated += usize::from(cut);
            row_of.push(row);
        }
        let mut parts = Vec::with_capacity(text.towers.len());
        for tower in &text.towers {
            let raw = embed(tower, &distinct, device, cache)?;
            parts.push(if text.l2_norm { unit_length(&raw)? } else { raw });
        }
        Ok(Self { rows: Tensor::f_cat(&parts, -1)?, row_of, ids: distinct, truncated })
    }

    /// Width D of the concatenated embedding.
    pub fn dim(&self) -> i64 {
        self.rows.size().last().copied().unwrap_or(0)
    }

    /// Number of items whose prompts were cut to the context.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// The token ids of `items`.
    ///
    /// # Errors
    ///
    /// When an item is not one that this was computed for.
    pub fn ids(&self, items: &[usize]) -> anyhow::Result<Vec<&TokenIds>> {
        let ids = |&item: &usize| self.ids.get(*self.row_of.get(item)? as usize);
        items.iter().map(ids).collect::<Option<_>>().context("an item has no prompt")
    }

    /// `[items.len(), D]` on `device`.
    ///
    /// # Errors
    ///
    /// When an item is not one that this was computed for, or the device fails.
    pub fn of(&self, items: &[usize], device: Device) -> anyhow::Result<Tensor> {
        let rows: Option<Vec<i64>> = items.iter().map(|&item| self.row_of.get(item).copied()).collect();
        let rows = rows.context("an item has no prompt embedding")?;
        Ok(self.rows.f_index_select(0, &Tensor::f_from_slice(&rows)?)?.f_to_device(device)?)
    }
}

/// Where the cache is unless somebody says otherwise: `pcqa/text` in the user's cache directory.
pub fn default_cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| PathBuf::from(".")).join("pcqa").join("text")
}

/// SHA-256 of the file at `path` in lower-case hexadecimal digits.
///
/// # Errors
///
/// When it cannot be read.
pub fn file_digest(path: &Path) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(format!("{:x}", hasher.finalize()))
}

fn tokenizer(text: &TextSpec) -> anyhow::Result<Tokenizer> {
    let path = &text.tokenizer;
    let json = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
    Tokenizer::from_json(&json, text.context_length).with_context(|| path.clone())
}

/// `[prompts.len(), D]`, not normalised, on the CPU.
fn embed(spec: &TextTowerSpec, prompts: &[TokenIds], device: Device, cache: &Path) -> anyhow::Result<Tensor> {
    let mut store = Store::open(cache, &tower_key(spec, device)?)?;
    let missing: Vec<&TokenIds> = prompts.iter().filter(|ids| !store.contains(ids)).collect();
    if !missing.is_empty() {
        encode(spec, &missing, device, &mut store)?;
    }
    let mut values = Vec::with_capacity(prompts.len() * store.dim());
    for ids in prompts {
        values.extend_from_slice(store.get(ids).context("a prompt is missing in the cache")?);
    }
    let shape = [prompts.len() as i64, -1];
    Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?)
}

/// Everything that an embedding depends on beside the token ids; its last digits, on the kind of device.
fn tower_key(spec: &TextTowerSpec, device: Device) -> anyhow::Result<String> {
    let weights = file_digest(Path::new(&spec.weights))?;
    let kind = if device == Device::Cpu { "" } else { " gpu" };
    let settings = format!("{weights} {:?} {:?}{kind}", spec.activation, spec.heads);
    Ok(format!("{:x}", Sha256::digest(settings)))
}

fn encode(spec: &TextTowerSpec, prompts: &[&TokenIds], device: Device, store: &mut Store) -> anyhow::Result<()> {
    let path = &spec.weights;
    let file = File::open(path).and_then(|file| map_bundle_file(&file));
    let file = file.with_context(|| format!("{path}: cannot be read"))?;
    let tower = TextTower::load(spec, Weights::parse(path, &file, device, Kind::Float)?)?;
    let bar = progress::count("prompts", prompts.len() as u64);
    let batch = if device == Device::Cpu { 1 } else { GPU_BATCH };
    for part in prompts.chunks(FLUSH) {
        let mut records = Vec::with_capacity(part.len());
        for batch in part.chunks(batch) {
            let rows = tower.forward(batch)?.f_to_device(Device::Cpu)?;
            for (row, ids) in batch.iter().enumerate() {
                let values = Vec::<f32>::try_from(rows.f_get(row as i64)?)?;
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(anyhow!("{path}: text tower {} gives no finite numbers", spec.name));
                }
                records.push((*ids, values));
            }
            bar.inc(batch.len() as u64);
        }
        store.append(records)?;
    }
    bar.finish_and_clear();
    Ok(())
}
