//! Bars on stderr, invisible where that is no terminal.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Bars of things that are done at the same time stand below each other.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar that counts `total` things, with its rate and the time that is left.
pub(super) fn count(message: &str, total: u64) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(total).with_message(message.to_owned()));
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// A line on stderr, above bars that are there.
pub(super) fn say(line: &str) {
    BARS.suspend(|| eprintln!("{line}"));
}
