//! Bundles: what is served is exactly what was assembled, and anything else is refused by name.

mod assembling;
mod opening;
mod support;
