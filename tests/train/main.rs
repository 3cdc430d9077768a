//! `pcqa-train`: data, statistics, training.

mod synth;
