//! Comma-separated lists. A quote that is not closed costs the row that opens it, not the rows behind it.

use std::io::Cursor;

use csv::{Position, Reader, ReaderBuilder, StringRecord, Trim};

use super::table::{Row, Table};

/// Reads every row, the header included. A row has as many fields as the first one.
pub(super) fn read(text: &str) -> Table {
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(Cursor::new(text));
    let mut rows: Vec<Row> = Vec::new();
    let mut record = StringRecord::new();
    let mut expected = None;
    loop {
        let start = record_start(text, reader.position());
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                rows.push(Row::unreadable(start.line(), error.to_string()));
                break;
            }
        }
        let raw = text.get(start.byte() as usize..reader.position().byte() as usize).unwrap_or_default();
        let problem = match expected {
            _ if !is_sound(raw) => Some("opens a quote that it does not close".to_owned()),
            Some(expected) if record.len() != expected && !record.iter().all(str::is_empty) => {
                Some(format!("has {} fields, the first row has {expected}", record.len()))
            }
            _ => None,
        };
        match problem {
            None => {
                expected = expected.or(Some(record.len()));
                rows.push(Row::new(start.line(), record.iter().map(str::to_owned).collect()));
            }
            Some(problem) => {
                rows.push(Row::unreadable(start.line(), problem));
                if !go_to_next_line(&mut reader, text, &start) {
                    break;
                }
            }
        }
    }
    rows.retain(|row| !row.is_blank());
    Table { rows, ..Table::default() }
}

/// Where a record really begins: the reader stands before the line breaks that it will skip.
fn record_start(text: &str, position: &Position) -> Position {
    let rest = text.as_bytes().get(position.byte() as usize..).unwrap_or_default();
    let breaks = rest.iter().take_while(|&&byte| byte == b'\n' || byte == b'\r');
    let (mut byte, mut line) = (position.byte(), position.line());
    for &skipped in breaks {
        byte += 1;
        line += u64::from(skipped == b'\n');
    }
    let mut start = position.clone();
    start.set_byte(byte).set_line(line);
    start
}

/// Whether a record of several lines is one: each of its quoted fields ends before a comma or the record's end. Where
/// a quote is not closed, the next one in the text is taken for its end, rows later and in the middle of a field.
fn is_sound(record: &str) -> bool {
    let record = record.trim_end();
    if !record.contains('\n') {
        return true;
    }
    let mut bytes = record.bytes().peekable();
    let (mut is_quoted, mut is_field_start) = (false, true);
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if is_quoted && bytes.peek() == Some(&b'"') => _ = bytes.next(),
            b'"' if is_quoted => {
                is_quoted = false;
                if !matches!(bytes.peek(), None | Some(b',')) {
                    return false;
                }
            }
            b'"' if is_field_start => is_quoted = true,
            _ => {}
        }
        is_field_start = byte == b',' && !is_quoted;
    }
    !is_quoted
}

/// Continues behind the line in which a faulty record begins; false where that was the last one.
fn go_to_next_line(reader: &mut Reader<Cursor<&str>>, text: &str, start: &Position) -> bool {
    let rest = text.as_bytes().get(start.byte() as usize..).unwrap_or_default();
    let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
        return false;
    };
    let mut next = start.clone();
    next.set_byte(start.byte() + length as u64 + 1).set_line(start.line() + 1);
    reader.seek(next).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(u64, Result<Vec<String>, String>)> {
        read(text).rows.into_iter().map(|row| (row.line, row.cells)).collect()
    }

    fn good(line: u64, cells: &[&str]) -> (u64, Result<Vec<String>, String>) {
        (line, Ok(cells.iter().map(|&cell| cell.to_owned()).collect()))
    }

    #[test]
    fn lines_are_counted_over_breaks_of_all_kinds() {
        let text = "path,prompt\r\n\r\n\n a.png ,\"two\r\nlines\"\r\nb.png,\"say \"\"hi\"\"\"\n";
        let expected =
            [good(1, &["path", "prompt"]), good(4, &["a.png", "two\r\nlines"]), good(6, &["b.png", "say \"hi\""])];
        assert_eq!(rows(text), expected);
    }

    #[test]
    fn a_wrong_row_costs_itself_alone() {
        let text = "a,b,c\n1,2,3\n1,2\n1,2,3,4\n,,\n4,5,6\n";
        let found = rows(text);
        assert_eq!(found.len(), 5);
        assert_eq!(found[2], (3, Err("has 2 fields, the first row has 3".to_owned())));
        assert_eq!(found[3], (4, Err("has 4 fields, the first row has 3".to_owned())));
        assert_eq!(found[4], good(6, &["4", "5", "6"]));
    }

    #[test]
    fn an_open_quote_costs_its_own_row_alone() {
        // Never closed, and closed by the quote of a later row: with the right number of fields, and with more.
        for later in ["c,plain\n", "c,\"quoted\"\n", "c,\"quoted, too\"\n"] {
            let found = rows(&format!("path,prompt\na,\"open\nb,plain\n{later}d,last\n"));
            let problems: Vec<u64> = found.iter().filter(|(_, cells)| cells.is_err()).map(|&(line, _)| line).collect();
            assert_eq!(problems, [2], "{found:?}");
            assert_eq!(found.len(), 5);
        }
    }

    #[test]
    fn inches_are_no_quotes() {
        assert_eq!(rows("a,5\" tall\nb,6\" tall\n"), [good(1, &["a", "5\" tall"]), good(2, &["b", "6\" tall"])]);
    }
}
