//! train

pub mod hash_init;
