//! Where the networks compute.

use anyhow::{anyhow, ensure};
use tch::Device;

use crate::native;

/// The device called `cpu`, `cuda`, `cuda:N`, or the first CUDA device where there is one for `auto`. What is computed on
/// a CUDA device in f32 from then on is computed in f32, as it is served: libtorch would round some of it to TF32.
///
/// # Errors
///
/// When there is no such device here.
pub fn choose(name: &str) -> anyhow::Result<Device> {
    let device = known(name)?;
    if device != Device::Cpu {
        native::exact_arithmetic()?;
    }
    Ok(device)
}

fn known(name: &str) -> anyhow::Result<Device> {
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(if gpus().is_ok_and(|gpus| gpus > 0) { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" => 0,
        other => {
            let index = other.strip_prefix("cuda:").and_then(|index| index.parse::<usize>().ok());
            index.ok_or_else(|| anyhow!("device: is {other:?}, expected auto, cpu, cuda or cuda:N"))?
        }
    };
    let gpus = gpus().map_err(|problem| anyhow!("device: is {name:?}, but CUDA cannot be used here: {problem}"))?;
    ensure!(index < gpus, "device: is {name:?}, but libtorch sees {gpus} CUDA devices here");
    Ok(Device::Cuda(index))
}

/// As [`choose`] takes it.
pub(in crate::train) fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

fn gpus() -> Result<usize, &'static str> {
    native::load_cuda()?;
    native::gpus()
}
