//! Comma-separated lists. A quote that is not closed costs the row that opens it, not the rows behind it. A quote behind
//! a comma and a blank opens a field as well.

use std::io::Cursor;

use csv::{Position, Reader, ReaderBuilder, StringRecord, Trim};

use super::table::{Row, Table};

/// Reads every row, the header included. A row has as many fields as the first one.
pub(super) fn read(text: &str) -> Table {
    let mut reader = options().from_reader(Cursor::new(text));
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
        let tight = without_blanks_before_quotes(raw);
        let is_sound = match &tight {
            Some(tight) => read_again(tight, &mut record) && closes_quotes(tight),
            None => !raw.trim_end().contains('\n') || closes_quotes(raw),
        };
        let problem = match expected {
            _ if !is_sound => Some("opens a quote that it does not close".to_owned()),
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

fn options() -> ReaderBuilder {
    let mut options = ReaderBuilder::new();
    options.has_headers(false).flexible(true).trim(Trim::All);
    options
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

/// The record with `a, "b, c"` as `a,"b, c"`, which is what was meant: the library takes a quote for one only where it is
/// a field's first character, and would tear the field apart at its commas. None where there is nothing to change.
fn without_blanks_before_quotes(record: &str) -> Option<String> {
    enum Field {
        /// Nothing but blanks since this place.
        Begins(usize),
        Plain,
        Quoted {
            is_open: bool,
        },
    }
    let (mut tight, mut kept) = (String::new(), 0);
    let mut field = Field::Begins(0);
    for (place, byte) in record.bytes().enumerate() {
        field = match (field, byte) {
            (Field::Begins(start), b'"') => {
                tight.push_str(&record[kept..start]);
                kept = place;
                Field::Quoted { is_open: true }
            }
            // A quote that is doubled closes and opens.
            (Field::Quoted { is_open }, b'"') => Field::Quoted { is_open: !is_open },
            (Field::Begins(_) | Field::Plain | Field::Quoted { is_open: false }, b',') => Field::Begins(place + 1),
            (Field::Begins(start), b' ' | b'\t') => Field::Begins(start),
            (Field::Begins(_), _) => Field::Plain,
            (field, _) => field,
        };
    }
    let is_changed = tight.len() < kept;
    tight.push_str(&record[kept..]);
    is_changed.then_some(tight)
}

/// Reads the one record that `text` is.
fn read_again(text: &str, record: &mut StringRecord) -> bool {
    options().from_reader(text.as_bytes()).read_record(record).unwrap_or(false)
}

/// Whether each quoted field ends before a comma or the record's end. Where a quote is not closed, the next one in the
/// text is taken for its end, rows later and in the middle of a field.
fn closes_quotes(record: &str) -> bool {
    let record = record.trim_end();
    let mut bytes = record.bytes().peekable();
    let (mut is_quoted, mut is_field_start) = (false, true);
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if is_quoted && bytes.peek() == Some(&b'"') => _ = bytes.next(),
            b'"' if is_quoted => {
                is_quoted = false;
                while bytes.next_if(|byte| b" \t".contains(byte)).is_some() {}
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
    fn a_quote_behind_a_blank_opens_a_field() {
        let text = "path, prompt, mos\na.png, \"red, \"\"wet\"\" and 5\", 3\n b.png ,\t\"blue\" , 4\nc.png,plain, 5\n";
        let expected = [
            good(1, &["path", "prompt", "mos"]),
            good(2, &["a.png", "red, \"wet\" and 5", "3"]),
            good(3, &["b.png", "blue", "4"]),
            good(4, &["c.png", "plain", "5"]),
        ];
        assert_eq!(rows(text), expected);
        // Within a field, nothing changes; one that is not closed costs its row, not half a prompt.
        assert_eq!(rows("a,\"say, \"\"hi\"\"\"\n"), [good(1, &["a", "say, \"hi\""])]);
        let found = rows("path, prompt\na, \"two\nlines\"\nb, \"one\"\n");
        assert_eq!(found[1], (2, Err("opens a quote that it does not close".to_owned())));
        assert_eq!(found[3], good(4, &["b", "one"]));
    }

    #[test]
    fn inches_are_no_quotes() {
        assert_eq!(rows("a,5\" tall\nb,6\" tall\n"), [good(1, &["a", "5\" tall"]), good(2, &["b", "6\" tall"])]);
    }
}
