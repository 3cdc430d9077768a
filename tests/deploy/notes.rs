//! What Helm tells after an installation: its commands name objects that there are, and work.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::chart::{Case, NAMESPACE, RELEASE, case, cases, chart, outcome, shown, text, tool};

fn notes(case: &Case) -> String {
    let mut helm = tool("helm");
    helm.args(["install", RELEASE, "--dry-run=client", "--namespace", NAMESPACE, "--values"]);
    let all = outcome(helm.arg(&case.values).arg(chart())).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let (_, notes) = all.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("{}: has no notes", case.name));
    assert!(
        !notes.contains("%!") && !notes.contains("<no value>") && !notes.contains("map["),
        "{}: {notes}",
        case.name
    );
    notes.to_owned()
}

#[test]
fn notes_name_objects_that_there_are() {
    let named = Regex::new(r"\b(deployment|service|job)[/ ]([a-z0-9-]+)").unwrap();
    for case in cases() {
        let known: BTreeSet<String> = case.objects().0.iter().map(|object| shown(object).to_lowercase()).collect();
        let notes = notes(&case);
        let commands: Vec<&str> = notes.lines().filter(|line| line.trim_start().starts_with("kubectl")).collect();
        assert!(!commands.is_empty(), "{}", case.name);
        for command in commands {
            assert!(command.contains(&format!("-n {NAMESPACE} ")), "{command}");
            for found in named.captures_iter(command) {
                let object = format!("{}/{}", &found[1], &found[2]);
                assert!(known.contains(&object), "{}: {object} of {command}", case.name);
            }
        }
    }
}

#[test]
fn notes_warn_of_what_is_dangerous_and_of_nothing_else() {
    let open = "whoever reaches the port is served";
    let clear = "travel in the clear";
    let toy = "this is the demo bundle";
    for (name, warnings) in
        [("cpu", vec![open, toy]), ("gpu", vec![]), ("hpa", vec![]), ("keda", vec![clear]), ("training", vec![])]
    {
        let notes = notes(&case(name));
        assert_eq!(notes.matches("WARNING").count(), warnings.len(), "{name}: {notes}");
        assert!(warnings.iter().all(|warning| notes.contains(warning)), "{name}: {notes}");
    }
}

/// The command that starts what makes the bundle, tried on the Job that it is for.
#[test]
fn the_ensemble_s_job_is_started_by_the_command_of_the_notes() {
    let training = case("training");
    let notes = notes(&training);
    let command = Regex::new(r"patch job (\S+) --patch '([^']+)'").unwrap();
    let found = command.captures(&notes).unwrap();
    let objects = training.objects();
    let job = objects.of("Job").find(|job| job["metadata"]["name"] == found[1]).unwrap();
    assert_eq!(job["spec"]["suspend"], true);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("job.json");
    std::fs::write(&file, job.to_string()).unwrap();
    let mut kubectl = tool("kubectl");
    kubectl.args(["patch", "--local", "--output", "json", "--patch", &found[2], "--filename"]).arg(&file);
    let patched: Value = serde_json::from_str(&outcome(&mut kubectl).unwrap()).unwrap();
    assert_eq!(patched["spec"]["suspend"], false);
    assert_eq!(text(&patched["kind"]), "Job");
}
