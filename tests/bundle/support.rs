//! The demo bundle as a directory, with one thing changed.

use pcqa::model::Bundle;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use toml::{Table, Value};

pub const MANIFEST: &str = include_str!("../../src/model/demo/bundle.toml");
pub const HEAD: &str = "head_image_convnext.safetensors";

/// The demo bundle as a directory.
pub fn demo_directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    write_demo(directory.path());
    directory
}

pub fn write_demo(directory: &Path) {
    let demo = Bundle::demo().unwrap();
    for name in demo.manifest().files.keys() {
        fs::write(directory.join(name), demo.file(name).unwrap().bytes()).unwrap();
    }
    fs::write(directory.join("bundle.toml"), MANIFEST).unwrap();
}

/// The demo's manifest after `edit`.
pub fn edited(edit: impl FnOnce(&mut Table)) -> String {
    let mut table: Table = MANIFEST.parse().unwrap();
    edit(&mut table);
    table.to_string()
}

/// The value at a path of keys and, in lists, places, with slashes between them.
pub fn at<'a>(table: &'a mut Table, path: &str) -> &'a mut Value {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    rest.split('/').filter(|step| !step.is_empty()).fold(&mut table[first], |value, step| match step.parse::<usize>() {
        Ok(place) => &mut value[place],
        Err(_) => &mut value[step],
    })
}

pub fn set(path: &str, value: impl Into<Value>) -> String {
    let value = value.into();
    edited(|table| match path.rsplit_once('/') {
        // A key that is not there yet is made.
        Some((parent, key)) if key.parse::<usize>().is_err() => {
            at(table, parent).as_table_mut().unwrap().insert(key.to_owned(), value);
        }
        Some(_) => *at(table, path) = value,
        None => {
            table.insert(path.to_owned(), value);
        }
    })
}

pub fn remove(path: &str) -> String {
    edited(|table| {
        let removed = match path.rsplit_once('/') {
            Some((parent, key)) => at(table, parent).as_table_mut().unwrap().remove(key),
            None => table.remove(path),
        };
        assert!(removed.is_some(), "{path}");
    })
}

pub fn refusal(directory: &Path) -> String {
    Bundle::open(directory).expect_err("was accepted").to_string()
}

pub fn empty() -> Value {
    Value::Array(Vec::new())
}
