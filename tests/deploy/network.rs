//! Ports and who may reach them.

use std::collections::BTreeSet;

use pcqa::proto::scoring_service_server::SERVICE_NAME;
use serde_json::Value;

use super::chart::{Objects, argument, cases, containers, list, selects, server, shown, text};

fn ports(container: &Value) -> Vec<(&str, u64)> {
    list(&container["ports"])
        .iter()
        .map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap()))
        .collect()
}

/// Of `--name=ADDRESS:PORT`.
fn port_of(container: &Value, name: &str) -> u64 {
    argument(container, name).unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// A port by name or number.
fn resolves(port: &Value, container: &Value) -> bool {
    ports(container).iter().any(|(name, number)| port == name || port == number)
}

/// Each case that has a server, with it.
fn servers() -> Vec<(String, Objects)> {
    let all = cases().into_iter().map(|case| (case.name.clone(), case.objects()));
    let servers: Vec<_> = all.filter(|(_, objects)| objects.deployment().is_some()).collect();
    assert!(servers.len() >= 5, "too few servers");
    servers
}

#[test]
fn the_server_listens_where_its_container_has_ports() {
    for (name, objects) in servers() {
        let container = server(objects.deployment().unwrap());
        let expected = [("grpc", port_of(container, "listen")), ("metrics", port_of(container, "metrics-listen"))];
        assert_eq!(ports(container), expected, "{name}");
    }
}

/// The kubelet speaks no TLS in its gRPC probes, and shows no certificate.
#[test]
fn probes_ask_what_they_can_ask() {
    for (name, objects) in servers() {
        let container = server(objects.deployment().unwrap());
        let is_tls = argument(container, "tls-certificate").is_some();
        for (probe, service, path) in [
            ("startupProbe", SERVICE_NAME, "/readyz"),
            ("readinessProbe", SERVICE_NAME, "/readyz"),
            ("livenessProbe", "", "/livez"),
        ] {
            let probe = &container[probe];
            if is_tls {
                assert_eq!(probe["httpGet"]["path"], path, "{name}");
                assert_eq!(probe["httpGet"]["port"], "metrics", "{name}");
                assert!(probe["grpc"].is_null(), "{name}");
            } else {
                assert_eq!(probe["grpc"]["service"], service, "{name}");
                assert_eq!(probe["grpc"]["port"], port_of(container, "listen"), "{name}");
                assert!(probe["httpGet"].is_null(), "{name}");
            }
        }
    }
}

#[test]
fn services_lead_to_ports_of_the_server() {
    for (name, objects) in servers() {
        let deployment = objects.deployment().unwrap();
        let services: Vec<&Value> = objects.of("Service").collect();
        assert_eq!(services.len(), 2, "{name}");
        for service in &services {
            for port in list(&service["spec"]["ports"]) {
                assert!(resolves(&port["targetPort"], server(deployment)), "{name}: {}: {port}", shown(service));
            }
        }
        let [headless]: [&&Value; 1] = services
            .iter()
            .filter(|service| service["spec"]["clusterIP"] == "None")
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let has_metrics =
            |service: &Value| list(&service["spec"]["ports"]).iter().any(|port| port["name"] == "metrics");
        // A load balancer in front of the other one must not publish them.
        assert!(has_metrics(headless), "{name}");
        assert_eq!(services.iter().filter(|service| has_metrics(service)).count(), 1, "{name}");
    }
}

#[test]
fn the_network_policy_is_of_these_ports_and_no_others() {
    for (name, objects) in servers() {
        let deployment = objects.deployment().unwrap();
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let policies: Vec<&Value> = objects
            .of("NetworkPolicy")
            .filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], labels))
            .collect();
        if name == "training-beside" {
            assert_eq!(objects.of("NetworkPolicy").count(), 0, "it is off there");
            continue;
        }
        let [policy] = policies[..] else { panic!("{name}: {} policies", policies.len()) };
        assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]), "{name}");
        let rules = list(&policy["spec"]["ingress"]);
        // An empty list of peers would be everybody.
        assert!(rules.iter().all(|rule| !list(&rule["from"]).is_empty() && !list(&rule["ports"]).is_empty()), "{name}");
        let allowed: BTreeSet<u64> =
            rules.iter().flat_map(|rule| list(&rule["ports"])).map(|port| port["port"].as_u64().unwrap()).collect();
        let open: BTreeSet<u64> = ports(server(deployment)).iter().map(|(_, number)| *number).collect();
        assert_eq!(allowed, open, "{name}");
    }
}

#[test]
fn what_scrapes_finds_every_pod_once() {
    let mut kinds = BTreeSet::new();
    for (name, objects) in servers() {
        let template = &objects.deployment().unwrap()["spec"]["template"];
        for monitor in objects.of("ServiceMonitor") {
            kinds.insert("ServiceMonitor");
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            let found: Vec<&Value> =
                objects.of("Service").filter(|service| selects(selector, &service["metadata"]["labels"])).collect();
            let [service] = found[..] else { panic!("{name}: {} Services", found.len()) };
            for endpoint in list(&monitor["spec"]["endpoints"]) {
                assert!(list(&service["spec"]["ports"]).iter().any(|port| port["name"] == endpoint["port"]), "{name}");
            }
        }
        for monitor in objects.of("PodMonitor") {
            kinds.insert("PodMonitor");
            assert!(selects(&monitor["spec"]["selector"]["matchLabels"], &template["metadata"]["labels"]), "{name}");
            for endpoint in list(&monitor["spec"]["podMetricsEndpoints"]) {
                assert!(containers(template).iter().any(|one| resolves(&endpoint["port"], one)), "{name}");
            }
        }
        let monitors = objects.of("ServiceMonitor").count() + objects.of("PodMonitor").count();
        assert!(monitors <= 1, "{name}");
    }
    assert_eq!(kinds.len(), 2, "both kinds are tried: {kinds:?}");
}
