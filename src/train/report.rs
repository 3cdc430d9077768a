//! One HTML file that shows a run or an evaluation to people: curves, every system's figures beside the floors,
//! predictions over opinions, residuals by generator, the items that are judged worst. It needs nothing else: pictures
//! are SVG or `data:` URIs, and there is no script.

mod axis;
mod charts;
mod page;
mod plot;
mod thumbnail;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

pub use self::thumbnail::Thumbnails;
use super::statistics::{Judged, Metrics};

/// Name of the file in the report's directory.
pub const FILE: &str = "report.html";

/// What is shown.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the page is about.
    pub title: String,
    /// What was run on what: names and values under the title.
    pub facts: Vec<(String, String)>,
    /// How the run went, for a training run.
    pub charts: Vec<Chart>,
    /// What was compared, for an ablation.
    pub comparison: Option<Comparison>,
    /// What came of it, one section for each track.
    pub sections: Vec<Section>,
}

/// A chart of lines over steps.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// What the values are, with their unit.
    pub title: String,
    /// What the steps are.
    pub x_label: String,
    /// Whether the values are shown by their logarithm.
    pub is_log: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line of a chart.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Steps and values; values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A table as the paper has its ablations: a row for each system; SRCC, PLCC and main score under each heading.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Over the columns that say what a row is of.
    pub labels: Vec<&'static str>,
    /// What was varied from left to right; an empty one where nothing was.
    pub headings: Vec<&'static str>,
    /// A label for each of `labels`, figures for each of `headings`.
    pub rows: Vec<(Vec<String>, Vec<Option<Metrics>>)>,
}

/// How well one set of items was judged.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// `Images`, `Videos`.
    pub title: String,
    /// Every system's figures; the first row is of `judged`.
    pub rows: Vec<(String, Metrics)>,
    /// The items and what the first row's system predicted for them.
    pub judged: Vec<Judged>,
}

/// Writes the report to `directory`, which is made if need be, and says where it is. A report that is there is replaced.
pub fn write(directory: &Path, report: &Report, thumbnails: &mut Thumbnails) -> anyhow::Result<PathBuf> {
    let path = directory.join(FILE);
    let failed = || format!("{}: cannot be written", path.display());
    fs::create_dir_all(directory).with_context(failed)?;
    let partial = directory.join(format!(".{FILE}.partial"));
    fs::write(&partial, page::html(report, thumbnails)).with_context(failed)?;
    fs::rename(&partial, &path).with_context(failed)?;
    Ok(path)
}

/// Text as HTML and as an attribute's value.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            // Neither HTML nor XML has these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
