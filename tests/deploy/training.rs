//! The Jobs that train: each pod's index is one expert and one fold, its command is one that `pcqa-train` takes, and
//! what they leave makes a bundle.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::chart::{Objects, case, list, outcome, text};

/// The Job of `pcqa-train` with that subcommand: its container and its spec.
fn job<'a>(objects: &'a Objects, container: &str) -> (&'a Value, &'a Value) {
    let of = |job: &'a Value| (&job["spec"]["template"]["spec"]["containers"][0], &job["spec"]);
    objects.of("Job").map(of).find(|(one, _)| one["name"] == container).unwrap()
}

/// The script of the fit Job, and its settings.
fn mounted(objects: &Objects) -> (String, String) {
    let maps: Vec<&Value> = objects.of("ConfigMap").collect();
    let [map] = maps[..] else { panic!("{} ConfigMaps", maps.len()) };
    assert_eq!(map["immutable"], true);
    (text(&map["data"]["fit.sh"]).to_owned(), text(&map["data"]["run.toml"]).to_owned())
}

/// What the pod of each index would call, by a program in pcqa-train's place that says its arguments.
fn commands(objects: &Objects, runs: &Path) -> Vec<Vec<String>> {
    let (container, spec) = job(objects, "fit");
    assert_eq!(container["command"], serde_json::json!(["/bin/sh", "/etc/pcqa/fit.sh"]));
    assert_eq!(spec["completionMode"], "Indexed");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("fit.sh");
    fs::write(&script, mounted(objects).0).unwrap();
    let program = directory.path().join("pcqa-train");
    fs::write(&program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let one = |index: u64| {
        let mut shell = Command::new("/bin/sh");
        shell.arg(&script).args(list(&container["args"]).iter().map(text));
        shell.envs(list(&container["env"]).iter().map(|one| (text(&one["name"]), text(&one["value"]))));
        shell.env("RUNS", runs).env("PATH", &path).env("JOB_COMPLETION_INDEX", index.to_string());
        outcome(&mut shell).unwrap().lines().map(str::to_owned).collect()
    };
    (0..spec["completions"].as_u64().unwrap()).map(one).collect()
}

fn after<'a>(command: &'a [String], flag: &str) -> Option<&'a str> {
    let at = command.iter().position(|word| word == flag)?;
    command.get(at + 1).map(String::as_str)
}

#[test]
fn every_index_is_another_expert_and_fold() {
    let objects = case("training").objects();
    let runs = tempfile::tempdir().unwrap();
    let commands = commands(&objects, runs.path());
    let mut seen = BTreeSet::new();
    for command in &commands {
        let (expert, fold) = (after(command, "--expert").unwrap(), after(command, "--fold").unwrap());
        let expected = runs.path().join(expert).join(format!("fold-{fold}"));
        assert_eq!(after(command, "--out").unwrap(), expected.to_str().unwrap());
        assert_eq!(after(command, "--folds"), Some("5"));
        assert_eq!(after(command, "--data"), Some("/data/AIGIQA-20K"));
        for given in ["--column=mos", "--frame-cache=4096", "--loaders=4"] {
            assert!(command.iter().any(|word| word == given), "{command:?}");
        }
        seen.insert((expert.to_owned(), fold.to_owned()));
    }
    let expected: BTreeSet<_> = ["image_convnext", "image_eva02"]
        .into_iter()
        .flat_map(|expert| (0..5).map(move |fold| (expert.to_owned(), fold.to_string())))
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(commands.len(), expected.len());
}

#[test]
fn without_folds_every_index_is_another_expert() {
    let objects = case("training-beside").objects();
    let runs = tempfile::tempdir().unwrap();
    let commands = commands(&objects, runs.path());
    let [command] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(after(command, "--expert"), Some("only"));
    assert_eq!(after(command, "--out").unwrap(), runs.path().join("only").to_str().unwrap());
    assert_eq!(after(command, "--data"), Some("/data"));
    assert!(!command.iter().any(|word| word.starts_with("--fold")), "{command:?}");
}

/// Exit code 2 is that of wrong arguments, at which the Job gives up; data that are not there are no such thing.
#[test]
fn pcqa_train_takes_these_commands() {
    for name in ["training", "training-beside"] {
        let objects = case(name).objects();
        let runs = tempfile::tempdir().unwrap();
        let mut all = commands(&objects, runs.path());
        let (container, _) = job(&objects, "ensemble");
        assert_eq!(container["command"], serde_json::json!(["pcqa-train", "ensemble"]));
        all.push(["ensemble"].into_iter().chain(list(&container["args"]).iter().map(text)).map(str::to_owned).collect());
        for command in all {
            let output = Command::new(env!("CARGO_BIN_EXE_pcqa-train")).args(&command).output().unwrap();
            let complaint = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{command:?}: {complaint}");
        }
    }
}

/// From data to a bundle by the two Jobs' own commands, with their volumes in a directory: two experts, two folds.
#[test]
fn the_jobs_make_a_bundle() {
    let volumes = tempfile::tempdir().unwrap();
    let (data, runs) = (volumes.path().join("data"), volumes.path().join("runs"));
    let train = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-train"));
        outcome(command.args(arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    fs::create_dir(&data).unwrap();
    train(&["synth", "--images", "24", "--side", "32", "--out", data.join("scenes").to_str().unwrap()]);
    train(&["init", "--out", data.join("untrained").to_str().unwrap()]);
    let values = volumes.path().join("values.yaml");
    fs::write(&values, VALUES).unwrap();
    let case = super::chart::Case { name: "made".into(), values };
    let objects = case.objects();
    let (container, spec) = job(&objects, "fit");

    // The container's mounts, as far as paths in text go.
    let inside = |text: &str| {
        let text = text.replace("/data/", &format!("{}/", data.display()));
        let text = text.replace("/runs/", &format!("{}/", runs.display()));
        text.replace("/etc/pcqa/", &format!("{}/", volumes.path().display()))
    };
    let (script, settings) = mounted(&objects);
    let path = volumes.path().join("fit.sh");
    fs::write(&path, inside(&script)).unwrap();
    fs::write(volumes.path().join("run.toml"), inside(&settings)).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_pcqa-train")).parent().unwrap();
    let search = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let pod = |index: u64| {
        let mut shell = Command::new("/bin/sh");
        shell.arg(&path).env("PATH", &search).env("JOB_COMPLETION_INDEX", index.to_string());
        shell.envs(list(&container["env"]).iter().map(|one| (text(&one["name"]), inside(text(&one["value"])))));
        outcome(&mut shell).unwrap_or_else(|error| panic!("index {index}: {error}"));
    };
    let pods = spec["completions"].as_u64().unwrap();
    assert_eq!(pods, 4);
    (0..pods).for_each(pod);
    // A pod that ended well is never started again, but one whose end nobody saw is: it finds its run finished.
    pod(0);

    let (container, _) = job(&objects, "ensemble");
    let arguments: Vec<String> = list(&container["args"]).iter().map(|one| inside(text(one))).collect();
    train(&["ensemble"].into_iter().chain(arguments.iter().map(String::as_str)).collect::<Vec<_>>());
    let bundle = train(&["inspect", runs.join("made/judge").to_str().unwrap()]);
    assert!(bundle.contains("image_convnext") && bundle.contains("image_eva02"), "{bundle}");
}

const VALUES: &str = r#"
server: { enabled: false }
training:
  enabled: true
  run: made
  experts: [image_convnext, image_eva02]
  folds: 2
  data: { claimName: data, path: scenes }
  runs: { claimName: runs }
  settings: |
    bundle = "/data/untrained"
    device = "cpu"
    recipe = { epochs = 1, batch = 4, learning_rate = 1e-3 }
  ensemble:
    arguments: [--dtypes=f32]
"#;
