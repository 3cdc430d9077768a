//! `pcqa-train check` as people run it.

use std::fs;
use std::process::Command;

use crate::support::{Folder, picture};

/// Exit status, standard output and standard error.
fn check(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pcqa-train"))
        .args(["check", "--data"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_list_without_rows_is_that_and_nothing_else() {
    let folder = Folder::new();
    folder.add("info.csv", b"path,prompt,mos\n");
    let (status, text, error) = check(&folder, &[]);
    assert_eq!(status, 1);
    assert!(text.contains("0, 0 usable") && !text.contains("predicted"), "{text}");
    assert!(error.contains("holds no rows"), "{error}");
}

#[test]
fn one_mos_is_one_bin() {
    let folder = Folder::with(&["a.png", "b.png"]);
    folder.add("info.csv", b"path,prompt,mos\na.png,cat,3\nb.png,dog,3\n");
    let (_, text, _) = check(&folder, &[]);
    let bins: Vec<&str> = text.lines().skip_while(|line| !line.contains("mos from")).skip(1).collect();
    assert_eq!(bins.iter().filter(|line| line.contains('#')).count(), 1, "{text}");
    assert!(bins[0].split_whitespace().take(3).eq(["3.00", "3.00", "2"]) && bins.len() == 1, "{text}");
}

#[test]
fn it_counts_what_is_there_and_lists_what_is_not() {
    let folder = Folder::new();
    let mut list = "path,prompt,mos,generator\n".to_owned();
    for number in 0..30 {
        folder.add(&format!("{number}.png"), &picture(number, 8, 8));
        list += &format!("{number}.png,prompt {},{},{}\n", number / 3, 1.0 + f64::from(number) / 10.0, number % 2);
    }
    for number in 0..50 {
        list += &format!("gone{number}.png,cat,1,0\n");
    }
    folder.add("info.csv", list.as_bytes());
    folder.add("7.png", b"no picture");

    let (status, text, _) = check(&folder, &[]);
    assert_eq!(status, 0, "{text}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let has = |text: &str, expected: &str| text.lines().any(|line| words(line) == words(expected));
    assert!(has(&text, "rows 80, 30 usable"), "{text}");
    assert!(text.contains("column mos: 1.000 to 3.900, mean 2.450, standard deviation 0.866"), "{text}");
    assert!(has(&text, "image 30 30 10 3 to 3 2 0"), "{text}");
    assert!(has(&text, "0 15 2.400 0.864") && has(&text, "1 15 2.500 0.864"), "{text}");
    assert!(text.contains("50 of 80 rows are left out (50 missing file)"), "{text}");
    assert_eq!(text.matches("missing file: gone").count(), 20, "{text}");
    assert!(text.contains("and 30 more"), "{text}");

    let file = folder.at("problems.txt");
    let (status, text, error) = check(&folder, &["--decode", "--problems", file.to_str().unwrap(), "--strict"]);
    assert_eq!(status, 1);
    assert!(text.contains("29 usable"), "{text}");
    assert!(error.contains("51 of 80 rows are left out (50 missing file, 1 undecodable file), which --strict refuses"));
    let problems = fs::read_to_string(file).unwrap();
    assert_eq!(problems.lines().count(), 51);
    assert!(problems.contains("undecodable file: 7.png: is not in a known format"), "{problems}");
}
