//! `pcqa-train fetch` against a hub on loopback, and `pcqa-train convert` on files of every kind that is published.

mod breaking;
mod fetching;
mod hostile;
mod hub;
mod layouts;
mod refusing;
mod support;
