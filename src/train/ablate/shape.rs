//! Tables as the paper has them: a row for each system, SRCC, PLCC and main score under each heading.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::train::statistics::{Figure, Metrics};

/// A table whose rows have `labels` and then, for each of `headings`, three figures.
pub(super) fn table(labels: &[&str], headings: &[&str], rows: &[(Vec<String>, Vec<Option<Metrics>>)]) -> Table {
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
