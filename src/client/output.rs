//! Results: one row per item, written as a table, CSV or JSON lines.

mod csv;
mod jsonl;
mod table;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use super::args::{Form, OutputArgs};
use super::kind::Kind;
use crate::proto::{ModelInfo, Score, Timings};

/// What became of one item.
#[derive(Debug)]
pub struct Row {
    /// From 1 for the best; none where nothing is ranked.
    pub place: Option<usize>,
    /// The caller's name for the item, or empty.
    pub id: String,
    /// The path as the caller wrote it.
    pub name: String,
    /// The prompt.
    pub prompt: Arc<str>,
    /// What it was sent as; none when it was not.
    pub kind: Option<Kind>,
    /// Its score, or why there is none.
    pub outcome: Result<Scored, Failure>,
}

/// A score and what it took.
#[derive(Debug)]
pub struct Scored {
    /// The server's answer.
    pub score: Score,
    /// From sending to the answer, of the try that succeeded.
    pub round_trip: Duration,
}

/// Why an item has no score. Shows as `CODE: message`.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Canonical name of the gRPC status, or `UNREADABLE`.
    pub code: &'static str,
    /// What is wrong, for a person.
    pub message: String,
}

impl Failure {
    /// What the server would refuse as well.
    pub fn invalid(message: String) -> Self {
        Self { code: "INVALID_ARGUMENT", message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

/// Which columns there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    /// Items of any prompts.
    Score,
    /// Places of one prompt's images.
    Rank,
}

/// Where rows go.
pub enum Sink {
    /// Shown when all is done.
    Table(table::Sink),
    /// Written row by row.
    Csv(csv::Sink),
    /// Written row by row.
    Jsonl(jsonl::Sink),
}

impl Sink {
    /// Opens `--out` or standard output, so that a place that cannot be written is found before any work.
    ///
    /// # Errors
    /// When it cannot be opened or written.
    pub fn open(args: &OutputArgs, model: &ModelInfo, layout: Layout) -> io::Result<Self> {
        let writer: Box<dyn Write> = match &args.out {
            Some(path) => {
                let file = File::create(path).map_err(|error| with_path(&error, path))?;
                Box::new(BufWriter::new(file))
            }
            None => Box::new(io::stdout()),
        };
        Ok(match args.output {
            Form::Table => Self::Table(table::Sink::new(writer, model, layout, args.out.is_none())),
            Form::Csv => Self::Csv(csv::Sink::new(writer, model, layout)?),
            Form::Jsonl => Self::Jsonl(jsonl::Sink::new(writer)),
        })
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, row: Row) -> io::Result<()> {
        match self {
            Self::Table(sink) => {
                sink.write(row);
                Ok(())
            }
            Self::Csv(sink) => sink.write(&row),
            Self::Jsonl(sink) => sink.write(&row),
        }
    }

    /// Writes what waits for the end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Table(sink) => sink.finish(),
            Self::Csv(_) | Self::Jsonl(_) => Ok(()),
        }
    }
}

fn with_path(error: &io::Error, path: &std::path::Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The stages of a request in the order that they follow each other, then their total, in milliseconds.
pub fn stage_milliseconds(timings: Option<&Timings>) -> [(&'static str, Option<f64>); 8] {
    let stage = |pick: fn(&Timings) -> Option<prost_types::Duration>| {
        let duration = pick(timings?)?;
        #[expect(clippy::cast_precision_loss, reason = "2^53 seconds are 285 million years")]
        let seconds = duration.seconds as f64;
        Some(seconds * 1e3 + f64::from(duration.nanos) / 1e6)
    };
    [
        ("receive_ms", stage(|timings| timings.receive)),
        ("decode_ms", stage(|timings| timings.decode)),
        ("resize_ms", stage(|timings| timings.resize)),
        ("queue_ms", stage(|timings| timings.queue)),
        ("text_ms", stage(|timings| timings.text)),
        ("vision_ms", stage(|timings| timings.vision)),
        ("head_ms", stage(|timings| timings.head)),
        ("total_ms", stage(|timings| timings.total)),
    ]
}

/// Names of the experts of all tracks, each once, in the bundle's order.
fn expert_names(model: &ModelInfo) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for expert in &model.experts {
        if !names.contains(&expert.name) {
            names.push(expert.name.clone());
        }
    }
    names
}
