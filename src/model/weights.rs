//! The tensors of one network, handed out by key with their shapes checked.

use std::collections::BTreeSet;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

use super::{BundleFile, ModelError, Parameters};
use crate::native;

/// The tensors of one safetensors file, or the [`Parameters`] of a network that learns. Those of a file are converted
/// one at a time as they are taken, so that a file is never twice in memory; what was taken is recorded, so that surplus
/// keys can be refused.
///
/// Tensors are taken in f32 whatever the file holds, so that folding one into another loses nothing; [`cast`] then
/// brings the result to the network's number format. Gradients flow back through both.
///
/// [`cast`]: Self::cast
pub struct Weights<'a> {
    file: &'a str,
    source: Source<'a>,
    prefix: String,
    taken: BTreeSet<String>,
    device: Device,
    kind: Kind,
}

/// Where tensors come from.
enum Source<'a> {
    /// With the file that its bytes are mapped from, if they are.
    File(SafeTensors<'a>, Option<&'a BundleFile>),
    /// Leaves of autograd's graph; buffers are updated in place.
    Learning(&'a Parameters),
    /// The same tensors, of which autograd knows nothing.
    Learnt(&'a Parameters),
}

impl<'a> Weights<'a> {
    /// Reads the header of `bytes`; `file` is the name that errors carry. Tensors will be made on `device`; the
    /// network computes in `kind`.
    pub fn parse(file: &'a str, bytes: &'a [u8], device: Device, kind: Kind) -> Result<Self, ModelError> {
        Self::of_file(file, bytes, None, device, kind)
    }

    /// As [`parse`](Self::parse), of a bundle's file, which leaves memory as its tensors are taken.
    pub fn of(file: &'a BundleFile, device: Device, kind: Kind) -> Result<Self, ModelError> {
        Self::of_file(file.name(), file.bytes(), Some(file), device, kind)
    }

    fn of_file(
        name: &'a str,
        bytes: &'a [u8],
        file: Option<&'a BundleFile>,
        device: Device,
        kind: Kind,
    ) -> Result<Self, ModelError> {
        let source = Source::File(parse_file(name, bytes)?, file);
        Ok(Self { file: name, source, prefix: String::new(), taken: BTreeSet::new(), device, kind })
    }

    /// The parameters of a network that learns: in training form, or in inference form and out of autograd's sight.
    pub(super) fn of_parameters(parameters: &'a Parameters, kind: Kind, training: bool) -> Self {
        let source = if training { Source::Learning(parameters) } else { Source::Learnt(parameters) };
        let (file, device) = (parameters.file(), parameters.device());
        Self { file, source, prefix: String::new(), taken: BTreeSet::new(), device, kind }
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

    /// Whether the network is to learn: batch norms use the batch's own statistics and keep running ones.
    pub fn training(&self) -> bool {
        matches!(self.source, Source::Learning(_))
    }

    /// Whether there is a tensor `key`.
    pub fn contains(&self, key: &str) -> bool {
        let key = self.full(key);
        match &self.source {
            Source::File(tensors, _) => tensors.tensor(&key).is_ok(),
            Source::Learning(parameters) | Source::Learnt(parameters) => parameters.get(&key).is_some(),
        }
    }

    /// Whether there are tensors whose keys start with `path`.
    pub fn contains_under(&self, path: &str) -> bool {
        let start = self.full(path);
        self.names().into_iter().any(|key| key.starts_with(&start))
    }

    /// One more than the greatest n of all keys `path.n.…`: the depth of a list of layers. Gaps come to light when the
    /// layers are taken.
    pub fn count(&self, path: &str) -> usize {
        let start = self.full(path);
        let index = |key: &str| key.strip_prefix(&start)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        self.names().into_iter().filter_map(index).max().map_or(0, |last| last.saturating_add(1))
    }

    /// Takes `key` in f32, which must have `shape`; -1 there stands for any length but 0.
    pub fn take(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        self.take_in(Kind::Float, key, shape)
    }

    /// As [`take`](Self::take) and then [`cast`](Self::cast), without the tensor in between.
    pub fn take_cast(&mut self, key: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        self.take_in(self.kind, key, shape)
    }

    fn take_in(&mut self, kind: Kind, key: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let full = self.full(key);
        let missing = || self.missing(key, &format!(" of shape {}", show(shape)));
        let tensor = match &self.source {
            Source::File(tensors, file) => {
                let view = tensors.tensor(&full).map_err(|_| missing())?;
                let found: Vec<i64> = view.shape().iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
                self.check_shape(key, &found, shape)?;
                let stored = stored_kind(&view).map_err(|problem| self.wrong(key, problem))?;
                let tensor = native::tensor(view.data(), stored, &found, kind, self.device)?;
                if let Some(file) = file {
                    file.let_go(view.data());
                }
                tensor
            }
            Source::Learning(parameters) | Source::Learnt(parameters) => {
                let tensor = parameters.take(&full).ok_or_else(missing)?;
                self.check_shape(key, &tensor.size(), shape)?;
                let tensor = if self.training() { tensor } else { tensor.f_detach()? };
                tensor.f_to_kind(kind)?
            }
        };
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
        let surplus = self.names().into_iter().find(|key| !self.taken.contains(*key) && !ignored(key));
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

    fn names(&self) -> Vec<&str> {
        match &self.source {
            Source::File(tensors, _) => tensors.names(),
            Source::Learning(parameters) | Source::Learnt(parameters) => parameters.names().collect(),
        }
    }

    fn check_shape(&self, key: &str, found: &[i64], shape: &[i64]) -> Result<(), ModelError> {
        let fits = found.len() == shape.len()
            && found.iter().zip(shape).all(|(&have, &want)| if want < 0 { have > 0 } else { have == want });
        if fits {
            return Ok(());
        }
        Err(self.wrong(key, format!("has shape {}, expected {}", show(found), show(shape))))
    }

    fn missing(&self, key: &str, expectation: &str) -> ModelError {
        self.wrong(key, format!("is missing; a tensor{expectation} is expected"))
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// Reads the header of a safetensors file.
pub(crate) fn parse_file<'a>(file: &str, bytes: &'a [u8]) -> Result<SafeTensors<'a>, ModelError> {
    SafeTensors::deserialize(bytes).map_err(|error| ModelError::File {
        file: file.to_owned(),
        problem: format!("not a safetensors file: {error}"),
    })
}

/// The number format of a stored tensor, or what is wrong with it.
pub(super) fn stored_kind(view: &TensorView) -> Result<Kind, String> {
    match view.dtype() {
        Dtype::F32 => Ok(Kind::Float),
        Dtype::F16 => Ok(Kind::Half),
        Dtype::BF16 => Ok(Kind::BFloat16),
        Dtype::F64 => Ok(Kind::Double),
        other => Err(format!("has type {other:?}, expected F32, F16, BF16 or F64")),
    }
}

/// A shape as errors write it; -1 stands for any length.
pub(super) fn show(shape: &[i64]) -> String {
    let sides: Vec<String> = shape.iter().map(|&n| if n < 0 { "any".to_owned() } else { n.to_string() }).collect();
    format!("[{}]", sides.join(", "))
}
