//! A device made ready to serve, and what its errors mean.

use tch::Device;

use crate::model::{Dtype, LoadOptions, ModelError};
use crate::native;

/// How a device is used to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Most frames of a batch.
    pub max_batch_frames: u32,
    /// Whether a GPU's work is recorded once a batch size, and then asked for in one call.
    pub graphs: bool,
    /// Whether a GPU that computes in bf16 does it with [our own kernels](native::kernels).
    pub kernels: bool,
    /// Most memory that is taken of a GPU, in bytes.
    pub memory_bytes: Option<u64>,
}

/// What an error says about the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the batch may be at fault.
    Batch,
    /// It has not enough memory for so large a batch; what can be given back was.
    Memory,
    /// It will never answer again.
    Lost,
}

/// Makes `device` this thread's. What a GPU can do without only warns.
pub(super) fn prepare(device: Device, memory_bytes: Option<u64>) -> Result<(), ModelError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    if let Err(error) = native::own_stream(device) {
        tracing::warn!(%error, "the GPU is used without a stream of its own");
    }
    if let Err(error) = native::exact_arithmetic() {
        tracing::warn!(%error, "f32 may be computed in TF32");
    }
    if let Some(bytes) = memory_bytes {
        let memory = native::memory(device)?;
        let total = memory.map_or(0, |memory| memory.total).max(1);
        native::memory_cap(index, (bytes as f64 / total as f64).min(1.0))?;
    }
    let unknown = |error: tch::TchError| format!("of unknown name ({error})");
    let name = native::device_name(index).unwrap_or_else(unknown);
    let memory = native::memory(device).ok().flatten();
    let (total, free) = memory.map_or((0, 0), |memory| (memory.total, memory.free));
    tracing::info!(device = index, name, total_bytes = total, free_bytes = free, "GPU");
    Ok(())
}

/// Whether networks that are put on a device like this are served by [our own kernels](native::kernels), which are made
/// ready.
pub(super) fn has_kernels(options: LoadOptions) -> bool {
    if !options.device.is_cuda() || options.dtype != Dtype::Bf16 {
        return false;
    }
    let compiled = native::kernels::compile(options.device);
    compiled.inspect_err(|error| tracing::warn!(%error, "the GPU is used with libtorch's kernels alone")).is_ok()
}

/// What `error` says about `device`, of which unused memory is given back where there was too little.
pub(super) fn diagnose(device: Device, error: &ModelError) -> Fault {
    let ModelError::Device(error) = error else { return Fault::Batch };
    // What was asked of the device may have failed since: the first wait says so. A device that is lost says so for ever.
    let is_lost = || native::wait_for(device).is_err() && native::wait_for(device).is_err();
    if is_lost() {
        return Fault::Lost;
    }
    if !is_of_memory(&error.to_string()) {
        return Fault::Batch;
    }
    if matches!(device, Device::Cuda(_))
        && let Err(error) = native::empty_cache()
    {
        tracing::warn!(%error, "unused memory was not given back");
    }
    Fault::Memory
}

/// As libtorch, CUDA, cuBLAS, cuDNN and libtorch's allocator on the CPU say it. A convolution none of whose algorithms
/// finds room for its workspace says only that there is no engine for it.
fn is_of_memory(error: &str) -> bool {
    const WORDS: [&str; 5] = [
        "out of memory",
        "_ALLOC_FAILED",
        "ALLOCATION_FAILED",
        "can't allocate memory",
        "unable to find an engine to execute",
    ];
    WORDS.iter().any(|words| error.contains(words))
}

#[cfg(test)]
mod tests {
    use tch::{Kind, TchError, Tensor};

    use super::*;

    #[test]
    fn too_large_a_tensor_is_a_fault_of_memory_and_a_wrong_shape_is_not() {
        let cpu = (Kind::Float, Device::Cpu);
        let large = Tensor::f_zeros([1 << 50], cpu).map(drop).unwrap_err();
        assert_eq!(diagnose(Device::Cpu, &large.into()), Fault::Memory);
        let shapes = Tensor::zeros([2], cpu).f_add(&Tensor::zeros([3], cpu)).map(drop).unwrap_err();
        assert_eq!(diagnose(Device::Cpu, &shapes.into()), Fault::Batch);
        assert_eq!(diagnose(Device::Cpu, &ModelError::Input("no".to_owned())), Fault::Batch);
    }

    #[test]
    fn what_cuda_says_is_understood() {
        for text in [
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB",
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "GET was unable to find an engine to execute this computation",
        ] {
            assert!(is_of_memory(text), "{text}");
        }
        assert!(!is_of_memory("CUDA error: an illegal memory access was encountered"));
    }

    #[test]
    fn a_device_that_never_answers_is_lost() {
        // Without CUDA there is nothing that could answer.
        if native::load_cuda().is_err() {
            let error = ModelError::Device(TchError::Torch("CUDA error: unspecified launch failure".to_owned()));
            assert_eq!(diagnose(Device::Cuda(0), &error), Fault::Lost);
        }
    }
}
