//! expert

/// Expert
pub struct Expert {}
