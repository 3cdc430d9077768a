//! The tensors of one safetensors file, handed out by key with their shapes checked.

use std::collections::BTreeSet;

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

use super::{BundleFile, ModelError};

/// One safetensors file. Tensors are converted one at a time as they are taken, so that a file is never twice in
/// memory; what was taken is recorded, so that surplus keys can be refused.
///
/// Tensors are taken in f32 whatever the file holds, so that folding one into another loses nothing; [`cast`] then
/// brings the result to the network's number format.
///
/// [`cast`]: Self::cast
pub struct Weights<'a> {
    file: &'a str,
    tensors: SafeTensors<'a>,
    prefix: String,
    taken: BTreeSet<String>,
    device: Device,
    kind: Kind,
}

impl<'a> Weights<'a> {
    /// Reads the header of `bytes`; `file` is the name that errors carry. Tensors will be made on `device`; the
    /// network computes in `kind`.
    pub fn parse(file: &'a str, bytes: &'a [u8], device: Device, kind: Kind) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| ModelError::File {
            file: file.to_owned(),
            problem: format!("not a safetensors file: {error}"),
        })?;
        Ok(Self { file, tensors, prefix: String::new(), taken: BTreeSet::new(), device, kind })
    }

    /// As [`parse`](Self::parse), of a bundle's file.
    pub fn of(file: &'a BundleFile, device: Device, kind: Kind) -> Result<Self, ModelError> {
        Self::parse(file.name(), file.bytes(), device, kind)
    }

    /// From now on every key is looked up with `prefix` before it.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix = prefix.to_owned();
    }

    /// The device that tensors are made on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The network's number format.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether there is a tensor `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.tensors.tensor(&self.full(key)).is_ok()
    }

    /// Whether there are tensors whose keys start with `path`.
    pub fn contains_under(&self, path: &str) -> bool {
        let start = self.full(path);
        self.tensors.names().into_iter().any(|key| key.starts_with(&start))
    }

    /// One more than the greatest n of all keys `path.n.…`: the depth of a list of layers. Gaps come to light when the
    /// layers are taken.
    pub fn count(&self, path: &str) -> usize {
        let start = self.full(path);
        let index = |key: &str| key.strip_prefix(&start)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        self.tensors.names().into_iter().filter_map(index).max().map_or(0, |last| last.saturating_add(1))
    }

    /// Takes `key` in f32, which must have `shape`; -1 there stands for any length but 0.
    pub fn take(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let full = self.full(key);
        let view = self.tensors.tensor(&full).map_err(|_| self.missing(key, &format!(" of shape {}", show(shape))))?;
        let found: Vec<i64> = view.shape().iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
        let fits = found.len() == shape.len()
            && found.iter().zip(shape).all(|(&have, &want)| if want < 0 { have > 0 } else { have == want });
        if !fits {
            return Err(self.wrong(key, format!("has shape {}, expected {}", show(&found), show(shape))));
        }
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            other => return Err(self.wrong(key, format!("has type {other:?}, expected F32, F16, BF16 or F64"))),
        };
        let tensor = Tensor::f_from_data_size(view.data(), &found, kind)?;
        let tensor = tensor.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        self.taken.insert(full);
        Ok(tensor)
    }

    /// `tensor` in the network's number format.
    pub fn cast(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        tensor.f_to_kind(self.kind)
    }

    /// Refuses keys that nobody took, except those for which `ignored` holds (classifiers, buffers: the network's
    /// author says which).
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let surplus = self.tensors.names().into_iter().find(|key| !self.taken.contains(*key) && !ignored(key));
        match surplus {
            Some(key) => Err(ModelError::Tensor {
                file: self.file.to_owned(),
                key: key.to_owned(),
                problem: "is not part of this network".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, problem: String) -> ModelError {
        ModelError::Tensor { file: self.file.to_owned(), key: self.full(key), problem }
    }

    fn missing(&self, key: &str, expectation: &str) -> ModelError {
        self.wrong(key, format!("is missing; a tensor{expectation} is expected"))
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn show(shape: &[i64]) -> String {
    let sides: Vec<String> = shape.iter().map(|&n| if n < 0 { "any".to_owned() } else { n.to_string() }).collect();
    format!("[{}]", sides.join(", "))
}
