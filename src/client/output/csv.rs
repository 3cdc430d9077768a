//! CSV: a header line, then one flushed row per item with every figure.

use std::io::{self, Write};

use super::{Layout, Row, Scored, expert_names, stage_milliseconds};
use crate::proto::ModelInfo;

/// Columns after the experts' figures and before the timings.
const AFTER_EXPERTS: [&str; 4] = ["disagreement", "frames", "prompt_truncated", "model_version"];

/// Writes CSV.
pub struct Sink {
    writer: ::csv::Writer<Box<dyn Write>>,
    experts: Vec<String>,
    layout: Layout,
}

impl Sink {
    /// Writes the header line.
    pub fn new(writer: Box<dyn Write>, model: &ModelInfo, layout: Layout) -> io::Result<Self> {
        let experts = expert_names(model);
        let mut sink = Self { writer: ::csv::Writer::from_writer(writer), experts, layout };
        let mut header: Vec<String> = Vec::new();
        if layout == Layout::Rank {
            header.push("place".to_owned());
        }
        header.extend(["id", "path", "prompt", "kind", "mos", "z"].map(str::to_owned));
        header.extend(sink.experts.iter().flat_map(|name| [format!("{name}_z"), format!("{name}_raw")]));
        header.extend(AFTER_EXPERTS.map(str::to_owned));
        header.extend(stage_milliseconds(None).map(|(name, _)| name.to_owned()));
        header.extend(["round_trip_ms", "code", "error"].map(str::to_owned));
        sink.line(header)?;
        Ok(sink)
    }

    /// Writes one row; figures that it does not have are empty fields.
    ///
    /// # Errors
    /// When it cannot be written, or scores come from experts that the header line does not have.
    pub fn write(&mut self, row: &Row) -> io::Result<()> {
        let mut fields: Vec<String> = Vec::new();
        if self.layout == Layout::Rank {
            fields.push(row.place.map(|place| place.to_string()).unwrap_or_default());
        }
        let kind = row.kind.map_or("", |kind| kind.name());
        fields.extend([row.id.clone(), row.name.clone(), row.prompt.to_string(), kind.to_owned()]);
        match &row.outcome {
            Ok(scored) => {
                fields.extend(self.figures(scored)?);
                fields.extend([String::new(), String::new()]);
            }
            Err(failure) => {
                let figures = 2 + 2 * self.experts.len() + AFTER_EXPERTS.len() + stage_milliseconds(None).len() + 1;
                fields.extend(std::iter::repeat_n(String::new(), figures));
                fields.extend([failure.code.to_owned(), failure.message.clone()]);
            }
        }
        self.line(fields)
    }

    /// From `mos` to `round_trip_ms`.
    fn figures(&self, scored: &Scored) -> io::Result<Vec<String>> {
        let score = &scored.score;
        if let Some(stranger) = score.experts.iter().find(|expert| !self.experts.contains(&expert.expert)) {
            return Err(io::Error::other(format!(
                "expert {} joined the model after the header line was written",
                stranger.expert
            )));
        }
        let mut fields = vec![score.mos.to_string(), score.z.to_string()];
        for name in &self.experts {
            let expert = score.experts.iter().find(|expert| expert.expert == *name);
            fields.push(expert.map(|expert| expert.z.to_string()).unwrap_or_default());
            fields.push(expert.map(|expert| expert.raw.to_string()).unwrap_or_default());
        }
        fields.push(score.disagreement.to_string());
        fields.push(score.frames_used.to_string());
        fields.push(score.prompt_truncated.to_string());
        fields.push(score.model_version.clone());
        for (_, milliseconds) in stage_milliseconds(score.timings.as_ref()) {
            fields.push(milliseconds.map(|value| value.to_string()).unwrap_or_default());
        }
        fields.push((scored.round_trip.as_secs_f64() * 1e3).to_string());
        Ok(fields)
    }

    /// One line, on its way before the next item is awaited.
    fn line(&mut self, fields: Vec<String>) -> io::Result<()> {
        self.writer.write_record(fields).map_err(io::Error::from)?;
        self.writer.flush()
    }
}
