//! `pcqa-train ablate`: every table is made, and no cell is trained twice.

use std::fs;

use crate::runs::{MATERIAL, Run, refuse, stderr, succeed, train};

const SETTINGS: &str = "fresh = true\n[recipe]\nepochs = 1\nbatch = 8\nlearning_rate = 3e-3\n";

fn table(run: &Run, arguments: &[&str], more: &[&str]) -> std::process::Command {
    let mut command = train(&["ablate"]);
    command.args(arguments).arg("--data").arg(MATERIAL.path("data"));
    command.arg("--config").arg(run.directory.path().join("settings.toml"));
    run.finish(command, more)
}

fn figures(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn mixers_are_compared_and_trained_once() {
    let run = Run::new(SETTINGS);
    let expert = ["--expert", "image_convnext"];
    let first = succeed(&mut table(&run, &["mixer"], &expert));
    assert!(figures(&first).contains("concat") && figures(&first).contains("image_convnext"), "{}", figures(&first));
    assert!(stderr(&first).contains("epoch 1/1"));
    let again = succeed(&mut table(&run, &["mixer"], &expert));
    assert!(!stderr(&again).contains("epoch 1/1"), "{}", stderr(&again));
    let table_of = |output| figures(output).lines().rev().take(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table_of(&first), table_of(&again));

    let settings = run.directory.path().join("settings.toml");
    let other = fs::read_to_string(&settings).unwrap().replace("epochs = 1", "epochs = 2");
    fs::write(&settings, other).unwrap();
    let said = refuse(&mut table(&run, &["mixer"], &expert));
    assert!(said.contains("run of other settings"), "{said}");
}

#[test]
fn text_towers_are_compared_frozen_and_trainable() {
    let run = Run::new(SETTINGS);
    let output = succeed(&mut table(&run, &["text"], &["--expert", "image_convnext"]));
    let table = figures(&output);
    for part in ["openclip + eva", "trainable", "frozen", "77"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn sides_are_compared_with_a_plot() {
    let run = Run::new(SETTINGS);
    let output = succeed(&mut table(&run, &["resolution", "--sides", "56,112"], &["--expert", "image_eva02"]));
    let (page, shown) = (fs::read_to_string(run.folder().join("report.html")).unwrap(), figures(&output));
    for side in ["56", "112"] {
        // The main score is the last figure of the line, in the terminal and on the page.
        let line = shown.lines().find(|line| line.split_whitespace().nth(1) == Some(side)).unwrap();
        let main = line.split_whitespace().last().unwrap();
        let row = page.split("<tr>").find(|row| row.contains(&format!("<th>{side}</th>"))).unwrap();
        assert!(row.contains(&format!("<td>{main}<")), "{main}: {row}");
    }
}

#[test]
fn backbones_are_compared_by_size_and_with_what_needs_no_pixel() {
    let run = Run::new(&SETTINGS.replace("[recipe]", "[split]\nheld_out = 0.75\n[recipe]"));
    let output = succeed(&mut table(&run, &["backbone"], &["--expert", "image_eva02"]));
    let (page, shown) = (fs::read_to_string(run.folder().join("report.html")).unwrap(), figures(&output));
    assert!(shown.contains("0.20 M") && page.contains("<th>0.20 M</th>"), "{shown}");
    assert!(page.contains("millions of parameters"));
    assert!(shown.contains("floor: prompt") && page.contains(r#"<tr class="floor"><th>floor: prompt</th>"#), "{shown}");
}

#[test]
fn a_bundle_is_taken_apart() {
    for (kind, parts) in
        [("tta", ["with TTA", "floor: prompt"]), ("ensemble", ["image_convnext + image_eva02", "without TTA"])]
    {
        let mut command = train(&["ablate", kind, "--loaders", "1", "--data"]);
        command
            .arg(MATERIAL.path(if kind == "tta" { "data" } else { "few" }))
            .arg("--bundle")
            .arg(MATERIAL.path("bundle"));
        let output = succeed(&mut command);
        let table = figures(&output);
        assert!(parts.iter().all(|part| table.contains(part)), "{table}");
    }
}
