//! Values between this process's memory and a device's.

use std::ffi::{c_char, c_void};

use tch::{Device, Kind, TchError, Tensor};

use super::torch::checked;

unsafe extern "C" {
    fn pcqa_pin(tensor: *mut c_void) -> *mut c_char;
    fn pcqa_copy(to: *mut c_void, from: *mut c_void) -> *mut c_char;
}

/// Moves a tensor to memory from which a CUDA device reads without the processor's help.
///
/// # Errors
/// Those of libtorch; CUDA is not there. The tensor stays where it is.
pub fn pin(tensor: &mut Tensor) -> Result<(), TchError> {
    super::cuda().map_err(|problem| TchError::Torch(problem.to_owned()))?;
    // SAFETY: tch's pointer is one to an at::Tensor, which is ours to change.
    checked(unsafe { pcqa_pin(tensor.as_mut_ptr().cast()) })
}

/// Copies values from one tensor to another of the same shape. Between [pinned](pin) memory and a CUDA device, and on
/// one, it only asks for it: until the device was [waited for](wait_for), `from` must not change and `to` not be read.
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
pub fn uploaded(mut tensor: Tensor, device: Device) -> Result<Tensor, TchError> {
    if device == Device::Cpu {
        return Ok(tensor);
    }
    pin(&mut tensor)?;
    let mut there = Tensor::f_empty(tensor.size(), (tensor.kind(), device))?;
    copy(&mut there, &tensor)?;
    Ok(there)
}

/// `tensor` in this process's memory. A CUDA device is only asked for it: there are no values before it has been waited
/// for.
///
/// # Errors
/// Those of libtorch.
pub fn downloaded(tensor: Tensor) -> Result<Tensor, TchError> {
    if tensor.device() == Device::Cpu {
        return Ok(tensor);
    }
    let mut here = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
    pin(&mut here)?;
    copy(&mut here, &tensor)?;
    Ok(here)
}

/// The bytes of a tensor in this process's memory: u8, contiguous. None of any other.
pub fn bytes_mut(tensor: &mut Tensor) -> Option<&mut [u8]> {
    let fits = tensor.kind() == Kind::Uint8 && tensor.device() == Device::Cpu && tensor.is_contiguous();
    let start = tensor.data_ptr().cast::<u8>();
    if !fits || start.is_null() {
        return None;
    }
    // SAFETY: a contiguous tensor of u8 has `numel` bytes from `data_ptr` on, which live as long as it. Other tensors
    // that share its storage are read by libtorch's operations alone, and the callers run none while they write.
    Some(unsafe { std::slice::from_raw_parts_mut(start, tensor.numel()) })
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
        let (there, here) = (uploaded(values.shallow_clone(), Device::Cpu), downloaded(values.shallow_clone()));
        for brought in [there, here] {
            assert_eq!(brought.unwrap().data_ptr(), values.data_ptr());
        }
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
