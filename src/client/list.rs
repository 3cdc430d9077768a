//! Lists of items: CSV with a header line, or JSON lines. A list is read and checked whole; a fault names its line.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::Error;
use super::items::Item;

/// Reads a `.csv` or `.jsonl` list. Paths are relative to the list.
///
/// # Errors
/// A list that cannot be read, has another ending, lacks a column, has a faulty line or no item at all.
pub fn read(list: &Path) -> Result<Vec<Item>, Error> {
    let fail = |problem: String| Error::Usage(format!("{}: {problem}", list.display()));
    let parse = match list.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref()
    {
        Some("csv") => parse_csv,
        Some("jsonl") => parse_jsonl,
        _ => return Err(fail("a list must end in .csv or .jsonl".to_owned())),
    };
    let bytes = fs::read(list).map_err(|error| fail(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        fail(format!("line {line}: is not UTF-8"))
    })?;
    let entries = parse(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(fail)?;
    if entries.is_empty() {
        return Err(fail("holds no items".to_owned()));
    }
    let folder = list.parent().unwrap_or(Path::new(""));
    entries
        .into_iter()
        .map(|(line, entry)| entry.into_item(folder).map_err(|e| fail(format!("line {line}: {e}"))))
        .collect()
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    id: Id,
    path: String,
    prompt: String,
}

/// Names are often numbers.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Id {
    #[default]
    None,
    Text(String),
    Number(serde_json::Number),
}

impl Entry {
    fn into_item(self, folder: &Path) -> Result<Item, String> {
        if self.path.is_empty() {
            return Err("path is empty".to_owned());
        }
        let id = match self.id {
            Id::None => String::new(),
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        };
        let path = folder.join(&self.path);
        Ok(Item { id, name: self.path, path, prompt: self.prompt.into() })
    }
}

/// Entries with their lines, from 1.
type Entries = Vec<(u64, Entry)>;

fn parse_csv(text: &str) -> Result<Entries, String> {
    if let Some(line) = open_quote(text) {
        return Err(format!("line {line}: opens a quote that is never closed"));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| csv_problem(&error))?.clone();
    for name in ["path", "prompt", "id"] {
        if header.iter().filter(|title| title.eq_ignore_ascii_case(name)).count() > 1 {
            return Err(format!("the header line has more than one column `{name}`"));
        }
    }
    let column = |name: &str| header.iter().position(|title| title.eq_ignore_ascii_case(name));
    let required = |name: &str| column(name).ok_or_else(|| format!("the header line has no column `{name}`"));
    let (path, prompt, id) = (required("path")?, required("prompt")?, column("id"));
    let mut entries = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_problem(&error))?;
        let field = |index: usize| record.get(index).unwrap_or_default().to_owned();
        let line = record.position().map_or(0, csv::Position::line);
        let id = id.map_or(Id::None, |id| Id::Text(field(id)));
        entries.push((line, Entry { id, path: field(path), prompt: field(prompt) }));
    }
    Ok(entries)
}

/// The line of a quote that opens a field and is never closed: the CSV reader would take the rest as one field.
fn open_quote(text: &str) -> Option<u64> {
    let (mut line, mut opened, mut is_field_start) = (1, None, true);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if opened.is_some() && bytes.peek() == Some(&b'"') => _ = bytes.next(),
            b'"' if opened.is_some() => opened = None,
            b'"' if is_field_start => opened = Some(line),
            _ => {}
        }
        is_field_start = matches!(byte, b',' | b'\n' | b'\r');
        line += u64::from(byte == b'\n');
    }
    opened
}

fn csv_problem(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos: Some(position), expected_len, len } => {
            format!("line {}: has {len} fields, the header line has {expected_len}", position.line())
        }
        _ => error.to_string(),
    }
}

fn parse_jsonl(text: &str) -> Result<Entries, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| match serde_json::from_str(line) {
            Ok(entry) => Ok((number, entry)),
            Err(error) => {
                // serde_json counts lines within the text it was given, which is always the first.
                let message = error.to_string();
                let problem = message.split(" at line 1 ").next().unwrap_or(&message);
                Err(format!("line {number}: {problem}"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quote_that_opens_a_field_must_be_closed() {
        for closed in ["", "a,b\n", "a,\"b\nc\",d", "a,5\" tall\n", "a,\"say \"\"hi\"\"\"\n", "\"\",\"\""] {
            assert_eq!(open_quote(closed), None, "{closed:?}");
        }
        assert_eq!(open_quote("path,prompt\na,\"b\nc,d\n"), Some(2));
        assert_eq!(open_quote("\"\"\""), Some(1));
    }
}
