//! A file of weights as others write it: which tensors it holds and where they lie. Values are read when they are asked
//! for, a piece at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::archive;

/// Longest header of a safetensors file in bytes, as the format has it.
const LONGEST_HEADER: u64 = 100_000_000;
/// What DistributedDataParallel and DeepSpeed put before every key.
const WRAPPED: &str = "module.";

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Offset of its first byte.
    pub(super) start: u64,
}

/// An open file of weights.
pub(super) struct Checkpoint {
    file: File,
    tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    /// Reads what the safetensors or PyTorch file at `path` says of its tensors; what it is, its first bytes tell.
    ///
    /// # Errors
    ///
    /// When it is neither, or not whole.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        // Asked before opening, since opening a pipe would wait for its writer.
        ensure!(fs::metadata(path)?.is_file(), "is not a regular file");
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut start = [0; 16];
        let known = read_some(&file, &mut start)?;
        let tensors = match &start[..known] {
            [b'P', b'K', 3, 4, ..] => archive::tensors(&file, length)?,
            [0x80, 2..=5, ..] => bail!(
                "is in PyTorch's format of before 1.6: load it with a newer PyTorch and save its state dict again"
            ),
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => safetensors(&file, length)?,
            text if looks_like_a_page(text) => bail!("is a web page, not weights"),
            text if text.starts_with(b"version https:") => {
                bail!("is a Git LFS pointer, not the file that it points to")
            }
            _ => bail!("is neither a safetensors file nor one that torch.save wrote"),
        };
        Ok(Self { file, tensors: unwrapped(tensors) })
    }

    /// Every key, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor `key`.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The tensor `key`.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub(super) fn tensor(&self, key: &str) -> anyhow::Result<&Stored> {
        self.tensors.get(key).with_context(|| format!("tensor {key}: is missing"))
    }

    /// How many different numbers stand behind `path` in keys `path<number>.…`: the depth of a list of layers. Gaps come
    /// to light when the layers are taken.
    pub(super) fn depth(&self, path: &str) -> usize {
        let index = |key: &str| key.strip_prefix(path)?.split('.').next()?.parse::<usize>().ok();
        self.keys().filter_map(index).collect::<BTreeSet<_>>().len()
    }

    /// Fills `bytes` from the file, beginning `skip` bytes into `tensor`.
    pub(super) fn read(&self, tensor: &Stored, skip: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, tensor.start + skip)
    }
}

fn read_some(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn looks_like_a_page(start: &[u8]) -> bool {
    let start = start.trim_ascii_start().to_ascii_lowercase();
    start.starts_with(b"<!doctype") || start.starts_with(b"<html") || start.starts_with(b"<?xml")
}

fn safetensors(file: &File, length: u64) -> anyhow::Result<BTreeMap<String, Stored>> {
    let mut count = [0; 8];
    file.read_exact_at(&mut count, 0)?;
    let count = u64::from_le_bytes(count);
    ensure!(count <= LONGEST_HEADER && 8 + count <= length, "has a header of {count} bytes in {length}");
    let mut header = vec![0; count as usize];
    file.read_exact_at(&mut header, 8)?;
    // Reading checks that the tensors follow each other and are as long as their shapes say.
    let header: Metadata = serde_json::from_slice(&header).context("has a broken header")?;
    let expected = 8 + count + header.data_len() as u64;
    let what = if length < expected { "not whole" } else { "longer than it was" };
    ensure!(length == expected, "has {length} bytes, expected {expected} by its header: it is {what}");
    let place = |(key, info): (String, &safetensors::tensor::TensorInfo)| {
        let start = 8 + count + info.data_offsets.0 as u64;
        (key, Stored { dtype: info.dtype, shape: info.shape.clone(), start })
    };
    Ok(header.tensors().into_iter().map(place).collect())
}

/// Takes off a prefix that all keys have.
fn unwrapped(tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    if tensors.is_empty() || !tensors.keys().all(|key| key.starts_with(WRAPPED)) {
        return tensors;
    }
    tensors.into_iter().map(|(key, tensor)| (key[WRAPPED.len()..].to_owned(), tensor)).collect()
}
