//! Why a bundle or a network could not be used.

/// The beginning of a name that a file gives, fit for a terminal.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}

/// A bundle that cannot be served, or a device that failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the bundle is missing, unreadable, surplus or corrupt.
    #[error("{file}: {problem}")]
    File {
        /// Name inside the bundle.
        file: String,
        /// What is wrong, with the expectation.
        problem: String,
    },
    /// A tensor is missing, surplus, or of another shape or type than the network needs.
    #[error("{file}: tensor {key}: {problem}", key = shown(key))]
    Tensor {
        /// Name inside the bundle.
        file: String,
        /// The tensor's key in the file.
        key: String,
        /// What is wrong, with the expectation.
        problem: String,
    },
    /// A value of `bundle.toml` is missing or makes no sense.
    #[error("bundle.toml: {key}: {problem}")]
    Manifest {
        /// Dotted path of the value.
        key: String,
        /// What is wrong, with the expectation.
        problem: String,
    },
    /// Frames or prompts that do not fit the model: a fault of the calling code.
    #[error("input: {0}")]
    Input(String),
    /// A number that a score is made of is infinite or not a number: no score.
    #[error("{what} is {value}, not a finite number")]
    NotFinite {
        /// Which number.
        what: String,
        /// Its value.
        value: f64,
    },
    /// libtorch failed: out of memory, device lost.
    #[error("device: {0}")]
    Device(#[from] tch::TchError),
}
