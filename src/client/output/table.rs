//! The table for people: rounded figures, as wide as the terminal, without colours.

use std::collections::BTreeSet;
use std::io::{self, Write};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{Layout, Row, expert_names, stage_milliseconds};
use crate::client::text::{printable, shortened};
use crate::proto::{ModelInfo, Score};

/// Characters of a prompt that are shown.
const PROMPT_WIDTH: usize = 40;

/// Collects the rows that have a score and shows them at the end.
pub struct Sink {
    writer: Box<dyn Write>,
    model: ModelInfo,
    layout: Layout,
    is_on_stdout: bool,
    rows: Vec<Scored>,
}

struct Scored {
    place: Option<usize>,
    file: String,
    prompt: String,
    score: Score,
}

impl Sink {
    /// Writes nothing yet. A table on standard output fits the terminal where that is one.
    pub fn new(writer: Box<dyn Write>, model: &ModelInfo, layout: Layout, is_on_stdout: bool) -> Self {
        Self { writer, model: model.clone(), layout, is_on_stdout, rows: Vec::new() }
    }

    /// Keeps the row; failures have had their line.
    pub fn write(&mut self, row: Row) {
        if let Ok(scored) = row.outcome {
            self.rows.push(Scored {
                place: row.place,
                file: printable(&row.name),
                prompt: shortened(&row.prompt, PROMPT_WIDTH),
                score: scored.score,
            });
        }
    }

    /// Writes the table and a line about the model.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        if !self.rows.is_empty() {
            writeln!(self.writer, "{}\n{}", self.table(), self.model_line())?;
        }
        self.writer.flush()
    }

    fn table(&self) -> Table {
        let experts = self.expert_columns();
        let mut columns = self.text_columns().to_vec();
        let figures_from = columns.len();
        columns.extend(["MOS", "z"].map(str::to_owned));
        columns.extend(experts.iter().map(|label| printable(label)));
        columns.push("disagreement".to_owned());
        let counts_from = columns.len();
        if self.layout == Layout::Score {
            columns.extend(["frames", "ms"].map(str::to_owned));
        }

        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Dynamic);
        if !self.is_on_stdout {
            table.force_no_tty();
        }
        table.set_header(columns);
        for row in &self.rows {
            table.add_row(self.cells(row, &experts));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_count = index >= counts_from || self.layout == Layout::Rank && index == 0;
            let is_text = !is_count && index < figures_from;
            if !is_text {
                column.set_cell_alignment(CellAlignment::Right);
            }
            // A narrow terminal breaks titles, paths and prompts, never a figure; `-1.234` and its margins take 8.
            column.set_constraint(match (is_text, is_count) {
                (true, _) => ColumnConstraint::LowerBoundary(Width::Fixed(12)),
                (_, true) => ColumnConstraint::ContentWidth,
                _ => ColumnConstraint::LowerBoundary(Width::Fixed(8)),
            });
        }
        table
    }

    /// Labels of the experts that spoke, in the bundle's order.
    fn expert_columns(&self) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for name in expert_names(&self.model) {
            let label = self.label(&name);
            let spoke = self.rows.iter().any(|row| row.score.experts.iter().any(|expert| expert.expert == name));
            if spoke && !labels.contains(&label) {
                labels.push(label);
            }
        }
        labels
    }

    /// The backbone, so that images and videos share a column, where it tells the experts of each track apart; else
    /// the expert's name.
    fn label(&self, name: &str) -> String {
        let experts = &self.model.experts;
        let is_ambiguous = experts.iter().enumerate().any(|(index, one)| {
            experts.iter().skip(index + 1).any(|other| one.track == other.track && one.backbone == other.backbone)
        });
        let expert = experts.iter().find(|expert| expert.name == name);
        expert.filter(|_| !is_ambiguous).map_or(name, |expert| expert.backbone.as_str()).to_owned()
    }

    fn text_columns(&self) -> [String; 2] {
        match self.layout {
            Layout::Score => ["file", "prompt"],
            Layout::Rank => ["place", "file"],
        }
        .map(str::to_owned)
    }

    fn cells(&self, row: &Scored, experts: &[String]) -> Vec<String> {
        let score = &row.score;
        let mut cells = match self.layout {
            Layout::Score => {
                let mark = if score.prompt_truncated { " [truncated]" } else { "" };
                vec![row.file.clone(), format!("{}{mark}", row.prompt)]
            }
            Layout::Rank => vec![row.place.map(|place| place.to_string()).unwrap_or_default(), row.file.clone()],
        };
        cells.extend([format!("{:.3}", score.mos), format!("{:+.3}", score.z)]);
        for label in experts {
            let expert = score.experts.iter().find(|expert| self.label(&expert.expert) == *label);
            cells.push(expert.map(|expert| format!("{:+.3}", expert.z)).unwrap_or_default());
        }
        cells.push(format!("{:.3}", score.disagreement));
        if self.layout == Layout::Score {
            let total = stage_milliseconds(score.timings.as_ref()).last().and_then(|(_, milliseconds)| *milliseconds);
            cells.extend([
                score.frames_used.to_string(),
                total.map(|milliseconds| format!("{milliseconds:.0}")).unwrap_or_default(),
            ]);
        }
        cells
    }

    /// Which model, on which scale; more than one version when the server changed during the run.
    fn model_line(&self) -> String {
        let versions: BTreeSet<&str> = self.rows.iter().map(|row| row.score.model_version.as_str()).collect();
        let versions = versions.into_iter().collect::<Vec<_>>().join(" and ");
        let scale = self.model.mos.clone().unwrap_or_default();
        let line = format!(
            "model {} {versions}; MOS on the scale of {}, {} to {}",
            self.model.name, scale.dataset, scale.min, scale.max
        );
        printable(&line)
    }
}
