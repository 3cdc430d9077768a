//! The tensors of a network that learns.
//!
//! Training has no networks of its own: for every step one is loaded from its parameters, as serving loads it from a
//! file. Folding, stacking and casting are then part of autograd's graph, and gradients arrive at the parameters as the
//! checkpoint names them. Measured on the largest backbone this costs less than 1 % of a step.

mod adopt;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::{Device, Kind, Tensor};

pub use self::adopt::Adopted;
use super::weights::{parse_file, stored_kind};
use super::{ModelError, Weights};

/// What batch norms keep beside their parameters.
const BUFFERS: [&str; 2] = ["running_mean", "running_var"];

/// Tensors of one network by upstream's keys, in f32, on one device: leaves of autograd's graph that learn, and buffers
/// (running means and variances of batch norms), which training updates in place.
pub struct Parameters {
    file: String,
    tensors: BTreeMap<String, Tensor>,
    device: Device,
    used: RefCell<BTreeSet<String>>,
}

impl Parameters {
    /// All floating-point tensors of a safetensors file; counters are left aside. `file` is the name that errors carry.
    pub fn read(file: &str, bytes: &[u8], device: Device) -> Result<Self, ModelError> {
        let stored = read_floats(file, bytes, device)?;
        Self::new(file, stored, device)
    }

    /// From tensors by key, whose values are taken over in f32.
    pub fn new(
        file: &str,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        device: Device,
    ) -> Result<Self, ModelError> {
        let leaf = |(key, tensor): (String, Tensor)| -> Result<_, ModelError> {
            let tensor = tensor.f_detach()?.f_to_device(device)?.f_to_kind(Kind::Float)?.f_contiguous()?;
            let tensor = tensor.f_set_requires_grad(!is_buffer(&key))?;
            Ok((key, tensor))
        };
        let tensors = tensors.into_iter().map(leaf).collect::<Result<_, _>>()?;
        Ok(Self { file: file.to_owned(), tensors, device, used: RefCell::default() })
    }

    /// What a network in training form is loaded from: gradients flow back to the parameters, batch norms use the
    /// batch's statistics and update the buffers. `kind` is the format that the network computes in; the parameters,
    /// their gradients and the buffers stay in f32.
    pub fn weights(&self, kind: Kind) -> Weights<'_> {
        Weights::of_parameters(self, kind, true)
    }

    /// What the same network is loaded from as it is served: nothing is recorded, running statistics are used. It may
    /// share memory with the parameters: load it anew after they have changed.
    pub fn inference_weights(&self, kind: Kind) -> Weights<'_> {
        Weights::of_parameters(self, kind, false)
    }

    /// What learns, by key and in its order.
    pub fn learnable(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().filter(|(key, _)| !is_buffer(key))
    }

    /// What training keeps without a gradient, by key and in its order.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().filter(|(key, _)| is_buffer(key))
    }

    /// The device that the tensors are on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Number of numbers that learn.
    pub fn count(&self) -> usize {
        self.learnable().map(|(_, tensor)| tensor.numel()).sum()
    }

    /// Drops what no network has taken since these parameters were made (a classifier, another network's parts), and
    /// gives its keys.
    pub fn retain_used(&mut self) -> Vec<String> {
        let used = self.used.borrow();
        let unused: Vec<String> = self.tensors.keys().filter(|key| !used.contains(*key)).cloned().collect();
        drop(used);
        for key in &unused {
            self.tensors.remove(key);
        }
        unused
    }

    /// A safetensors file of all tensors in f32, under the same keys: what [`read`](Self::read) reads and bundles hold.
    pub fn serialise(&self) -> Result<Vec<u8>, ModelError> {
        serialise(&self.file, self.iter())
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    /// As [`get`](Self::get), and remembers that a network needs the tensor.
    pub(super) fn take(&self, key: &str) -> Option<Tensor> {
        let tensor = self.tensors.get(key)?;
        if !self.used.borrow().contains(key) {
            self.used.borrow_mut().insert(key.to_owned());
        }
        Some(tensor.shallow_clone())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor))
    }
}

/// A safetensors file of `tensors` in f32.
pub(crate) fn serialise<'a>(
    file: &str,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<u8>, ModelError> {
    let failed = |problem: String| ModelError::File { file: file.to_owned(), problem };
    let mut stored = Vec::new();
    for (key, tensor) in tensors {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut bytes = vec![0; tensor.numel() * size_of::<f32>()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape: Vec<usize> = tensor.size().iter().map(|&side| side.unsigned_abs() as usize).collect();
        stored.push((key, shape, bytes));
    }
    let views = stored.iter().map(|(key, shape, bytes)| Ok((*key, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views: Vec<_> =
        views.collect::<Result<_, safetensors::SafeTensorError>>().map_err(|e| failed(e.to_string()))?;
    safetensors::serialize(views, None).map_err(|error| failed(format!("cannot be written: {error}")))
}

/// Every floating-point tensor of a safetensors file, in f32.
fn read_floats(file: &str, bytes: &[u8], device: Device) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let parsed = parse_file(file, bytes)?;
    let mut tensors = BTreeMap::new();
    for (key, view) in parsed.iter() {
        let Ok(kind) = stored_kind(&view) else { continue };
        let shape: Vec<i64> = view.shape().iter().map(|&side| i64::try_from(side).unwrap_or(i64::MAX)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?;
        tensors.insert(key.to_owned(), tensor.f_to_device(device)?.f_to_kind(Kind::Float)?);
    }
    Ok(tensors)
}

fn is_buffer(key: &str) -> bool {
    BUFFERS.contains(&key.rsplit('.').next().unwrap_or(key))
}
