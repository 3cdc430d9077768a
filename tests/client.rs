//! The real `pcqa` binary against a service that answers by script.

#[path = "client/bench.rs"]
mod bench;
#[path = "client/fake.rs"]
mod fake;
#[path = "client/health.rs"]
mod health;
#[path = "client/rank_and_info.rs"]
mod rank_and_info;
#[path = "client/score.rs"]
mod score;
#[path = "client/selection.rs"]
mod selection;
#[path = "client/start.rs"]
mod start;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const MP4: &[u8] = b"\0\0\0\x18ftypisom";

/// A folder with files that start like an image or a video and are this long.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn add(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn media(&self, name: &str, magic: &[u8], length: usize) -> PathBuf {
        let mut bytes = magic.to_vec();
        bytes.resize(length, 0);
        self.add(name, bytes)
    }
}

/// Cells of a table's rows, without header and rule.
fn cells(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Every line of a CSV text under its column names.
fn records(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().unwrap()
}

/// Every line of a JSON lines text.
fn objects(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_client_needs_neither_libtorch_nor_ffmpeg() {
    let output = Command::new("readelf").args(["--dynamic", "--wide", env!("CARGO_BIN_EXE_pcqa")]).output().unwrap();
    let dynamic = String::from_utf8(output.stdout).unwrap();
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().any(|line| line.contains("libc.so")), "{dynamic}");
    for library in ["torch", "c10", "libav", "libsw", "stdc++"] {
        assert!(!needed.iter().any(|line| line.contains(library)), "{library}: {needed:#?}");
    }
}

#[test]
fn help_teaches_examples_units_and_exit_status() {
    let help = |arguments: &[&str]| fake::pcqa("http://127.0.0.1:1", arguments).stdout;
    let top = help(&["--help"]);
    for word in ["score", "rank", "bench", "info", "health", "Examples", "Exit status", "PCQA_SERVER"] {
        assert!(top.contains(word), "{word}: {top}");
    }
    let score = help(&["score", "--help"]);
    for word in ["disagreement", "milliseconds", "standard deviation", "--concurrency", "UNREADABLE"] {
        assert!(score.contains(word), "{word}: {score}");
    }
    let bench = help(&["bench", "--help"]);
    for word in ["Examples", "--sweep", "meant to be sent", "goodput", "latency_ms", "Exit status", "by_code"] {
        assert!(bench.contains(word), "{word}: {bench}");
    }
}
