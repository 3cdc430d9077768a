//! What is printed: tables for people, one JSON object for programs.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};

use super::args::BenchArgs;
use super::load::Load;
use super::run::Pace;
use super::summary::{Figures, Summary};
use super::sweep::Sweep;
use crate::client::info::dtype_name;
use crate::client::text::{printable, shortened};
use crate::proto::ModelInfo;

/// Characters of an example message that are shown.
const EXAMPLE_WIDTH: usize = 200;

/// What the figures are of.
pub struct Context<'a> {
    pub args: &'a BenchArgs,
    pub model: &'a ModelInfo,
    pub load: &'a Load,
    pub seed: u64,
}

/// What was measured.
pub enum Results {
    Single(Pace, Summary),
    Sweep(Sweep),
}

impl Results {
    /// Every phase.
    pub fn summaries(&self) -> impl Iterator<Item = &Summary> {
        let (first, rows) = match self {
            Self::Single(_, summary) => (summary, [].as_slice()),
            Self::Sweep(sweep) => (&sweep.saturation, sweep.rows.as_slice()),
        };
        std::iter::once(first).chain(rows.iter().map(|(_, summary)| summary))
    }
}

/// The page for people.
pub fn text(context: &Context<'_>, results: &Results) -> String {
    let mut page = context.head();
    match results {
        Results::Single(pace, summary) => {
            let pace = match pace {
                Pace::Closed(concurrency) => format!("closed loop, {concurrency} at once"),
                Pace::Open(rate) => format!("open loop, {rate} requests/s"),
            };
            let _ = writeln!(page, "{pace}, {}\n", context.times());
            page.push_str(&single(summary));
        }
        Results::Sweep(sweep) => {
            let _ = writeln!(page, "sweep, each load {}\n", context.times());
            page.push_str(&rows(sweep));
        }
    }
    if results.summaries().any(|summary| summary.is_interrupted) {
        page.push_str("interrupted: this is what there was\n");
    }
    page
}

impl Context<'_> {
    /// `NAME VERSION, DTYPE on DEVICE`.
    pub fn model_line(&self) -> String {
        let ModelInfo { name, version, device, .. } = self.model;
        printable(&format!("{name} {version}, {} on {device}", dtype_name(self.model.dtype())))
    }

    /// What is sent, in a line.
    pub fn load_line(&self) -> String {
        let extent = self.load.extent();
        let (shortest, longest) = extent.bytes;
        let bytes = |length: usize| BinaryBytes(u64::try_from(length).unwrap_or(u64::MAX));
        let what = match self.load.generated() {
            Some((sizes, format)) => {
                let sizes = sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
                format!("{} pictures of {sizes} pixels square, {}", extent.images, format.name())
            }
            None => format!("{} images and {} videos", extent.images, extent.videos),
        };
        let new = 100.0 * self.args.new_prompts;
        format!("{what}, {} to {}; {new} % new prompts", bytes(shortest), bytes(longest))
    }

    fn head(&self) -> String {
        let priority = self.args.priority.name();
        format!("model  {}\nmedia  {}; {priority}; seed {}\n", self.model_line(), self.load_line(), self.seed)
    }

    fn times(&self) -> String {
        let BenchArgs { duration, warm_up, connections, .. } = self.args;
        let plural = if *connections == 1 { "" } else { "s" };
        format!(
            "{} s after {} s of warm-up, {connections} connection{plural}",
            duration.as_secs_f64(),
            warm_up.as_secs_f64()
        )
    }
}

fn single(summary: &Summary) -> String {
    let mut page = format!(
        "offered {} requests/s, answered {}/s, goodput {} scores/s\n{} requests = {} scores + {} errors",
        number(summary.offered_per_s),
        number(summary.answered_per_s),
        number(summary.goodput_per_s),
        HumanCount(summary.requests),
        HumanCount(summary.scores),
        HumanCount(summary.errors),
    );
    for (count, what) in [(summary.unanswered, "unanswered"), (summary.not_sent, "not sent")] {
        if count > 0 {
            let _ = write!(page, " + {} {what}", HumanCount(count));
        }
    }
    let _ = writeln!(page, "\n\n{}\n\n{}", latencies(summary), stages(summary));
    let fill = summary.batch_fill.map_or("-".to_owned(), |fill| format!("{:.1} %", 100.0 * fill));
    let _ = writeln!(page, "\nbatch: {} frames at the mean, {fill} full", number(summary.batch_frames));
    page + &examples([summary])
}

/// A message of each code, so that a count does not stay a riddle.
fn examples<'a>(summaries: impl IntoIterator<Item = &'a Summary>) -> String {
    let mut examples: Vec<(&str, &str)> = Vec::new();
    for (code, refused) in summaries.into_iter().flat_map(|summary| &summary.by_code) {
        if !examples.iter().any(|(known, _)| known == code) {
            examples.push((code, &refused.example));
        }
    }
    let line = |(code, example)| format!("{code}, for example: {}\n", shortened(example, EXAMPLE_WIDTH));
    examples.into_iter().map(line).collect()
}

fn latencies(summary: &Summary) -> Table {
    let mut table = table(&["milliseconds", "count", "mean", "p50", "p90", "p99", "max"]);
    let mut add = |name: &str, figures: &Figures| {
        let Figures { count, mean, p50, p90, p99, max } = *figures;
        let cells = [mean, p50, p90, p99, max].map(number);
        table.add_row([name.to_owned(), HumanCount(count).to_string()].into_iter().chain(cells));
    };
    add("scores", &summary.latency_ms);
    for (code, refused) in &summary.by_code {
        add(code, &refused.latency_ms);
    }
    add("outside decode, resize and device", &summary.outside_ms);
    add("send lag", &summary.send_lag_ms);
    table
}

fn stages(summary: &Summary) -> Table {
    let names = summary.stages_ms.map(|(name, _)| name.trim_end_matches("_ms"));
    let mut table = table(&[&["stage"], names.as_slice()].concat());
    let means = summary.stages_ms.map(|(_, milliseconds)| number(milliseconds));
    table.add_row(["mean ms".to_owned()].into_iter().chain(means));
    table
}

fn rows(sweep: &Sweep) -> String {
    let saturation = &sweep.saturation;
    let mut page = format!(
        "saturation {} scores/s, by a closed loop with {} at once (p50 {} ms, p99 {} ms, {} errors)\n\n",
        number(saturation.goodput_per_s),
        sweep.concurrency,
        number(saturation.latency_ms.p50),
        number(saturation.latency_ms.p99),
        HumanCount(saturation.errors),
    );
    let mut table = table(&[
        "load",
        "offered/s",
        "goodput/s",
        "p50 ms",
        "p99 ms",
        "p99/p50",
        "shed",
        "shed p99 ms",
        "other errors",
        "batch fill",
    ]);
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    for (load, summary) in &sweep.rows {
        let Figures { p50, p99, .. } = summary.latency_ms;
        let ratio = p50.zip(p99).filter(|(p50, _)| *p50 > 0.0).map(|(p50, p99)| p99 / p50);
        table.add_row([
            format!("{load}"),
            number(summary.offered_per_s),
            number(summary.goodput_per_s),
            number(p50),
            number(p99),
            number(ratio),
            percent(summary.shed_share()),
            number(summary.shed().and_then(|shed| shed.latency_ms.p99)),
            HumanCount(summary.other_errors()).to_string(),
            percent(summary.batch_fill),
        ]);
    }
    let _ = writeln!(page, "{table}");
    let rows = sweep.rows.iter().map(|(_, summary)| summary);
    page + &examples(std::iter::once(saturation).chain(rows))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Three digits or the whole part; `-` for none.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 1.0 => format!("{value:.3}"),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// The object for programs, with a line end.
pub fn json(context: &Context<'_>, results: &Results) -> String {
    let mut page = json!({
        "settings": settings(context, results),
        "media": media(context.load),
        "model": model(context.model),
        "interrupted": results.summaries().any(|summary| summary.is_interrupted),
    });
    let mut add = |name: &str, value: Value| {
        if let Some(page) = page.as_object_mut() {
            page.insert(name.to_owned(), value);
        }
    };
    match results {
        Results::Single(_, summary) => add("result", json!(summary)),
        Results::Sweep(sweep) => {
            add("saturation", json!(sweep.saturation));
            let row = |(load, summary): &(f64, Summary)| {
                let mut row = json!(summary);
                if let Some(row) = row.as_object_mut() {
                    row.insert("load".to_owned(), json!(load));
                }
                row
            };
            add("sweep", sweep.rows.iter().map(row).collect());
        }
    }
    format!("{page:#}\n")
}

fn settings(context: &Context<'_>, results: &Results) -> Value {
    let args = context.args;
    let (mode, concurrency, rate) = match results {
        Results::Single(Pace::Closed(concurrency), _) => ("closed", Some(*concurrency), None),
        Results::Single(Pace::Open(rate), _) => ("open", None, Some(*rate)),
        Results::Sweep(sweep) => ("sweep", Some(sweep.concurrency), None),
    };
    json!({
        "mode": mode,
        "concurrency": concurrency,
        "rate": rate,
        "duration_s": args.duration.as_secs_f64(),
        "warm_up_s": args.warm_up.as_secs_f64(),
        "connections": args.connections,
        "timeout_s": args.timeout.as_secs_f64(),
        "priority": args.priority.name(),
        "new_prompts": args.new_prompts,
        "seed": context.seed,
    })
}

fn media(load: &Load) -> Value {
    let extent = load.extent();
    json!({
        "images": extent.images,
        "videos": extent.videos,
        "shortest_bytes": extent.bytes.0,
        "longest_bytes": extent.bytes.1,
        "sizes": load.generated().map(|(sizes, _)| sizes),
        "format": load.generated().map(|(_, format)| format.name()),
    })
}

fn model(model: &ModelInfo) -> Value {
    json!({
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "dtype": dtype_name(model.dtype()),
        "device": model.device,
        "max_batch_frames": model.limits.map_or(0, |limits| limits.max_batch_frames),
        "server_version": model.server_version,
    })
}
