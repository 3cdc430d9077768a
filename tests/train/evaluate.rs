//! `pcqa-train evaluate` from outside: rows, floors, other systems' predictions, files that are no pictures.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const GENERATORS: [&str; 2] = ["brush", "lens"];

/// 24 pictures of 8 prompts by two generators. `lens` is liked better; its item 1 is no picture.
fn data(folder: &Path, with_mos: bool) {
    let mut list = format!("path,prompt,{}generator\n", if with_mos { "mos," } else { "" });
    for i in 0..24_u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * (i + 1)) as u8, (y * 3 + i * 40) as u8, (x * y) as u8]);
        let path = folder.join(format!("{i}.png"));
        image::RgbImage::from_fn(40, 30, shade).save(&path).unwrap();
        let mos =
            if with_mos { format!("{},", 2.0 + f64::from(i % 2) + f64::from(i % 5) / 10.0) } else { String::new() };
        list += &format!("{i}.png,a thing of kind {},{mos}{}\n", i % 8, GENERATORS[i as usize % 2]);
    }
    fs::write(folder.join("1.png"), "no picture").unwrap();
    fs::write(folder.join("list.csv"), list).unwrap();
}

fn evaluate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pcqa-train")).arg("evaluate").args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = evaluate(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn refusal(arguments: &[&str]) -> String {
    let output = evaluate(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    row_of(&report["tracks"][0], name)
}

fn row_of<'a>(track: &'a Value, name: &str) -> &'a Value {
    let rows = track["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name} in {rows:#?}"))
}

fn value(row: &Value, figure: &str) -> f64 {
    row["metrics"][figure]["value"].as_f64().unwrap_or_else(|| panic!("no {figure} in {row}"))
}

#[test]
fn every_judge_has_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    data(folder.path(), true);
    let list = path("list.csv");

    // A judge who knows the opinions turned round, and one who was asked about half of the items.
    let opinions: Vec<(u32, f64)> = (0..24).map(|i| (i, 2.0 + f64::from(i % 2) + f64::from(i % 5) / 10.0)).collect();
    let turned: String = opinions.iter().map(|(i, mos)| format!("{i}.png,{}\n", 100.0 - 10.0 * mos)).collect();
    let half: String = opinions[..12].iter().map(|(i, mos)| format!("{i}.png,{mos}\n")).collect();
    fs::write(path("turned.csv"), turned).unwrap();
    fs::write(path("half.csv"), format!("name,score\n{half}")).unwrap();

    let (scores, page, turned) = (path("scores.csv"), path("report"), format!("Turned={}", path("turned.csv")));
    let half = path("half.csv");
    let first = ["--data", &list, "--json", "--shuffle-prompts", "--predict-to", &scores, "--report", &page];
    let others = ["--predictions", &turned, "--predictions", &half];
    let report = json(&[&first[..], &others[..]].concat());

    let track = &report["tracks"][0];
    assert_eq!((&track["track"], &track["items"], &track["with_mos"]), (&"image".into(), &24.into(), &24.into()));
    assert_eq!(report["failed"].as_array().unwrap().len(), 1);
    assert_eq!(report["failed"][0]["name"], "1.png");
    let names: Vec<&str> = track["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "ensemble, TTA", "the best setting first: {names:?}");
    let experts = names.iter().filter(|name| !name.contains("ensemble") && !name.contains("floor")).count();
    assert_eq!(experts, 2 * 3 + 2, "three experts with and without augmentation, two files: {names:?}");
    assert_eq!(row(&report, "ensemble, TTA")["metrics"]["items"], 23);
    assert_ne!(
        row(&report, "ensemble, TTA")["metrics"]["rmse"],
        row(&report, "ensemble, prompts shuffled, TTA")["metrics"]["rmse"]
    );
    assert!((value(row(&report, "Turned"), "srcc") + 1.0).abs() < 1e-12);
    let half = row(&report, "half");
    assert!((value(half, "srcc") - 1.0).abs() < 1e-12 && value(half, "rmse") < 1e-12);
    assert_eq!((&half["metrics"]["items"], &half["kind"]), (&12.into(), &"predictions".into()));
    assert!(value(row(&report, "floor: generator"), "srcc") > 0.7);
    assert_eq!(track["generators"].as_array().unwrap().len(), 2);
    assert!(fs::read_to_string(folder.path().join("report/report.html")).unwrap().contains("ensemble, TTA"));

    // What was written scores as what was scored.
    let same = format!("again={scores}");
    let again = json(&["--data", &list, "--json", "--no-bundle", "--predictions", &same]);
    assert_eq!(row(&again, "again")["metrics"], row(&report, "ensemble, TTA")["metrics"]);
    assert!(again["bundle"].is_null());
}

#[test]
fn what_people_see_is_a_table() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), true);
    let list = folder.path().join("list.csv");
    let output = evaluate(&["--data", &list.to_string_lossy(), "--no-tta"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.starts_with("Images: 23 items with MOS, 8 prompts\n"), "{stdout}");
    for part in ["SRCC", "ensemble", "floor: generator, prompt", "brush", "..", "-: not defined; SRCC within generator"]
    {
        assert!(stdout.contains(part), "no {part} in {stdout}");
    }
    assert!(!stdout.contains("TTA"), "{stdout}");
    assert!(stderr.contains("1.png: ") && stderr.contains("left out: 1 of 24 items"), "{stderr}");
}

#[test]
fn data_without_opinions_are_predicted_only() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), false);
    let list = folder.path().join("list.csv").to_string_lossy().into_owned();
    let scores = folder.path().join("scores.csv");
    assert!(refusal(&["--data", &list]).contains("has no MOS, so there is nothing to compare with"));
    let output = evaluate(&["--data", &list, "--predict-to", &scores.to_string_lossy()]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let scores = fs::read_to_string(scores).unwrap();
    assert_eq!(scores.lines().count(), 1 + 23);
    assert!(scores.starts_with("name,score\n0.png,"), "{scores}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_work() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), true);
    let list = folder.path().join("list.csv").to_string_lossy().into_owned();
    let file = folder.path().join("bad.csv");
    let file_name = file.to_string_lossy();
    fs::write(&file, "a.png,1\nb.png,fine\n").unwrap();
    let problem = refusal(&["--data", &list, "--predictions", &file_name]);
    assert!(problem.contains("bad.csv: line 2: score: \"fine\" is not a finite number"), "{problem}");
    fs::write(&file, "elsewhere.png,1\n").unwrap();
    let problem = refusal(&["--data", &list, "--no-bundle", "--predictions", &file_name]);
    assert!(problem.contains("no prediction is for an item of the data"), "{problem}");
    let problem = refusal(&["--data", &list, "--bundle", "/nonexistent"]);
    assert!(problem.contains("/nonexistent"), "{problem}");
    let problem = refusal(&["--data", &list, "--device", "tpu"]);
    assert!(problem.contains("device: is \"tpu\", expected auto, cpu, cuda or cuda:N"), "{problem}");
    assert_eq!(evaluate(&["--data", &list, "--loaders", "0"]).status.code(), Some(2));
    assert_eq!(evaluate(&["--data", &list, "--no-bundle"]).status.code(), Some(2));
}

/// A judgement that nobody can make by chance, without the prompt, or by looking at sizes of files.
#[test]
fn the_compiled_in_bundle_judges_scenes_of_prompts_that_it_never_saw() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_string_lossy().into_owned();
    let synth = ["synth", "--seed", "77", "--part", "test", "--images", "240", "--videos", "120", "--out", &data];
    assert!(Command::new(env!("CARGO_BIN_EXE_pcqa-train")).args(synth).status().unwrap().success());
    let report = json(&["--data", &data, "--shuffle-prompts", "--no-tta", "--json"]);
    for (track, least, prompts) in [("image", 0.88, 0.2), ("video", 0.8, 0.15)] {
        let of_track = report["tracks"].as_array().unwrap().iter().find(|of| of["track"] == track).unwrap();
        let srcc = |name: &str| value(row_of(of_track, name), "srcc");
        let own = srcc("ensemble");
        assert!(own > least, "{track}: {own}");
        assert!(own - srcc("ensemble, prompts shuffled") > prompts, "{track}: {}", srcc("ensemble, prompts shuffled"));
        assert!(own - srcc("floor: generator, prompt") > 0.4, "{track}: {}", srcc("floor: generator, prompt"));
    }
}
