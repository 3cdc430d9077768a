//! Names of metrics in what scales, alerts and shows.

use std::collections::BTreeSet;

use pcqa::metrics::TABLE;
use regex::Regex;
use serde_json::Value;

use super::chart::{case, cases, list, text};

/// The names of metrics and recorded series in an expression: words that begin with `pcqa_`, or have a colon.
fn names(expression: &str) -> BTreeSet<String> {
    let quoted = Regex::new(r#""[^"]*""#).unwrap();
    let word = Regex::new(r"[a-zA-Z_:][a-zA-Z0-9_:]*").unwrap();
    let bare = quoted.replace_all(expression, "");
    let words = word.find_iter(&bare).map(|word| word.as_str());
    words.filter(|word| word.starts_with("pcqa_") || word.contains(':')).map(str::to_owned).collect()
}

fn is_in_table(name: &str) -> bool {
    let series = ["", "_bucket", "_sum", "_count"];
    series
        .iter()
        .any(|suffix| name.strip_suffix(suffix).is_some_and(|base| TABLE.iter().any(|metric| metric.name == base)))
}

#[test]
fn names_are_found() {
    let found = names(r#"sum(pcqa_queue_frames{job="pcqa_no"}) / job:pcqa_x:rate5m + rate(pcqa_batches_total[5m])"#);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["job:pcqa_x:rate5m", "pcqa_batches_total", "pcqa_queue_frames"]);
    assert!(is_in_table("pcqa_request_seconds_bucket") && !is_in_table("pcqa_request_secondss"));
}

#[test]
fn scalers_look_at_metrics_that_there_are() {
    let keda = case("keda").objects();
    let [scaler] = keda.of("ScaledObject").collect::<Vec<_>>()[..] else { panic!("not one ScaledObject") };
    let queries = list(&scaler["spec"]["triggers"]).iter().map(|trigger| text(&trigger["metadata"]["query"]));
    let mut found: BTreeSet<String> = queries.flat_map(names).collect();
    let hpa = case("hpa").objects();
    let [scaler] = hpa.of("HorizontalPodAutoscaler").collect::<Vec<_>>()[..] else { panic!("not one autoscaler") };
    let of_pods = list(&scaler["spec"]["metrics"]).iter().filter(|metric| metric["type"] == "Pods");
    found.extend(of_pods.map(|metric| text(&metric["pods"]["metric"]["name"]).to_owned()));
    for wanted in ["pcqa_queue_oldest_age_seconds", "pcqa_queue_frames"] {
        assert!(found.contains(wanted), "{wanted} is not looked at");
    }
    let unknown: Vec<&String> = found.iter().filter(|name| !is_in_table(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn rules_are_of_metrics_that_there_are() {
    let objects = case("gpu").objects();
    let [rules] = objects.of("PrometheusRule").collect::<Vec<_>>()[..] else { panic!("not one PrometheusRule") };
    let groups = list(&rules["spec"]["groups"]);
    let rules: Vec<&Value> = groups.iter().flat_map(|group| list(&group["rules"])).collect();
    assert!(rules.iter().any(|rule| !rule["alert"].is_null()), "there is no alert");
    let recorded: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    for rule in &rules {
        let found = names(text(&rule["expr"]));
        let unknown: Vec<&String> =
            found.iter().filter(|name| !recorded.contains(name.as_str()) && !is_in_table(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {rule}");
    }
}

/// Dashboards come as they are, each once, with the label that Grafana's sidecar looks for.
#[test]
fn dashboards_are_whole_and_labelled() {
    let files = std::fs::read_dir(super::chart::chart().join("dashboards")).unwrap();
    let expected: BTreeSet<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let objects = case("gpu").objects();
    let maps = objects.of("ConfigMap").filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1");
    let mut found = BTreeSet::new();
    for map in maps {
        for (file, content) in map["data"].as_object().unwrap() {
            let dashboard: Value = serde_json::from_str(text(content)).unwrap();
            let original = std::fs::read_to_string(super::chart::chart().join("dashboards").join(file)).unwrap();
            assert_eq!(dashboard, serde_json::from_str::<Value>(&original).unwrap(), "{file}");
            assert!(found.insert(file.clone()), "{file} twice");
        }
    }
    assert!(!found.is_empty() && found == expected, "{found:?}");
    let without = cases().into_iter().filter(|case| case.name != "gpu");
    for case in without {
        let count = case.objects().of("ConfigMap").filter(|map| !map["data"]["run.toml"].is_string()).count();
        assert_eq!(count, 0, "{}", case.name);
    }
}
