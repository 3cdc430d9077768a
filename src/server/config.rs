//! Options, each declared once as a field of [`Config`]: the field's name is the key of the configuration file, with
//! `--` and dashes the flag, with `PCQA_` in capitals the environment variable.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. All three go through the
//! same parser, so that a bad value reads the same wherever it stands.

mod check;
mod network;
mod observe;
mod options;
mod sources;

pub(super) use network::{ConnectionOptions, TrustOptions};
pub(super) use observe::{Collector, Sources};
pub use options::{Config, LogFormat, LogOptions};
pub(super) use options::{DeviceChoice, DeviceName, DtypeChoice, LimitOptions, TimeOptions};
pub use sources::Parsed;

/// Why the configuration is refused: one line that names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", sources::in_one_line(.0))]
pub struct ConfigError(pub String);

impl Config {
    /// Reads flags, environment and file of this process.
    pub fn from_process() -> Result<Parsed, ConfigError> {
        sources::read(std::env::args_os(), std::env::vars_os())
    }

    /// Whether some device may be a GPU.
    pub fn wants_cuda(&self) -> bool {
        match &self.model.device {
            DeviceChoice::Auto => true,
            DeviceChoice::These(devices) => devices.iter().any(|device| matches!(device, DeviceName::Cuda(_))),
        }
    }

    /// The configuration as a file that [`Config`] reads back.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError(error.to_string()))
    }
}

/// The configuration of `flags` alone.
#[cfg(test)]
pub(super) fn with_defaults(flags: &[&str]) -> Config {
    let arguments = ["pcqa-server"].iter().chain(flags).map(std::ffi::OsString::from);
    match sources::read(arguments, std::iter::empty()) {
        Ok(Parsed::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}
