//! Values between this process's memory and a device's.

use std::ffi::{c_char, c_void};
use std::ops::{Deref, DerefMut};
use std::sync::Once;

use tch::{Device, Kind, TchError, Tensor};

use super::torch::{checked, cuda_index};

unsafe extern "C" {
    fn pcqa_is_alive(index: i32) -> *mut c_char;
    fn pcqa_pin(tensor: *mut c_void) -> *mut c_char;
    fn pcqa_copy(to: *mut c_void, from: *mut c_void) -> *mut c_char;
}

/// A tensor in pinned memory, where a CUDA device reads and writes without the processor's help; for other devices, in
/// any.
#[derive(Debug)]
pub struct Pinned {
    tensor: Tensor,
    device: Device,
}

impl Pinned {
    /// Moves `tensor` there. Where there is no such memory to be had it stays where it is: copies take longer.
    pub fn new(mut tensor: Tensor, device: Device) -> Self {
        static WARNED: Once = Once::new();
        if let Err(error) = pin(&mut tensor, device) {
            WARNED
                .call_once(|| tracing::warn!(%error, "copies between memory and a GPU take longer: it is not pinned"));
        }
        Self { tensor, device }
    }
}

impl Deref for Pinned {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
}

impl Drop for Pinned {
    /// libtorch asks the device when it has last used the memory, and ends the process where that has failed for good,
    /// before anybody has heard of it: better to lose the memory.
    fn drop(&mut self) {
        if is_alive(self.device).is_err() {
            std::mem::forget(std::mem::replace(&mut self.tensor, Tensor::new()));
        }
    }
}

/// An error where `device` has failed for good.
pub(super) fn is_alive(device: Device) -> Result<(), TchError> {
    match cuda_index(device)? {
        // SAFETY: only asks.
        Some(index) => checked(unsafe { pcqa_is_alive(index) }),
        None => Ok(()),
    }
}

/// Where it fails, the tensor stays where it is.
fn pin(tensor: &mut Tensor, device: Device) -> Result<(), TchError> {
    match cuda_index(device)? {
        // SAFETY: tch's pointer is one to an at::Tensor, which is ours to change.
        Some(_) => checked(unsafe { pcqa_pin(tensor.as_mut_ptr().cast()) }),
        None => Ok(()),
    }
}

/// Copies values from one tensor to another of the same shape. Between [pinned](Pinned) memory and a CUDA device, and
/// on one, it only asks for it: until the device was [waited for](super::wait_for), `from` must not change and `to` not be read.
///
/// # Errors
/// Those of libtorch.
pub fn copy(to: &mut Tensor, from: &Tensor) -> Result<(), TchError> {
    // SAFETY: tch's pointers are ones to at::Tensor; of `from` nothing is changed. libtorch keeps pinned memory, of
    // either, until the copy is done.
    checked(unsafe { pcqa_copy(to.as_mut_ptr().cast(), from.as_ptr().cast_mut().cast()) })
}

/// `tensor`, which is in this process's memory, on `device`. A CUDA device is only asked for it.
///
/// # Errors
/// Those of libtorch; CUDA is not there.
pub fn uploaded(tensor: Tensor, device: Device) -> Result<Tensor, TchError> {
    if device == Device::Cpu {
        return Ok(tensor);
    }
    let from = Pinned::new(tensor, device);
    let mut there = Tensor::f_empty(from.size(), (from.kind(), device))?;
    copy(&mut there, &from)?;
    Ok(there)
}

/// `tensor` in this process's memory. A CUDA device is only asked for it: there are no values before it has been waited
/// for.
///
/// # Errors
/// Those of libtorch.
pub fn downloaded(tensor: Tensor) -> Result<Pinned, TchError> {
    let device = tensor.device();
    if device == Device::Cpu {
        return Ok(Pinned::new(tensor, device));
    }
    let mut here = Pinned::new(Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?, device);
    copy(&mut here, &tensor)?;
    Ok(here)
}

/// The bytes of a tensor in this process's memory: u8, contiguous. None of any other.
pub fn bytes_mut(tensor: &mut Tensor) -> Option<&mut [u8]> {
    if tensor.kind() == Kind::Uint8 { numbers_mut(tensor) } else { None }
}

/// As [`bytes_mut`], of numbers of any format.
pub(super) fn numbers_mut(tensor: &mut Tensor) -> Option<&mut [u8]> {
    let fits = tensor.device() == Device::Cpu && tensor.is_contiguous();
    let (start, bytes) = (tensor.data_ptr().cast::<u8>(), tensor.numel() * tensor.kind().elt_size_in_bytes());
    if !fits || start.is_null() {
        return None;
    }
    // SAFETY: a contiguous tensor has `numel` numbers from `data_ptr` on, which live as long as it. Other tensors that
    // share its storage are read by libtorch's operations alone, and the callers run none while they write.
    Some(unsafe { std::slice::from_raw_parts_mut(start, bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_values() {
        let from = Tensor::from_slice(&[1u8, 2, 3]);
        let mut to = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        copy(&mut to, &from).unwrap();
        assert_eq!(Vec::<f32>::try_from(to).unwrap(), [1.0, 2.0, 3.0]);
        assert!(copy(&mut Tensor::zeros([2], (Kind::Uint8, Device::Cpu)), &from).is_err());
    }

    #[test]
    fn on_the_processor_nothing_has_to_be_brought() {
        let values = Tensor::from_slice(&[1i64, 2]);
        assert_eq!(uploaded(values.shallow_clone(), Device::Cpu).unwrap().data_ptr(), values.data_ptr());
        assert_eq!(downloaded(values.shallow_clone()).unwrap().data_ptr(), values.data_ptr());
    }

    #[test]
    fn memory_outlives_a_device_that_is_gone() {
        if crate::native::load_cuda().is_ok() {
            return;
        }
        let values = Tensor::from_slice(&[1i64, 2]);
        let pinned = Pinned::new(values.shallow_clone(), Device::Cuda(0));
        assert_eq!(pinned.data_ptr(), values.data_ptr(), "it stays where it is");
        drop(pinned);
        assert_eq!(Vec::<i64>::try_from(values).unwrap(), [1, 2]);
    }

    #[test]
    fn only_bytes_in_this_process_s_memory_are_given_out() {
        let mut bytes = Tensor::zeros([2, 3], (Kind::Uint8, Device::Cpu));
        bytes_mut(&mut bytes).unwrap().copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(Vec::<u8>::try_from(bytes.flatten(0, 1)).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert!(bytes_mut(&mut bytes.transpose(0, 1)).is_none());
        assert!(bytes_mut(&mut Tensor::zeros([2], (Kind::Float, Device::Cpu))).is_none());
        assert!(bytes_mut(&mut Tensor::zeros([0], (Kind::Uint8, Device::Cpu))).is_none());
    }
}
