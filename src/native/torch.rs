//! The calls of `shim.cpp`, made safe.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::null_mut;

use rayon::prelude::*;
use tch::{Device, Kind, TchError, Tensor};

use super::transfer::numbers_mut;

unsafe extern "C" {
    fn pcqa_free(text: *mut c_char);
    fn pcqa_inference_mode_enter(mode: *mut *mut c_void) -> *mut c_char;
    fn pcqa_inference_mode_leave(mode: *mut c_void);
    fn pcqa_exact_arithmetic() -> *mut c_char;
    fn pcqa_own_stream(index: i32) -> *mut c_char;
    fn pcqa_wait(index: i32) -> *mut c_char;
    fn pcqa_linear_gelu(x: *mut c_void, weight: *mut c_void, bias: *mut c_void, y: *mut *mut c_void) -> *mut c_char;
    fn pcqa_norm(tensors: *mut *mut c_void, count: usize, norm: *mut f64) -> *mut c_char;
    fn pcqa_adamw(
        parameters: *mut *mut c_void,
        gradients: *mut *mut c_void,
        means: *mut *mut c_void,
        squares: *mut *mut c_void,
        count: usize,
        steps: *mut c_void,
        factor: f64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
    fn pcqa_empty_cache() -> *mut c_char;
    fn pcqa_memory(index: i32, bytes: *mut i64) -> *mut c_char;
}

/// What a call of the shims gave: nothing, or a text that is now ours.
pub(super) fn checked(error: *mut c_char) -> Result<(), TchError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the shims give texts that end in zero, made by strdup and given to nobody else.
    let text = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
    // SAFETY: as above; it is not used after this.
    unsafe { pcqa_free(error) };
    Err(TchError::Torch(text))
}

/// The CUDA device of this index as the shims take it.
pub(super) fn index(device: usize) -> Result<i32, TchError> {
    // libtorch's own type for it is i8.
    i8::try_from(device).map(i32::from).map_err(|_| TchError::Torch(format!("there is no device cuda:{device}")))
}

/// The index of a CUDA device, where the CUDA part of libtorch is there to be asked.
pub(super) fn cuda_index(device: Device) -> Result<Option<i32>, TchError> {
    match device {
        Device::Cuda(device) => {
            super::cuda().map_err(|problem| TchError::Torch(problem.to_owned()))?;
            index(device).map(Some)
        }
        _ => Ok(None),
    }
}

/// As long as it lives, the tensors that its thread makes know nothing of autograd, which makes every operation a little
/// cheaper. They can never be part of a graph of gradients.
#[derive(Debug)]
pub struct InferenceMode {
    mode: *mut c_void,
    /// The mode is the thread's.
    _not_send: PhantomData<*const ()>,
}

impl InferenceMode {
    /// Begins it on this thread.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn enter() -> Result<Self, TchError> {
        let mut mode = null_mut();
        // SAFETY: writes one pointer, which stays ours.
        checked(unsafe { pcqa_inference_mode_enter(&mut mode) })?;
        Ok(Self { mode, _not_send: PhantomData })
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by `enter` on this same thread, and left once.
        unsafe { pcqa_inference_mode_leave(self.mode) };
    }
}

/// From now on f32 means IEEE single precision on GPUs too, never TF32, and sums of bf16 products are kept in f32.
///
/// # Errors
/// Those of libtorch.
pub fn exact_arithmetic() -> Result<(), TchError> {
    // SAFETY: sets fields of libtorch's global state, as any of its users may.
    checked(unsafe { pcqa_exact_arithmetic() })
}

/// Gives this thread a stream of its own on a CUDA device, which it uses from now on; nothing on others.
///
/// # Errors
/// Those of libtorch; CUDA is not there.
pub fn own_stream(device: Device) -> Result<(), TchError> {
    match cuda_index(device)? {
        // SAFETY: the stream is one of libtorch's own, which it never frees.
        Some(index) => checked(unsafe { pcqa_own_stream(index) }),
        None => Ok(()),
    }
}

/// Returns when a CUDA device has done what this thread asked of it; at once on others.
///
/// # Errors
/// What went wrong on the device since it was asked last; CUDA is not there.
pub fn wait_for(device: Device) -> Result<(), TchError> {
    match cuda_index(device)? {
        // SAFETY: only waits.
        Some(index) => checked(unsafe { pcqa_wait(index) }),
        None => Ok(()),
    }
}

/// The numbers of `stored` that `bytes` hold, as a tensor of this shape, format and device. Nothing is copied in between,
/// as it would be by making a tensor of the bytes first.
///
/// # Errors
/// Those of libtorch; the bytes are not as many as the shape has.
pub fn tensor(bytes: &[u8], stored: Kind, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor, TchError> {
    let width = stored.elt_size_in_bytes();
    let needed = shape.iter().try_fold(width, |bytes, &side| bytes.checked_mul(usize::try_from(side).ok()?));
    if needed != Some(bytes.len()) {
        return Err(TchError::Shape(format!("{} bytes are no tensor of {shape:?} in {stored:?}", bytes.len())));
    }
    if !bytes.as_ptr().addr().is_multiple_of(width) {
        return Tensor::f_from_data_size(bytes, shape, stored)?.f_to_device(device)?.f_to_kind(kind);
    }
    if device == Device::Cpu {
        return converted(bytes, stored, shape, kind);
    }
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // SAFETY: aligned, as many as the shape and its strides reach, and only read. The view ends with this function, and
    // what is made of it is on another device.
    let view = unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &strides, stored, Device::Cpu) }?;
    view.f_to_device(device)?.f_to_kind(kind)
}

/// As [`tensor`], on the CPU, of bytes that are aligned and as many as the shape has.
fn converted(bytes: &[u8], stored: Kind, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    // Less than libtorch shares among threads: its threads wait for each other after every tensor, and spin meanwhile,
    // which costs more than they win wherever the check of the bundle's files, or another program, wants a core.
    const PIECE: usize = 32_704;
    let mut made = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    if bytes.is_empty() {
        return Ok(made);
    }
    let Some(into) = numbers_mut(&mut made) else {
        return Err(TchError::Torch(format!("a tensor of {shape:?} in {kind:?} has no memory")));
    };
    let (from_width, into_width) = (stored.elt_size_in_bytes(), kind.elt_size_in_bytes());
    let piece = |(into, from): (&mut [u8], &[u8])| -> Result<(), TchError> {
        let count = [(from.len() / from_width) as i64];
        // SAFETY: as many numbers as there are, aligned since pieces are of a whole number of them, and only read; the
        // view ends with this function.
        let from = unsafe { Tensor::f_from_blob(from.as_ptr(), &count, &[1], stored, Device::Cpu) }?;
        // SAFETY: as above; written by nobody else, since pieces do not overlap.
        let mut into = unsafe { Tensor::f_from_blob(into.as_mut_ptr(), &count, &[1], kind, Device::Cpu) }?;
        match (stored, kind) {
            // libtorch's way from one to the other takes values one by one, its ways from and to f32 do not.
            (Kind::Half, Kind::BFloat16) | (Kind::BFloat16, Kind::Half) => {
                into.f_copy_(&from.f_to_kind(Kind::Float)?)?
            }
            _ => into.f_copy_(&from)?,
        };
        Ok(())
    };
    into.par_chunks_mut(PIECE * into_width).zip(bytes.par_chunks(PIECE * from_width)).try_for_each(piece)?;
    Ok(made)
}

/// GELU(x Wᵀ + b) of `x` `[rows, inputs]` as one operation. On a GPU it is the GELU approximated by tanh.
///
/// # Errors
/// Those of libtorch.
pub fn linear_gelu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, TchError> {
    let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.as_ptr().cast_mut().cast());
    let mut y = null_mut();
    // SAFETY: tch's pointers are ones to at::Tensor, of which nothing is changed; writes one pointer.
    checked(unsafe { pcqa_linear_gelu(x, weight, bias, &mut y) })?;
    // SAFETY: made by `new at::Tensor` and nobody's but ours.
    Ok(unsafe { Tensor::from_ptr(y.cast()) })
}

/// The global norm of `tensors`, which are on one device, in one look at it.
///
/// # Errors
/// Those of libtorch.
pub fn norm(tensors: &[&Tensor]) -> Result<f64, TchError> {
    let (mut pointers, mut norm) = (pointers(tensors), 0.0);
    // SAFETY: as many of tch's pointers to at::Tensor as it is told, of which nothing is changed; writes one number.
    checked(unsafe { pcqa_norm(pointers.as_mut_ptr(), tensors.len(), &mut norm) })?;
    Ok(norm)
}

/// What [`adamw`] is told.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Number of this step, from 1.
    pub steps: u64,
    /// Learning rate.
    pub rate: f64,
    /// What gradients are multiplied by.
    pub factor: f64,
    /// Decay of the running means of gradients and of their squares.
    pub betas: [f64; 2],
    /// Share of a parameter that goes away, times the learning rate.
    pub weight_decay: f64,
    /// Added to the denominator.
    pub eps: f64,
}

/// One step of AdamW over parameters, each with its gradient and its two running means, in f32 on one device: libtorch's
/// fused one, a few operations for all of them. Gradients stay as they are.
///
/// # Errors
/// Those of libtorch.
pub fn adamw(slots: &[[&Tensor; 4]], step: AdamWStep) -> Result<(), TchError> {
    let Some([first, ..]) = slots.first() else { return Ok(()) };
    let each = |place: usize| pointers(&slots.iter().map(|slot| slot[place]).collect::<Vec<_>>());
    let [mut parameters, mut gradients, mut means, mut squares] = [each(0), each(1), each(2), each(3)];
    let steps = Tensor::f_full([], step.steps as f64, (Kind::Float, first.device()))?;
    let [beta1, beta2] = step.betas;
    // SAFETY: four times as many of tch's pointers to at::Tensor as it is told; the slots are borrowed as long as it takes
    // to ask for the step, and tensors that share memory with them are read by libtorch's operations alone.
    checked(unsafe {
        pcqa_adamw(
            parameters.as_mut_ptr(),
            gradients.as_mut_ptr(),
            means.as_mut_ptr(),
            squares.as_mut_ptr(),
            slots.len(),
            steps.as_ptr().cast_mut().cast(),
            step.factor,
            step.rate,
            beta1,
            beta2,
            step.weight_decay,
            step.eps,
        )
    })
}

/// As the shim takes them.
fn pointers(tensors: &[&Tensor]) -> Vec<*mut c_void> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut().cast()).collect()
}

/// Gives memory that no tensor holds back to the CUDA devices.
///
/// # Errors
/// Those of libtorch; CUDA is not there.
pub fn empty_cache() -> Result<(), TchError> {
    super::cuda().map_err(|problem| TchError::Torch(problem.to_owned()))?;
    // SAFETY: frees what libtorch keeps for later and nobody uses.
    checked(unsafe { pcqa_empty_cache() })
}

/// Memory of a CUDA device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Held by this process's tensors.
    pub allocated: u64,
    /// Held by this process.
    pub reserved: u64,
    /// Held by nobody.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// Memory of a CUDA device; none of others.
///
/// # Errors
/// Those of libtorch; CUDA is not there.
pub fn memory(device: Device) -> Result<Option<DeviceMemory>, TchError> {
    let Some(index) = cuda_index(device)? else { return Ok(None) };
    let mut bytes = [0i64; 4];
    // SAFETY: writes four numbers.
    checked(unsafe { pcqa_memory(index, bytes.as_mut_ptr()) })?;
    let [allocated, reserved, free, total] = bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(Some(DeviceMemory { allocated, reserved, free, total }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_what_libtorch_makes_of_them() {
        // More than two pieces, and the last one is shorter.
        for shape in [vec![], vec![0, 4], vec![3, 32_704, 1], vec![33_000, 3]] {
            for stored in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
                let numbers = Tensor::randn(&shape, (Kind::Float, Device::Cpu)).to_kind(stored);
                let mut bytes = vec![0; 8 + numbers.numel() * stored.elt_size_in_bytes()];
                for start in [0, 1] {
                    let bytes = &mut bytes[start..start + numbers.numel() * stored.elt_size_in_bytes()];
                    numbers.copy_data_u8(bytes, numbers.numel());
                    for kind in [Kind::Half, Kind::BFloat16, Kind::Float] {
                        let made = tensor(bytes, stored, &shape, kind, Device::Cpu).unwrap();
                        assert_eq!(made, numbers.to_kind(kind), "{stored:?} {kind:?} {shape:?}");
                    }
                }
            }
        }
        assert!(tensor(&[0; 7], Kind::Float, &[2], Kind::Float, Device::Cpu).is_err());
    }

    #[test]
    fn in_inference_mode_nothing_is_tracked_and_outside_it_is() {
        let leaf = || Tensor::zeros([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight = leaf();
        let mode = InferenceMode::enter().unwrap();
        assert!(!(&weight * 2.0).requires_grad());
        drop(mode);
        assert!((&weight * 2.0).requires_grad());
    }

    #[test]
    fn what_was_made_in_inference_mode_never_learns() {
        let made = {
            let _mode = InferenceMode::enter().unwrap();
            Tensor::ones([2], (Kind::Float, Device::Cpu)) * 2.0
        };
        let weight = Tensor::zeros([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let refused = weight.f_mul(&made).map(|_| ()).unwrap_err().to_string();
        assert!(refused.to_lowercase().contains("inference tensors"), "{refused}");
    }

    #[test]
    fn exact_arithmetic_can_be_asked_for_without_a_gpu() {
        exact_arithmetic().unwrap();
        exact_arithmetic().unwrap();
    }

    #[test]
    fn the_cpu_has_neither_streams_nor_memory_of_its_own() {
        own_stream(Device::Cpu).unwrap();
        wait_for(Device::Cpu).unwrap();
        assert_eq!(memory(Device::Cpu).unwrap(), None);
    }
}
