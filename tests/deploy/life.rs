//! How a pod begins and ends.

use super::chart::{cases, server};
use super::options::configuration;

/// preStop, drain and the kubelet's patience, as the server reads its part of them.
#[test]
fn the_kubelet_waits_longer_than_the_drain_which_is_longer_than_what_comes_before() {
    let mut without_sleep = 0;
    for case in cases() {
        let objects = case.objects();
        let Some(deployment) = objects.deployment() else { continue };
        let container = server(deployment);
        let configuration = configuration(container);
        let seconds = |key: &str| configuration[key].as_float().unwrap();
        let sleep = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
        assert_eq!(sleep.is_null(), container["lifecycle"].is_null(), "{}: nothing but a sleep", case.name);
        without_sleep += usize::from(sleep.is_null());
        let before = sleep.as_f64().unwrap_or(0.0);
        let drain = seconds("drain_wait_seconds") + seconds("drain_grace_seconds");
        let patience = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_f64().unwrap();
        assert!(before < drain, "{}", case.name);
        assert!(before + drain + 5.0 <= patience, "{}: {before} + {drain}, {patience}", case.name);
    }
    assert!(without_sleep > 0, "a pod without a sleep is tried");
}

/// A slow start is no reason to restart, and a rollout waits for it.
#[test]
fn a_pod_has_the_time_to_start_that_values_give_it() {
    for case in cases() {
        let objects = case.objects();
        let Some(deployment) = objects.deployment() else { continue };
        let probe = &server(deployment)["startupProbe"];
        let allowed = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
        assert!(allowed >= 600, "{}", case.name);
        assert!(deployment["spec"]["progressDeadlineSeconds"].as_u64().unwrap() > allowed, "{}", case.name);
        let rollout = &deployment["spec"]["strategy"]["rollingUpdate"];
        assert!(rollout["maxSurge"] != 0 || rollout["maxUnavailable"] != 0, "{}", case.name);
    }
}
