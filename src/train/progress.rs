//! Bars on stderr, invisible where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts `total` things, with its rate and the time that is left.
pub(super) fn count(message: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}
