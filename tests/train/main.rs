//! `pcqa-train` and the room behind it, on data that the tests make themselves.

mod ablate;
mod augmentation;
mod checking;
mod datasets;
mod ensemble;
mod evaluate;
mod fit;
mod loading;
mod problems;
mod report;
mod runs;
mod several;
mod splits;
mod statistics;
mod support;
mod synth;
