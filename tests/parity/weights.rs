//! Weights and pictures, generated.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;
use pcqa::native;
use pcqa::train::hash_init;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use tempfile::TempDir;

/// Where files of weights lie until the program ends.
pub struct Folder {
    directory: TempDir,
    seed: u64,
}

impl Folder {
    /// On the disk that holds what is built: 5 GB.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        Ok(Self { directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?, seed })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes `file`, whose module is its name without the ending; one tensor at a time is in memory.
    pub fn write(&self, file: &str, prefix: &str, tensors: &BTreeMap<String, Vec<usize>>) -> anyhow::Result<()> {
        let module = file.trim_end_matches(".safetensors");
        let lazy =
            tensors.iter().map(|(key, shape)| (format!("{prefix}{key}"), Lazy { module, key, shape, seed: self.seed }));
        Ok(serialize_to_file(lazy, None, &self.path().join(file))?)
    }

    pub fn map(&self, file: &str) -> anyhow::Result<Mmap> {
        Ok(native::map_bundle_file(&File::open(self.path().join(file))?)?)
    }

    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.path().join(file))?)
    }
}

struct Lazy<'a> {
    module: &'a str,
    key: &'a str,
    shape: &'a [usize],
    seed: u64,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = hash_init::values(self.module, self.key, self.shape, self.seed);
        Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// `side * side * 3` bytes of integer gradients and 5 bits of noise; the generator script has the same.
pub fn picture(name: &str, side: u32) -> Vec<u8> {
    let at = (0..side).flat_map(|y| (0..side).flat_map(move |x| (0..3).map(move |c| (y, x, c))));
    let gradients = at.map(|(y, x, c)| ((x * (c + 1) * 256) / side + (y * (3 - c) * 256) / side) >> 1);
    gradients.zip(hash_init::bits(name, 0)).map(|(gradient, noise)| (gradient + (noise & 31)) as u8).collect()
}
