//! Spreadsheets: the first sheet of an XLSX workbook.

use std::io::Cursor;

use anyhow::{Context, bail};
use calamine::{Data, Reader, Xlsx};

use super::table::{Row, Table};

/// Reads every row of the first sheet, the header included.
pub(super) fn read(bytes: Vec<u8>) -> anyhow::Result<Table> {
    let mut workbook = Xlsx::new(Cursor::new(bytes)).context("is no XLSX workbook")?;
    let Some(sheet) = workbook.worksheet_range_at(0) else {
        bail!("has no sheet");
    };
    let sheet = sheet.context("sheet 1 cannot be read")?;
    let first = sheet.start().map_or(1, |(row, _)| u64::from(row) + 1);
    let mut rows: Vec<Row> = (first..).zip(sheet.rows()).map(|(line, cells)| row(line, cells)).collect();
    rows.retain(|row| !row.is_blank());
    Ok(Table { rows, ..Table::default() })
}

fn row(line: u64, cells: &[Data]) -> Row {
    // What the program that wrote the sheet took for a formula and could not calculate.
    match cells.iter().position(|cell| matches!(cell, Data::Error(_))) {
        Some(column) => Row::unreadable(line, format!("cell {} holds a spreadsheet error, no value", column + 1)),
        None => Row::new(line, cells.iter().map(|cell| cell.to_string().trim().to_owned()).collect()),
    }
}
