//! The networks: parity with timm and open_clip on golden data, gradients, blindness to neighbours, refusals.

mod adopt;
mod gradients;
mod hash_init;
mod independence;
mod neighbours;
mod parity;
mod refusals;
mod support;
