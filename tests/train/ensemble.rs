//! `pcqa-train ensemble`: from runs to a bundle that can be served.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pcqa::model::{Bundle, Track};
use tempfile::TempDir;

use crate::runs::{MATERIAL, Run, refuse, stderr, succeed, train};

const SETTINGS: &str =
    "fresh = true\n[split]\nheld_out = 0.25\n[recipe]\nepochs = 4\nbatch = 8\nlearning_rate = 3e-3\n";

fn runs() -> [Run; 2] {
    ["image_convnext", "image_efficientvit"].map(|expert| {
        let run = Run::new(SETTINGS);
        succeed(&mut run.begin_expert(expert, &[]));
        run
    })
}

fn bundle(folders: &[&Path], more: &[&str]) -> (TempDir, PathBuf, std::process::Command) {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("ensemble");
    let mut command = train(&["ensemble", "--dtypes", "f32", "--loaders", "1", "--runs"]);
    command.args(folders).arg("--out").arg(&out).args(more);
    (directory, out, command)
}

#[test]
fn runs_become_a_calibrated_bundle_with_a_card() {
    let runs = runs();
    let folders = runs.each_ref().map(Run::folder);
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    let (_directory, out, mut command) =
        bundle(&folders, &["--licence", "Apache-2.0", "--store", "f16", "--test", &MATERIAL.path("few")]);
    succeed(&mut command);

    let bundle = Bundle::open(&out).unwrap();
    let manifest = bundle.manifest();
    assert!(manifest.trained);
    let names: Vec<&str> = manifest.experts.iter().map(|expert| expert.name.as_str()).collect();
    assert_eq!(names, ["image_convnext", "image_efficientvit"]);
    assert!(manifest.experts.iter().all(|expert| expert.track == Track::Image));
    let settings: Vec<_> = manifest.calibration.iter().map(|entry| (entry.expert.as_str(), entry.tta)).collect();
    for expert in names {
        assert!(settings.contains(&(expert, false)) && settings.contains(&(expert, true)));
    }
    assert!(manifest.mos.min >= 1.0 && manifest.mos.max <= 5.0, "{:?}", manifest.mos);
    let card = fs::read_to_string(out.join("MODEL_CARD.md")).unwrap();
    for part in
        ["## Intended use", "## Figures", "Measured on few", "image_efficientvit", "Apache-2.0", "A dash: not defined"]
    {
        assert!(card.contains(part), "{part}");
    }

    assert!(card.contains("of its 1 prompts experts learnt"), "{card}");

    // Of data of both tracks, the one that it has no expert for is left out.
    let scenes = out.with_file_name("scenes");
    succeed(train(&["synth", "--images", "8", "--videos", "2", "--out"]).arg(&scenes));
    let mut evaluate = train(&["evaluate", "--no-tta", "--data"]);
    let output = succeed(evaluate.arg(&scenes).arg("--bundle").arg(&out));
    let said = stderr(&output);
    assert!(said.contains("left out: 2 videos, which no expert of the bundle scores"), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("Images: 8 items"));

    // What it predicts for the items that it was calibrated on has their mean MOS, as a line of least squares has.
    let scores = out.with_file_name("scores.csv");
    let mut evaluate = train(&["evaluate", "--no-tta"]);
    evaluate.arg("--data").arg(MATERIAL.path("unlabelled")).arg("--bundle").arg(&out).arg("--predict-to").arg(&scores);
    succeed(&mut evaluate);
    let held_out = fs::read_to_string(folders[0].join("held_out.csv")).unwrap();
    let mos: BTreeMap<&str, f64> = held_out.lines().skip(1).map(|line| first_and(line, 2)).collect();
    let scores = fs::read_to_string(scores).unwrap();
    let scores: BTreeMap<&str, f64> = scores.lines().skip(1).map(|line| first_and(line, 1)).collect();
    let error: f64 = mos.iter().map(|(name, mos)| scores[name] - mos).sum();
    assert!((error / mos.len() as f64).abs() < 1e-3, "{error}");
}

fn first_and(line: &str, place: usize) -> (&str, f64) {
    let fields: Vec<&str> = line.split(',').collect();
    (fields[0], fields[place].parse().unwrap())
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let run = Run::new(SETTINGS);
    succeed(&mut run.begin(&[]));
    let folder = run.folder();
    let (_directory, out, mut command) = bundle(&[&folder, &folder], &[]);
    let said = refuse(&mut command);
    assert!(said.contains("like another run's"), "{said}");
    assert!(!out.exists());
    let (_directory, _, mut command) = bundle(&[Path::new("nowhere")], &[]);
    assert!(refuse(&mut command).contains("nowhere"));

    // What was learnt from judges nobody.
    let (_directory, out, mut command) = bundle(&[&folder], &["--test", &MATERIAL.path("data")]);
    let said = refuse(&mut command);
    assert!(said.contains("48 are among those that the experts were trained, chosen or calibrated on"), "{said}");
    assert!(!out.exists());
    let (_directory, _, mut command) = bundle(&[&folder], &["--mos-track", "video"]);
    let said = refuse(&mut command);
    assert!(said.contains("--mos-track: is video, but there is no video expert"), "{said}");

    // Nor do data that are others by now say who was trained on what.
    let moved = tempfile::tempdir().unwrap();
    let own = Run::new(SETTINGS);
    let list = PathBuf::from(MATERIAL.path("data")).join("info.csv");
    let list = fs::read_to_string(list).unwrap();
    for line in list.lines().skip(1) {
        let (name, _) = first_and(line, 2);
        fs::copy(PathBuf::from(MATERIAL.path("data")).join(name), moved.path().join(name)).unwrap();
    }
    fs::write(moved.path().join("info.csv"), &list).unwrap();
    let mut fit = train(&["fit", "--expert", "image_convnext", "--data"]);
    fit.arg(moved.path()).arg("--config").arg(own.directory.path().join("settings.toml"));
    succeed(&mut own.finish(fit, &[]));
    fs::write(moved.path().join("info.csv"), list.replace("a picture of", "the picture of")).unwrap();
    let (_directory, _, mut command) = bundle(&[&own.folder()], &[]);
    let said = refuse(&mut command);
    assert!(said.contains("is not what the run began with: other items, prompts or MOS"), "{said}");

    // Opinions turned round, of prompts that it was not trained on.
    let turned = tempfile::tempdir().unwrap();
    let data = PathBuf::from(MATERIAL.path("data"));
    let list = fs::read_to_string(data.join("info.csv")).unwrap();
    let mut rows = String::from("path,prompt,mos\n");
    for line in list.lines().skip(1) {
        let (name, mos) = first_and(line, 2);
        fs::copy(data.join(name), turned.path().join(name)).unwrap();
        rows += &format!("{name},another prompt,{}\n", 6.0 - mos);
    }
    fs::write(turned.path().join("info.csv"), rows).unwrap();
    let (_directory, _, mut command) = bundle(&[&folder], &["--data", &turned.path().to_string_lossy()]);
    let said = refuse(&mut command);
    assert!(said.contains("track image: the ensemble's z falls as MOS rises on the held-out items, by -"), "{said}");

    let learnt = Run::new(&SETTINGS.replace("held_out = 0.25", "held_out = 0.0"));
    let output = succeed(&mut learnt.begin(&[]));
    assert!(stderr(&output).contains("0 held out"));
    let (_directory, _, mut command) = bundle(&[&learnt.folder()], &[]);
    let said = refuse(&mut command);
    assert!(said.contains("none is left to calibrate with"), "{said}");
}

#[test]
fn a_student_learns_what_its_teacher_says() {
    let teacher = Run::new(SETTINGS);
    succeed(&mut teacher.begin(&[]));
    let (_directory, bundle, mut command) = bundle(&[&teacher.folder()], &["--test", &MATERIAL.path("few")]);
    succeed(&mut command);
    // Without opinions, only the teacher can be learnt from.
    let student = Run::new(&SETTINGS.replace("epochs = 4", "epochs = 10"));
    let mut command = train(&["distil", "--expert", "image_efficientvit", "--teacher"]);
    command.arg(&bundle).arg("--data").arg(MATERIAL.path("unlabelled"));
    command.arg("--config").arg(student.directory.path().join("settings.toml"));
    succeed(&mut student.finish(command, &[]));
    let losses = student.losses();
    let loss = |lines: &[(u64, String)]| -> f64 {
        let losses = lines.iter().map(|(_, line)| line.split(' ').nth(1).unwrap().parse::<f64>().unwrap());
        losses.sum::<f64>() / lines.len() as f64
    };
    let (first, last) = (loss(&losses[..4]), loss(&losses[losses.len() - 4..]));
    assert!(last < 0.5 * first, "{first} {last}");
    assert!(student.folder().join("teacher.csv").is_file());
}

#[test]
fn what_is_held_out_is_not_learnt_from_a_teacher_either() {
    let student = Run::new(SETTINGS);
    let mut command = train(&["distil", "--expert", "image_efficientvit", "--unlabelled"]);
    command.arg(MATERIAL.path("data")).arg("--data").arg(MATERIAL.path("data"));
    command.arg("--config").arg(student.directory.path().join("settings.toml"));
    let output = succeed(&mut student.finish(command, &[]));
    assert!(stderr(&output).contains("they belong with held-out ones"), "{}", stderr(&output));
    let split = fs::read_to_string(student.folder().join("split.csv")).unwrap();
    let part = |part: &str| -> BTreeSet<String> {
        let lines = split.lines().filter_map(|line| line.strip_suffix(part));
        lines.map(|line| line.trim_end_matches(',').to_owned()).collect()
    };
    assert!(!part("held_out").is_empty() && part("held_out").is_disjoint(&part("train")), "{split}");
    let record = fs::read_to_string(student.folder().join("record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["unlabelled"]["data"], record["train_items"].as_u64().unwrap() / 2, "{record}");
}
