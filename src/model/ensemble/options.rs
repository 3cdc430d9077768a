//! How a bundle is put on a device.

use tch::{Device, Kind};

/// Number format of the network's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// How a bundle is put on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Where tensors live.
    pub device: Device,
    /// Number format.
    pub dtype: Dtype,
    /// Mean over the frames and their horizontal flip.
    pub tta: bool,
}

impl LoadOptions {
    /// The device in the API and in the log: `cpu`, `cuda:N`.
    pub fn device_name(&self) -> String {
        match self.device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(index) => format!("cuda:{index}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

impl Dtype {
    /// As the bundle's calibration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// libtorch's name for it.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}
