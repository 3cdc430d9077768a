//! `pcqa-train` and the room behind it, on data that the tests make themselves.

mod augmentation;
mod checking;
mod datasets;
mod loading;
mod problems;
mod splits;
mod support;
mod synth;
