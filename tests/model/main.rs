//! The networks: parity with timm and open_clip on golden data, blindness to neighbours, refusals.

mod hash_init;
mod independence;
mod neighbours;
mod parity;
mod refusals;
mod support;
