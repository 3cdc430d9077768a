//! Tables as the paper has them, for terminals.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::model::Track;
use crate::train::floors::floors;
use crate::train::report::Comparison;
use crate::train::statistics::{Figure, Judged, Metrics};

/// What can be had of the same items without looking at a pixel, by track: a row each, the same under all `headings`.
pub(super) fn floor_rows(
    judged: &BTreeMap<Track, Vec<Judged>>,
    labels: usize,
    headings: usize,
) -> Vec<(Vec<String>, Vec<Option<Metrics>>)> {
    let several = judged.len() > 1;
    let of_track = |(track, judged): (&Track, &Vec<Judged>)| {
        let track = if several { format!(", {}s", track.name()) } else { String::new() };
        floors(judged).into_iter().map(move |(name, metrics)| {
            let mut names = vec![String::new(); labels];
            if let Some(first) = names.first_mut() {
                *first = format!("{name}{track}");
            }
            (names, vec![Some(metrics); headings])
        })
    };
    judged.iter().flat_map(of_track).collect()
}

pub(super) fn table(comparison: &Comparison) -> Table {
    let Comparison { labels, headings, rows } = comparison;
    let mut table = Table::new();
    let mut header: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
    for heading in headings {
        let over = |name: &str| if heading.is_empty() { name.to_owned() } else { format!("{heading}\n{name}") };
        header.extend(["SRCC", "PLCC", "main"].map(over));
    }
    table.load_style(presets::NOTHING).set_header(header);
    for (names, cells) in rows {
        let mut row: Vec<Cell> = names.iter().map(Cell::new).collect();
        for metrics in cells {
            let figures = metrics.as_ref().map_or([None; 3], |metrics| [metrics.srcc, metrics.plcc, metrics.main]);
            row.extend(figures.map(|figure| Cell::new(shown(figure))));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(labels.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn shown(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure { value, interval: None }) => format!("{value:.3}"),
        Some(Figure { value, interval: Some([low, high]) }) => format!("{value:.3}\n{low:.3}..{high:.3}"),
    }
}
