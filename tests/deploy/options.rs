//! The options that the chart gives to the server, read by the server itself.

use std::collections::BTreeSet;
use std::process::Command;

use clap::Args;
use pcqa::server::Config;
use serde_json::Value;

use super::chart::{arguments, bytes, cases, chart, list, outcome, server, text};

/// Options that the chart sets from values of its own, or leaves to the image.
const OF_THE_CHART: &[&str] = &[
    "allow_unprotected",
    "bundle",
    "decoder",
    "device",
    "drain_grace_seconds",
    "drain_wait_seconds",
    "keys_file",
    "listen",
    "metrics_listen",
    "tls_certificate",
    "tls_client_ca",
    "tls_key",
    "watch_bundle",
];

/// What the server of `container` makes of its arguments and environment.
pub fn configuration(container: &Value) -> toml::Table {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcqa-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PCQA_") {
            command.env_remove(name);
        }
    }
    command.envs(list(&container["env"]).iter().map(|one| (text(&one["name"]), text(&one["value"]))));
    command.args(arguments(container)).arg("--print-config");
    let printed = outcome(&mut command).unwrap_or_else(|error| panic!("{error}"));
    printed.parse().unwrap()
}

#[test]
fn the_server_takes_every_option_that_it_is_given() {
    for case in cases() {
        let objects = case.objects();
        let Some(deployment) = objects.deployment() else { continue };
        let container = server(deployment);
        assert_eq!(container["command"], serde_json::json!(["pcqa-server"]), "{}", case.name);
        let configuration = configuration(container);
        for argument in arguments(container) {
            let (name, value) = argument.trim_start_matches("--").split_once('=').unwrap_or((argument, "true"));
            let key = name.trim_start_matches("--").replace('-', "_");
            let read = configuration.get(&key).unwrap_or_else(|| panic!("{}: {key} is not there", case.name));
            let read = read.as_str().map_or_else(|| read.to_string(), str::to_owned);
            let is_same = read == value
                || read.parse::<f64>().is_ok_and(|number| value.parse::<f64>().is_ok_and(|given| given == number));
            assert!(is_same, "{}: {key} is {read}, given {value}", case.name);
        }
    }
}

/// The schema knows every option, by the name that it has in the configuration file. One that is missing: add it to
/// `config` in values.schema.json, or to what the chart sets itself.
#[test]
fn values_can_set_every_option_and_no_other() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let config = &schema["properties"]["config"];
    assert_eq!(config["additionalProperties"], false);
    let known: BTreeSet<&str> = config["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let options = Config::augment_args(clap::Command::new("options"));
    let all: BTreeSet<&str> = options.get_arguments().map(|argument| argument.get_id().as_str()).collect();
    let ours: BTreeSet<&str> = OF_THE_CHART.iter().copied().collect();
    assert_eq!(ours.difference(&all).collect::<Vec<_>>(), Vec::<&&str>::new(), "set by the chart, but no option");
    assert_eq!(ours.intersection(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "set twice");
    let expected: BTreeSet<&str> = all.difference(&ours).copied().collect();
    assert_eq!(known, expected);
}

/// What the README and --help say that a server may take, and some for networks and decoded frames.
#[test]
fn memory_is_enough_for_what_callers_may_send() {
    const NETWORKS_AND_FRAMES: u64 = 2 << 30;
    for case in cases() {
        let objects = case.objects();
        let Some(deployment) = objects.deployment() else { continue };
        let container = server(deployment);
        let limits = &container["resources"]["limits"];
        let configuration = configuration(container);
        let number = |key: &str| u64::try_from(configuration[key].as_integer().unwrap()).unwrap();
        // One per core, which is the limit in a pod, and not this machine's number.
        let threads = match super::chart::argument(container, "decode-threads") {
            Some(_) => number("decode_threads"),
            None => text(&limits["cpu"]).parse().unwrap(),
        };
        let images = threads * (20 * number("max_image_pixels") + (64 << 20));
        let videos = number("decoder_workers") * number("decoder_memory_bytes");
        let most = number("max_in_flight_bytes") + images + videos + number("text_cache_bytes") + NETWORKS_AND_FRAMES;
        let limit = bytes(&limits["memory"]);
        assert!(most <= limit, "{}: {most} bytes, the limit is {limit}", case.name);
        assert_eq!(limits["memory"], container["resources"]["requests"]["memory"], "{}", case.name);
    }
}
