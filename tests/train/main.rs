//! `pcqa-train` and the room behind it, on data that the tests make themselves.

mod augmentation;
mod checking;
mod datasets;
mod evaluate;
mod loading;
mod problems;
mod report;
mod splits;
mod statistics;
mod support;
mod synth;
