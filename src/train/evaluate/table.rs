//! The figures as a table for terminals.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::train::statistics::{Figure, GeneratorFigures, Metrics};

/// A row for each system: every figure with its interval below it. A line below the table says why there are gaps.
pub fn table(rows: &[(String, Metrics)]) -> String {
    let mut table = Table::new();
    // The last word of a long title goes below the others.
    let titles = Metrics::TITLES.iter().map(|title| title.rsplitn(2, ' ').collect::<Vec<_>>());
    let mut header = vec![String::new()];
    header.extend(titles.map(|words| words.into_iter().rev().collect::<Vec<_>>().join("\n")));
    header.push("items".to_owned());
    table.load_style(presets::NOTHING).set_header(header);
    for (name, metrics) in rows {
        let mut cells = vec![Cell::new(name)];
        cells.extend(metrics.figures().map(|figure| Cell::new(text(figure))));
        cells.push(Cell::new(metrics.items));
        table.add_row(cells);
    }
    noted(table, Metrics::gaps(rows.iter().map(|(_, metrics)| metrics)))
}

/// A row for each generator, and why there are gaps.
pub(super) fn generators(figures: &[GeneratorFigures]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["generator", "items", "mean MOS", "mean predicted", "SRCC"]);
    for figures in figures {
        table.add_row([
            figures.generator.clone(),
            figures.items.to_string(),
            format!("{:.3}", figures.mos),
            format!("{:.3}", figures.predicted),
            figures.srcc.map_or("-".to_owned(), |srcc| format!("{srcc:.3}")),
        ]);
    }
    noted(table, GeneratorFigures::gaps(figures))
}

/// With all columns but the first to the right, and what its dashes mean.
fn noted(mut table: Table, gaps: Option<String>) -> String {
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    gaps.map_or_else(|| table.to_string(), |gaps| format!("{table}\n-: {gaps}"))
}

fn text(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure { value, interval: None }) => format!("{value:.3}"),
        Some(Figure { value, interval: Some([low, high]) }) => format!("{value:.3}\n{low:.3}..{high:.3}"),
    }
}
