//! The Jobs that train: their commands are such as `pcqa-train` takes, and what the pods leave makes a bundle.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::chart::{Case, Objects, case, list, outcome, text};

/// The Job of `pcqa-train` with that subcommand: its container and its spec.
fn job<'a>(objects: &'a Objects, container: &str) -> (&'a Value, &'a Value) {
    let of = |job: &'a Value| (&job["spec"]["template"]["spec"]["containers"][0], &job["spec"]);
    objects.of("Job").map(of).find(|(one, _)| one["name"] == container).unwrap()
}

/// What the pod of each index calls: the kubelet knows its index.
fn commands(objects: &Objects) -> Vec<Vec<String>> {
    let (container, spec) = job(objects, "fit");
    assert_eq!(container["command"], serde_json::json!(["pcqa-train", "fit"]));
    assert_eq!(spec["completionMode"], "Indexed");
    let of = |index: u64| {
        let arguments = list(&container["args"]).iter().map(text);
        arguments.map(|one| one.replace("$(JOB_COMPLETION_INDEX)", &index.to_string())).collect()
    };
    let commands: Vec<Vec<String>> = (0..spec["completions"].as_u64().unwrap()).map(of).collect();
    assert!(commands.iter().flatten().all(|one| !one.contains("$(")), "{commands:?}");
    commands
}

/// What the suspended Job calls.
fn ensemble(objects: &Objects) -> Vec<String> {
    let (container, spec) = job(objects, "ensemble");
    assert_eq!(container["command"], serde_json::json!(["pcqa-train", "ensemble"]));
    assert_eq!(spec["suspend"], true);
    list(&container["args"]).iter().map(|one| text(one).to_owned()).collect()
}

fn train(subcommand: &str, arguments: &[String]) -> Result<String, String> {
    outcome(Command::new(env!("CARGO_BIN_EXE_pcqa-train")).arg(subcommand).args(arguments))
}

/// One pod for each run that there is to make.
#[test]
fn there_are_as_many_pods_as_experts_and_folds() {
    for (name, pods, at_once) in [("training", 10, 4), ("training-beside", 1, 1)] {
        let objects = case(name).objects();
        let (_, spec) = job(&objects, "fit");
        assert_eq!(commands(&objects).len(), pods, "{name}");
        assert_eq!(spec["parallelism"], at_once, "{name}");
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Never", "{name}");
    }
}

/// Exit code 2 is that of wrong arguments, at which the Job gives up; data that are not there are no such thing.
#[test]
fn pcqa_train_takes_these_commands() {
    for name in ["training", "training-beside"] {
        let objects = case(name).objects();
        let fits = commands(&objects).into_iter().map(|arguments| ("fit", arguments));
        for (subcommand, arguments) in fits.chain([("ensemble", ensemble(&objects))]) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-train"));
            let output = command.arg(subcommand).args(&arguments).output().unwrap();
            let complaint = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
        }
    }
}

/// From data to a bundle by the two Jobs' own commands, with their volumes in a directory: two experts, two folds.
#[test]
fn the_jobs_make_a_bundle() {
    let volumes = tempfile::tempdir().unwrap();
    let place = |name: &str| volumes.path().join(name).to_str().unwrap().to_owned();
    let done = |subcommand: &str, arguments: &[String]| {
        train(subcommand, arguments).unwrap_or_else(|error| panic!("{subcommand} {arguments:?}: {error}"))
    };
    fs::create_dir(place("data")).unwrap();
    done("synth", &["--images=24".into(), "--side=32".into(), format!("--out={}", place("data/scenes"))]);
    done("init", &[format!("--out={}", place("data/untrained"))]);
    fs::write(place("values.yaml"), VALUES).unwrap();
    let objects = Case { name: "made".into(), values: place("values.yaml").into() }.objects();

    // The containers' mounts, as far as paths in text go.
    let inside = |text: &str| {
        let text = text.replace("/data/", &format!("{}/", place("data")));
        let text = text.replace("/runs/", &format!("{}/", place("runs")));
        text.replace("/etc/pcqa/", &format!("{}/", volumes.path().display()))
    };
    let all_inside = |arguments: &[String]| arguments.iter().map(|one| inside(one)).collect::<Vec<_>>();
    let maps: Vec<&Value> = objects.of("ConfigMap").collect();
    let [map] = maps[..] else { panic!("{} ConfigMaps", maps.len()) };
    assert_eq!(map["immutable"], true);
    fs::write(place("run.toml"), inside(text(&map["data"]["run.toml"]))).unwrap();
    let pods = commands(&objects);
    assert_eq!(pods.len(), 4);
    for pod in &pods {
        done("fit", &all_inside(pod));
    }
    let runs: BTreeSet<PathBuf> = ["image_convnext", "image_eva02"]
        .iter()
        .flat_map(|one| (0..2).map(move |fold| format!("{one}/fold-{fold}")))
        .map(PathBuf::from)
        .collect();
    for run in &runs {
        assert!(Path::new(&place("runs/made")).join(run).join("best").exists(), "{}", run.display());
    }
    // A pod whose end nobody saw is started again: it finds its run finished.
    done("fit", &all_inside(&pods[0]));

    done("ensemble", &all_inside(&ensemble(&objects)));
    let bundle = done("inspect", &[place("runs/made/judge")]);
    assert!(runs.iter().all(|run| bundle.contains(run.parent().unwrap().to_str().unwrap())), "{bundle}");
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
    threads = 1
    recipe = { epochs = 1, batch = 4, learning_rate = 1e-3 }
  ensemble:
    arguments: [--dtypes=f32]
"#;
