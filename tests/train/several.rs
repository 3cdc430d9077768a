//! `pcqa-train fit` for several experts at once, and starts that come to nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::runs::{MATERIAL, Run, refuse, stderr, succeed, train};

const QUICK: &str = "[recipe]\nepochs = 1\nbatch = 16\n";

/// The names in `folder`, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn fit(run: &Run, data: &str, more: &[&str]) -> Command {
    let mut command = train(&["fit"]);
    command.arg("--data").arg(MATERIAL.path(data)).arg("--config").arg(run.directory.path().join("settings.toml"));
    run.finish(command, more)
}

#[test]
fn all_experts_are_those_that_have_items_and_the_same_command_goes_on() {
    let images = ["image_convnext", "image_efficientvit", "image_eva02"];
    let runs = Run::new(QUICK);
    let said = stderr(&succeed(&mut runs.begin_expert("all", &[])));
    for video in ["video_convnext", "video_efficientvit"] {
        assert!(said.contains(&format!("{video}: is skipped, as the data have no video to learn from")), "{said}");
    }
    assert_eq!(names(&runs.folder()), images);

    // One that never began, and two that are done.
    fs::remove_dir_all(runs.folder().join("image_efficientvit")).unwrap();
    let steps = |expert: &str| fs::read(runs.folder().join(expert).join("steps.csv")).unwrap();
    let before = ["image_convnext", "image_eva02"].map(steps);
    let said = stderr(&succeed(&mut runs.begin_expert("all", &[])));
    assert_eq!(said.matches("is finished, all 2 steps are done").count(), 2, "{said}");
    assert_eq!(names(&runs.folder()), images);
    assert_eq!(["image_convnext", "image_eva02"].map(steps), before);
    assert!(runs.folder().join("image_efficientvit/best").exists());
    let said = stderr(&succeed(&mut runs.resume()));
    assert!(said.contains("3 runs are finished"), "{said}");

    // Other settings are another run.
    let settings = runs.directory.path().join("settings.toml");
    fs::write(&settings, fs::read_to_string(&settings).unwrap().replace("epochs = 1", "epochs = 2")).unwrap();
    let said = refuse(&mut runs.begin_expert("all", &[]));
    assert!(said.contains("image_convnext: holds a run of other settings"), "{said}");

    // What is no run is named.
    let empty = runs.folder().join("video_convnext");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join(".lock"), "").unwrap();
    let mut ensemble = train(&["ensemble", "--out", "/nonexistent/bundle", "--runs"]);
    let said = refuse(ensemble.args(names(&runs.folder()).iter().map(|name| runs.folder().join(name))));
    assert!(said.contains("video_convnext: holds no run"), "{said}");
}

#[test]
fn data_that_no_expert_can_learn_from_are_refused() {
    let run = Run::new(QUICK);
    let said = refuse(&mut fit(&run, "unlabelled", &["--expert", "all"]));
    assert!(said.contains("--expert all: the data have nothing that any of the experts could learn from"), "{said}");
    assert!(!run.folder().exists());
}

#[test]
fn a_start_that_is_refused_leaves_no_folder() {
    let run = Run::new(QUICK);
    let start = || refuse(&mut run.begin_expert("video_convnext", &[]));
    assert!(start().contains("no video item is left to train on"));
    assert!(!run.folder().exists());
    // Nor does one after a start that was killed at once; what somebody else put there stays.
    fs::create_dir(run.folder()).unwrap();
    fs::write(run.folder().join(".lock"), "").unwrap();
    start();
    assert!(!run.folder().exists());
    fs::create_dir(run.folder()).unwrap();
    fs::write(run.folder().join("notes"), "mine").unwrap();
    start();
    assert!(run.folder().join("notes").is_file());
}

#[test]
fn experts_to_choose_from_are_named() {
    let run = Run::new(QUICK);
    let said = refuse(&mut fit(&run, "data", &[]));
    let expected = "--expert: is missing; it is one of image_convnext, image_efficientvit, image_eva02, video_convnext, \
                    video_efficientvit, or all";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_fold_is_one_of_a_number_of_folds() {
    let run = Run::new(QUICK);
    let said = refuse(&mut run.begin(&["--fold", "0"]));
    assert!(said.contains("`--folds 5 --fold 0`"), "{said}");
    let run = Run::new(&format!("[split]\nfolds = 3\nfold = 0\n{QUICK}"));
    succeed(&mut run.begin(&["--fold", "2"]));
    let settings = fs::read_to_string(run.folder().join("run.toml")).unwrap();
    assert!(settings.contains("folds = 3\nfold = 2\n"), "{settings}");
}

/// The commands that `pcqa-train --help` shows: none is wrapped, and each is one that there is.
#[test]
fn the_way_from_data_to_a_bundle_can_be_pasted() {
    let output = succeed(train(&["--help"]).env("COLUMNS", "80"));
    let help = String::from_utf8(output.stdout).unwrap();
    let commands: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    for step in ["synth", "check", "init", "fit", "ensemble", "evaluate"] {
        assert!(commands.iter().any(|line| line.starts_with(&format!("pcqa-train {step} "))), "{step}: {help}");
    }
    for command in commands.iter().filter_map(|line| line.strip_prefix("pcqa-train ")) {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        succeed(&mut train(&words));
    }
}

#[test]
fn one_run_of_many_is_chosen_by_its_index() {
    let run = Run::new(QUICK);
    let of = |experts: &str, index: &str| refuse(&mut run.begin_expert(experts, &["--folds", "2", "--only", index]));
    let said = of("image_convnext,image_eva02", "4");
    assert!(said.contains("--only: is 4, but there are 4 runs, the last one has 3"), "{said}");
    assert!(of("image_convnext,nobody", "0").contains("nobody"));
    assert!(!run.folder().exists());

    // Eva's second fold, in the folder that it would have had among all.
    succeed(&mut run.begin_expert("image_convnext,image_eva02", &["--folds", "2", "--only", "3"]));
    assert_eq!(names(&run.folder()), ["image_eva02"]);
    assert_eq!(names(&run.folder().join("image_eva02")), ["fold-1"]);
    let said = stderr(&succeed(&mut run.begin_expert("image_convnext,image_eva02", &["--folds", "2", "--only", "3"])));
    assert!(said.contains("is finished"), "{said}");
}
