//! JSON lines: one flushed object per item with every figure.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::{Row, Scored, stage_milliseconds};

/// Writes JSON lines.
pub struct Sink {
    writer: Box<dyn Write>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    path: &'a str,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Scored {
        mos: f64,
        z: f64,
        experts: Vec<Expert<'a>>,
        disagreement: f64,
        frames: u32,
        prompt_truncated: bool,
        model_version: &'a str,
        #[serde(flatten)]
        stages: BTreeMap<&'static str, f64>,
        round_trip_ms: f64,
    },
    Failed {
        code: &'a str,
        error: &'a str,
    },
}

#[derive(Serialize)]
struct Expert<'a> {
    name: &'a str,
    z: f64,
    raw: f64,
}

impl Sink {
    /// Writes nothing yet.
    pub fn new(writer: Box<dyn Write>) -> Self {
        Self { writer }
    }

    /// Writes one object.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, row: &Row) -> io::Result<()> {
        let outcome = match &row.outcome {
            Ok(scored) => figures(scored),
            Err(failure) => Outcome::Failed { code: failure.code, error: &failure.message },
        };
        let line = Line {
            place: row.place,
            id: &row.id,
            path: &row.name,
            prompt: &row.prompt,
            kind: row.kind.map(|kind| kind.name()),
            outcome,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.writer.write_all(&text)?;
        self.writer.flush()
    }
}

fn figures(scored: &Scored) -> Outcome<'_> {
    let score = &scored.score;
    Outcome::Scored {
        mos: score.mos,
        z: score.z,
        experts: score.experts.iter().map(|e| Expert { name: &e.expert, z: e.z, raw: e.raw }).collect(),
        disagreement: score.disagreement,
        frames: score.frames_used,
        prompt_truncated: score.prompt_truncated,
        model_version: &score.model_version,
        stages: stage_milliseconds(score.timings.as_ref())
            .into_iter()
            .filter_map(|(name, milliseconds)| Some((name, milliseconds?)))
            .collect(),
        round_trip_ms: scored.round_trip.as_secs_f64() * 1e3,
    }
}
