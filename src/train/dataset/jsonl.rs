//! Lists with one JSON object per line.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::table::{Row, Table};

/// Reads every line; the columns are the keys of all of them.
pub(super) fn read(text: &str) -> Table {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let objects: Vec<(u64, Result<_, String>)> = lines.map(|(number, line)| (number, parse(line))).collect();
    let keys: BTreeSet<&String> =
        objects.iter().filter_map(|(_, object)| object.as_ref().ok()).flat_map(Map::keys).collect();
    let header: Vec<String> = keys.into_iter().cloned().collect();
    let rows = objects.into_iter().map(|(line, object)| match object {
        Ok(object) => Row::new(line, header.iter().map(|key| cell(object.get(key))).collect()),
        Err(problem) => Row::unreadable(line, problem),
    });
    Table { rows: rows.collect(), header: Some(header.clone()), ..Table::default() }
}

fn parse(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("is no JSON object".to_owned()),
        Err(error) => {
            // serde_json counts lines within the text it was given, which is always the first.
            let message = error.to_string();
            Err(message.split(" at line 1 ").next().unwrap_or(&message).to_owned())
        }
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(other) => other.to_string(),
    }
}
