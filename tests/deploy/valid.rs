//! What can be said of each object alone: Helm's lint, the schemas of Kubernetes and of the custom resources.

use std::io::Write;
use std::process::Stdio;

use super::chart::{NAMESPACE, NEWEST, OLDEST, RELEASE, cases, chart, outcome, read_yaml, root, template, text, tool};

/// Lint fails on warnings too.
#[test]
fn helm_has_nothing_to_complain_of() {
    for case in cases() {
        let mut helm = tool("helm");
        helm.args(["lint", "--strict", "--namespace", NAMESPACE, "--values"]).arg(&case.values).arg(chart());
        outcome(&mut helm).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
}

#[test]
fn every_object_is_what_kubernetes_and_the_operators_expect() {
    for case in cases() {
        for kubernetes in [case.oldest(), NEWEST] {
            let rendered = template(RELEASE, &case.values, kubernetes).unwrap();
            let complaint = validate(&rendered, kubernetes);
            assert_eq!(complaint, Ok(()), "{} on {kubernetes}", case.name);
        }
    }
}

/// The check can fail: unknown keys, wrong types and unknown kinds are found.
#[test]
fn what_is_wrong_is_found() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: x }\nspec: { ports: [{ port: 1 }] }\n";
    assert_eq!(validate(service, OLDEST), Ok(()));
    let monitor = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: { name: x }\n\
                   spec: { selector: {}, podMetricsEndpoints: [{ port: metrics, interval: 15s }] }\n";
    assert_eq!(validate(monitor, OLDEST), Ok(()));
    for (good, part, wrong, says) in [
        (service, "ports:", "prots:", "prots"),
        (service, "port: 1", "port: one", "spec.ports.0.port"),
        (service, "kind: Service", "kind: Servant", "Servant"),
        (service, "apiVersion: v1", "apiVersion: v2", "v2"),
        (monitor, "port: metrics", "prot: metrics", "prot"),
        (monitor, "interval: 15s", "interval: soon", "interval"),
        (monitor, "kind: PodMonitor", "kind: PodMirror", "PodMirror"),
    ] {
        let complaint = validate(&good.replace(part, wrong), OLDEST).unwrap_err();
        assert!(complaint.contains(says), "{wrong}: {complaint}");
    }
}

#[test]
fn the_chart_is_of_this_version_and_says_what_it_needs() {
    let about = read_yaml(&chart().join("Chart.yaml"));
    assert_eq!(text(&about["appVersion"]), env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&about["kubeVersion"]), format!(">={OLDEST}.0-0"));
}

/// Whether each document of `rendered` fits its schema.
fn validate(rendered: &str, kubernetes: &str) -> Result<(), String> {
    let mut python = tool("python");
    python.arg(root().join("tests/deploy/validate.py")).arg(kubernetes);
    let mut child = python.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rendered.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}
