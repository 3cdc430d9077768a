//! What `pcqa-train` is made of.

mod report;
mod statistics;
