//! Parquet lists: flat columns, compressed or not.

use anyhow::{Context, bail};
use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::table::{Row, Table};

/// Reads every row; a group of rows that is damaged costs its rows. Rows count as lines.
pub(super) fn read(bytes: Vec<u8>) -> anyhow::Result<Table> {
    // The library panics over some damaged numbers (negative places of columns) instead of refusing them.
    std::panic::catch_unwind(|| read_whole(bytes)).unwrap_or_else(|_| bail!("is a damaged Parquet file"))
}

fn read_whole(bytes: Vec<u8>) -> anyhow::Result<Table> {
    let reader = SerializedFileReader::new(Bytes::from(bytes)).context("is no Parquet file")?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let header = schema.root_schema().get_fields().iter().map(|column| column.name().to_owned()).collect();
    let mut rows = Vec::new();
    let mut line = 1;
    for (number, group) in reader.metadata().row_groups().iter().enumerate() {
        let next = line + u64::try_from(group.num_rows()).unwrap_or(0);
        let found = reader.get_row_group(number).and_then(|group| {
            group.get_row_iter(None)?.zip(line..).try_for_each(|(row, line)| {
                let cells = row?.get_column_iter().map(|(_, field)| cell(field)).collect();
                rows.push(Row::new(line, cells));
                Ok(())
            })
        });
        if let Err(error) = found {
            // One entry for all of them: how many rows a damaged file claims to have is nothing to go by.
            let lost = rows.last().map_or(line, |row: &Row| line.max(row.line + 1));
            rows.push(Row::unreadable(lost, format!("and all rows before {next} cannot be read: {error}")));
        }
        line = next;
    }
    Ok(Table { header: Some(header), rows, ..Table::default() })
}

fn cell(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Str(text) => text.trim().to_owned(),
        // Text by a writer that did not say so.
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).trim().to_owned(),
        Field::Float(number) => number.to_string(),
        Field::Double(number) => number.to_string(),
        other => other.to_string(),
    }
}
