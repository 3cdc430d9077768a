//! Made-up networks as safetensors. One tensor at a time is in memory.

use std::borrow::Cow;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use half::f16;
use indicatif::ProgressBar;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensorError, View, serialize_to_file};

use crate::train::hash_init;
use crate::train::networks::{Entry, Network};

/// One file of weights.
pub(super) struct Weights {
    /// Name in the bundle.
    pub(super) file: String,
    /// What stands before the tensors' keys when their values are generated.
    pub(super) module: String,
    /// What stands before the keys in the file.
    pub(super) prefix: &'static str,
    pub(super) network: Network,
    /// How floating-point tensors are stored: F32 or F16.
    pub(super) dtype: Dtype,
}

impl Weights {
    /// Length of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.network.0.iter().map(|entry| length(entry, self.dtype_of(entry)) as u64).sum()
    }

    pub(super) fn write(&self, directory: &Path, seed: u64, bar: &ProgressBar) -> Result<(), SafeTensorError> {
        let tensors = self.network.0.iter().map(|entry| {
            let key = format!("{}{}", self.prefix, entry.key);
            (key, Lazy { entry, module: &self.module, dtype: self.dtype_of(entry), seed, bar })
        });
        let path = directory.join(&self.file);
        serialize_to_file(tensors, None, &path)?;
        // The writer leaves the file to its owner alone, but a bundle is served by somebody else.
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o644))?)
    }

    fn dtype_of(&self, entry: &Entry) -> Dtype {
        if entry.counter { Dtype::I64 } else { self.dtype }
    }
}

/// A tensor that is generated when the writer comes to it.
struct Lazy<'a> {
    entry: &'a Entry,
    module: &'a str,
    dtype: Dtype,
    seed: u64,
    bar: &'a ProgressBar,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bar.inc(self.data_len() as u64);
        if self.entry.counter {
            return Cow::Owned(vec![0; self.data_len()]);
        }
        let values = hash_init::values(self.module, &self.entry.key, &self.entry.shape, self.seed);
        let mut bytes = vec![0; self.data_len()];
        match self.dtype {
            Dtype::F16 => store(&mut bytes, &values, |value| f16::from_f32(value).to_le_bytes()),
            _ => store(&mut bytes, &values, f32::to_le_bytes),
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        length(self.entry, self.dtype)
    }
}

/// `values` one after the other in `bytes`.
fn store<const N: usize>(bytes: &mut [u8], values: &[f32], of: impl Fn(f32) -> [u8; N] + Sync) {
    bytes.par_chunks_mut(N << 18).zip(values.par_chunks(1 << 18)).for_each(|(bytes, values)| {
        for (bytes, &value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = of(value);
        }
    });
}

/// In bytes.
fn length(entry: &Entry, dtype: Dtype) -> usize {
    entry.shape.iter().product::<usize>() * dtype.bitsize() / 8
}
