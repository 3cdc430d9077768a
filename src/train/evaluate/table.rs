//! The figures as a table for terminals.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::train::statistics::{Figure, GeneratorFigures, Metrics};

/// A row for each system: every figure with its interval below it.
pub fn table(rows: &[(String, Metrics)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "",
        "SRCC",
        "PLCC",
        "PLCC\nfitted",
        "KRCC",
        "RMSE",
        "RMSE\nfitted",
        "main",
        "SRCC within\ngenerator",
        "items",
    ]);
    for (name, metrics) in rows {
        let figures = [
            metrics.srcc,
            metrics.plcc,
            metrics.plcc_fitted,
            metrics.krcc,
            metrics.rmse,
            metrics.rmse_fitted,
            metrics.main,
            metrics.srcc_within_generator,
        ];
        let mut cells = vec![Cell::new(name)];
        cells.extend(figures.into_iter().map(|figure| Cell::new(text(figure))));
        cells.push(Cell::new(metrics.items));
        table.add_row(cells);
    }
    right_aligned(table)
}

/// A row for each generator.
pub(super) fn generators(figures: &[GeneratorFigures]) -> Table {
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
    right_aligned(table)
}

/// All columns but the first.
fn right_aligned(mut table: Table) -> Table {
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

fn text(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure { value, interval: None }) => format!("{value:.3}"),
        Some(Figure { value, interval: Some([low, high]) }) => format!("{value:.3}\n{low:.3}..{high:.3}"),
    }
}
