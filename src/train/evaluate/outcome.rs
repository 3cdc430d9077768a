//! What came of an evaluation, for terminals, programs and the report.

use std::sync::Arc;

use serde_json::{Value, json};

use super::system::{Kind, System};
use super::table::{generators, table};
use crate::model::{Bundle, Track};
use crate::train::dataset::{Dataset, Item};
use crate::train::floors::floors;
use crate::train::report::{Report, Section};
use crate::train::statistics::{GeneratorFigures, Judged, Metrics, by_generator};

/// All of it.
pub(super) struct Outcome {
    data: Value,
    bundle: Option<Value>,
    /// Under the report's title.
    facts: Vec<(String, String)>,
    pub(super) tracks: Vec<TrackOutcome>,
    /// Names of items that could not be scored, with the reason.
    pub(super) failed: Vec<(String, String)>,
}

/// Of the items of one track.
pub(super) struct TrackOutcome {
    track: Track,
    pub(super) items: Arc<Vec<Item>>,
    /// The one that matters first.
    pub(super) systems: Vec<System>,
    rows: Vec<Row>,
    /// The first system's.
    judged: Vec<Judged>,
    generators: Vec<GeneratorFigures>,
}

struct Row {
    kind: Kind,
    tta: Option<bool>,
    figures: (String, Metrics),
}

impl Outcome {
    /// Of nothing yet; `left_out` says what stays so.
    pub(super) fn new(data: &Dataset, bundle: Option<&Bundle>, left_out: Vec<String>) -> Self {
        let items = data.items.len();
        let rows = data.problems.rows;
        let mut facts = vec![
            ("data".to_owned(), format!("{}, {items} items of {rows} rows", data.name)),
            ("list".to_owned(), data.list.display().to_string()),
        ];
        if let Some(column) = &data.column {
            facts.push(("opinions".to_owned(), format!("column {column}")));
        }
        let bundle = bundle.map(|bundle| {
            let manifest = bundle.manifest();
            let untrained = if manifest.trained { "" } else { ", untrained: scores mean nothing" };
            facts.push(("bundle".to_owned(), format!("{} version {}{untrained}", manifest.name, manifest.version)));
            facts.push(("digest".to_owned(), bundle.digest().to_string()));
            json!({
                "name": manifest.name,
                "version": manifest.version,
                "digest": bundle.digest().to_string(),
                "trained": manifest.trained,
            })
        });
        let data = json!({
            "name": data.name,
            "list": data.list.display().to_string(),
            "column": data.column,
            "rows": rows,
            "items": items,
            "left_out": left_out,
        });
        facts.extend(left_out.into_iter().map(|what| ("left out".to_owned(), what)));
        Self { data, bundle, facts, tracks: Vec::new(), failed: Vec::new() }
    }

    /// Tables for people.
    pub(super) fn text(&self) -> String {
        let labelled = self.tracks.iter().filter(|track| !track.rows.is_empty());
        labelled.map(|track| format!("{}\n", track.text())).collect::<Vec<_>>().join("\n")
    }

    /// Every figure.
    pub(super) fn json(&self) -> Value {
        let failed = |(name, problem): &(String, String)| json!({ "name": name, "problem": problem });
        json!({
            "data": self.data,
            "bundle": self.bundle,
            "tracks": self.tracks.iter().map(TrackOutcome::json).collect::<Vec<_>>(),
            "failed": self.failed.iter().map(failed).collect::<Vec<_>>(),
        })
    }

    /// What the page shows.
    pub(super) fn report(&self) -> Report {
        let name = self.data["name"].as_str().unwrap_or_default();
        let mut facts = self.facts.clone();
        if !self.failed.is_empty() {
            facts.push(("left out".to_owned(), format!("{} of the items, which cannot be scored", self.failed.len())));
        }
        let title = match &self.bundle {
            Some(bundle) => format!("{} on {name}", bundle["name"].as_str().unwrap_or_default()),
            None => name.to_owned(),
        };
        let sections = self.tracks.iter().map(TrackOutcome::section).collect();
        Report { title, facts, sections, ..Report::default() }
    }
}

impl TrackOutcome {
    /// Compares every system with the opinions; the floors are of the first one's items.
    pub(super) fn new(track: Track, items: Arc<Vec<Item>>, systems: Vec<System>) -> Self {
        let mut rows = Vec::new();
        let judged = systems.first().map(|system| system.judged(&items)).unwrap_or_default();
        if !judged.is_empty() {
            for system in &systems {
                let metrics = Metrics::new(&system.judged(&items));
                rows.push(Row { kind: system.kind, tta: system.tta, figures: (system.name.clone(), metrics) });
            }
            let floor = |(name, metrics): (&str, Metrics)| Row {
                kind: Kind::Floor,
                tta: None,
                figures: (name.to_owned(), metrics),
            };
            rows.extend(floors(&judged).into_iter().map(floor));
        }
        let generators = by_generator(&judged);
        Self { track, items, systems, rows, judged, generators }
    }

    /// Every system's figures.
    pub(super) fn rows(&self) -> Vec<(String, Metrics)> {
        self.rows.iter().map(|row| row.figures.clone()).collect()
    }

    fn text(&self) -> String {
        let prompts = self.rows.first().map_or(0, |row| row.figures.1.prompts);
        let mut text = format!("{}: {} items with MOS, {prompts} prompts\n", title(self.track), self.judged.len());
        text += &table(&self.rows());
        if !self.generators.is_empty() {
            text += &format!("\n\n{}", generators(&self.generators));
        }
        text
    }

    fn json(&self) -> Value {
        let row =
            |row: &Row| json!({ "name": row.figures.0, "kind": row.kind, "tta": row.tta, "metrics": row.figures.1 });
        json!({
            "track": self.track,
            "items": self.items.len(),
            "with_mos": self.items.iter().filter(|item| item.mos.is_some()).count(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "generators": self.generators,
        })
    }

    fn section(&self) -> Section {
        Section { title: title(self.track).to_owned(), rows: self.rows(), judged: self.judged.clone() }
    }
}

fn title(track: Track) -> &'static str {
    match track {
        Track::Image => "Images",
        Track::Video => "Videos",
    }
}
