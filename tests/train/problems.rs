//! Rows that cannot be used are left out, one line each, and never stop or hide anything.

use std::collections::BTreeMap;
use std::fmt::Write;

use pcqa::train::ProblemKind as Kind;
use proptest::prelude::*;

use crate::datasets::parquet;
use crate::support::{Cell, Folder, workbook};

#[test]
fn every_problem_has_its_line() {
    let folder = Folder::with(&["a.png", "b.png", "c.png", "notes.pdf", "x/twice.png", "y/twice.png"]);
    folder.add("empty.png", b"");
    let list = "path,prompt,mos\n\
        a.png,cat,1\n\
        b.png,,1\n\
        gone.png,cat,1\n\
        empty.png,cat,1\n\
        twice.png,cat,1\n\
        notes.pdf,cat,1\n\
        b.png,cat,good\n\
        b.png,cat,NaN\n\
        b.png,cat,\"1,5\"\n\
        a.png,cat,1\n\
        a.png,cat,2\n\
        a.png,dog,2\n\
        b.png,cat\n\
        ,cat,1\n\
        c.png,cat,inf\n";
    folder.add("info.csv", list.as_bytes());
    let dataset = folder.read();
    let expected = [
        (3, Kind::Prompt, "b.png"),
        (4, Kind::File, "gone.png is not below"),
        (5, Kind::File, "empty.png is empty"),
        (6, Kind::File, "several folders"),
        (7, Kind::Ending, "notes.pdf"),
        (8, Kind::Mos, "\"good\""),
        (9, Kind::Mos, "\"NaN\""),
        (10, Kind::Mos, "\"1,5\""),
        (11, Kind::Duplicate, "line 2 already"),
        (12, Kind::Duplicate, "line 2 already, with another MOS"),
        (14, Kind::Row, "has 2 fields, the first row has 3"),
        (15, Kind::Row, "names no file"),
        (16, Kind::Mos, "\"inf\""),
    ];
    let found = &dataset.problems.entries;
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (problem, (line, kind, words)) in found.iter().zip(expected) {
        assert_eq!((problem.line, problem.kind), (Some(line), kind), "{problem}");
        assert!(problem.text.contains(words), "{problem}");
    }
    let used: Vec<_> = dataset.items.iter().map(|item| (item.name.as_str(), item.prompt.as_str())).collect();
    assert_eq!(used, [("a.png", "cat"), ("a.png", "dog")]);
    assert_eq!(dataset.problems.rows, 15);
    let summary = dataset.problems.summary().unwrap();
    assert!(summary.starts_with("13 of 15 rows are left out (2 unreadable row, 3 missing file"), "{summary}");
}

#[test]
fn thousands_of_them_neither_stop_nor_hide() {
    let folder = Folder::with(&["good.png"]);
    let mut list = "path,prompt,mos\n".to_owned();
    for number in 0..20_000 {
        match number % 4 {
            0 => writeln!(list, "gone{number}.png,cat,1"),
            1 => writeln!(list, "good.png,cat,none{number}"),
            2 => writeln!(list, "good.png,\"cat,{number}"),
            _ => writeln!(list, "good.png,prompt {number},{number}"),
        }
        .unwrap();
    }
    folder.add("info.csv", list.as_bytes());
    let dataset = folder.read();
    assert_eq!(dataset.items.len(), 5000);
    let counts = BTreeMap::from([(Kind::File, 5000), (Kind::Mos, 5000), (Kind::Row, 5000)]);
    assert_eq!(dataset.problems.counts(), counts);
    let lines: Vec<u64> = dataset.problems.entries.iter().filter_map(|problem| problem.line).collect();
    let expected: Vec<u64> = (2..20_002).filter(|line| (line - 2) % 4 != 3).collect();
    assert_eq!(lines, expected);
}

#[test]
fn strict_refuses_any_and_nobody_takes_nothing() {
    let folder = Folder::with(&["a.png"]);
    folder.add("info.jsonl", b"{\"path\": \"a.png\", \"prompt\": \"cat\"}\n{\"path\": \"a.png\", \n[]\n");
    let mut arguments = folder.arguments();
    arguments.strict = true;
    let refusal = format!("{:#}", arguments.read().unwrap_err());
    assert!(refusal.contains("2 of 3 rows") && refusal.contains("line 2: unreadable row: EOF"), "{refusal}");
    assert_eq!(folder.read().problems.entries[1].text, "is no JSON object");

    folder.add("info.jsonl", b"{\"path\": \"b.png\", \"prompt\": \"cat\"}\n");
    let refusal = folder.refusal();
    assert!(refusal.contains("1 of 1 rows are left out (1 missing file)") && refusal.contains("b.png"), "{refusal}");
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    let folder = Folder::with(&["a.png"]);
    let cases: [(&str, &[u8], &str); 11] = [
        ("data.parquet", b"PAR1 no more", "data.parquet: is no Parquet file"),
        ("info.xlsx", b"PK no more", "info.xlsx: is no XLSX workbook"),
        ("train.txt", b"a.png a cat 3\n", "train.txt: no line is of the form file|prompt|mos"),
        ("info.csv", b"file,text\na.png,cat\n", "info.csv: has no header line"),
        ("info.csv", b"path,text\na.png,cat\n", "info.csv: has no header line"),
        ("info.csv", b"path;prompt;mos\na.png;cat;3\n", "prompt; its first line is \"path;prompt;mos\""),
        ("info.csv", b"path,prompt,prompt\na.png,cat,dog\n", "info.csv: has more than one column `prompt`"),
        ("info.csv", b"", "info.csv: holds no rows"),
        ("info.csv", b"path,prompt\n", "info.csv: holds no rows"),
        ("info.jsonl", b"\n", "info.jsonl: holds no rows"),
        ("info.jsonl", b"{\"file\": \"a.png\"}\n", "info.jsonl: has no column `path`; its columns are file"),
    ];
    for (list, bytes, expected) in cases {
        folder.add(list, bytes);
        let mut arguments = folder.arguments();
        arguments.list = Some(list.into());
        let refusal = format!("{:#}", arguments.read().unwrap_err());
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    let refusal = format!("{:#}", pcqa::train::DatasetArguments::new(folder.at("nowhere")).read().unwrap_err());
    assert!(refusal.contains("nowhere: cannot be read"), "{refusal}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is wrong with the bytes of a list, there is an answer.
    #[test]
    fn damaged_lists_are_read_or_refused(place in any::<prop::sample::Index>(), byte: u8, cut in any::<bool>()) {
        let row = || vec![Cell::Text("a.png"), Cell::Text("a cat"), Cell::Number(3.5)];
        let titles = vec![Cell::Text("name"), Cell::Text("prompt"), Cell::Text("mos")];
        for (list, mut bytes) in [("a.parquet", parquet()), ("b.xlsx", workbook(&[titles, row(), row()]))] {
            let at = place.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let folder = Folder::with(&["a.png"]);
            folder.add(list, &bytes);
            let _ = folder.arguments().read();
        }
    }
}
