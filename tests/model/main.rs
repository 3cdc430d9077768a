//! The networks: parity with timm and open_clip on golden data, independence of neighbours, refusals.

mod hash_init;
mod independence;
mod parity;
mod refusals;
mod support;
