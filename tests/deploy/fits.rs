//! Objects that name each other, and what every pod must be.

use std::collections::BTreeSet;

use serde_json::Value;

use super::chart::{Objects, argument, arguments, cases, containers, list, selects, server, shown, text};

fn everywhere(check: impl Fn(&str, &Objects)) {
    for case in cases() {
        check(&case.name, &case.objects());
    }
}

/// The label selectors of everything that selects pods, with its object.
fn selectors(objects: &Objects) -> Vec<(String, &Value)> {
    let mut found: Vec<(String, &Value)> = Vec::new();
    found.extend(objects.of("Service").map(|service| (shown(service), &service["spec"]["selector"])));
    for kind in ["Deployment", "PodDisruptionBudget", "PodMonitor"] {
        found.extend(objects.of(kind).map(|object| (shown(object), &object["spec"]["selector"]["matchLabels"])));
    }
    for (owner, template) in objects.templates() {
        let spread = list(&template["spec"]["topologySpreadConstraints"]);
        found.extend(spread.iter().map(|one| (format!("spread of {owner}"), &one["labelSelector"]["matchLabels"])));
    }
    found
}

#[test]
fn selectors_select_the_server_s_pods_alone() {
    everywhere(|name, objects| {
        for (owner, selector) in selectors(objects) {
            for (maker, template) in objects.templates() {
                let selected = selects(selector, &template["metadata"]["labels"]);
                assert_eq!(selected, maker.starts_with("Deployment/"), "{name}: {owner} and {maker}");
            }
        }
    });
}

/// Training's pods are closed off by a policy of their own.
#[test]
fn every_network_policy_selects_pods() {
    everywhere(|name, objects| {
        for policy in objects.of("NetworkPolicy") {
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            let selected: Vec<String> = objects
                .templates()
                .into_iter()
                .filter_map(|(maker, template)| selects(selector, &template["metadata"]["labels"]).then_some(maker))
                .collect();
            assert!(!selected.is_empty(), "{name}: {}", shown(policy));
        }
    });
}

#[test]
fn autoscalers_scale_the_deployment_which_then_has_no_number_of_its_own() {
    let mut kinds = BTreeSet::new();
    everywhere(|name, objects| {
        let scalers: Vec<&Value> = objects.of("HorizontalPodAutoscaler").chain(objects.of("ScaledObject")).collect();
        assert!(scalers.len() <= 1, "{name}");
        let Some(deployment) = objects.deployment() else { return assert!(scalers.is_empty(), "{name}") };
        assert_eq!(deployment["spec"]["replicas"].is_null(), !scalers.is_empty(), "{name}");
        for scaler in scalers {
            let target = &scaler["spec"]["scaleTargetRef"];
            assert_eq!(target["apiVersion"], deployment["apiVersion"], "{name}");
            assert_eq!(target["kind"], deployment["kind"], "{name}");
            assert_eq!(target["name"], deployment["metadata"]["name"], "{name}");
        }
    });
    for case in cases() {
        kinds.extend(case.objects().0.iter().map(|object| text(&object["kind"]).to_owned()));
    }
    assert!(kinds.contains("ScaledObject") && kinds.contains("HorizontalPodAutoscaler"), "{kinds:?}");
}

#[test]
fn keda_falls_back_to_a_number_within_its_bounds_and_finds_its_secret() {
    everywhere(|name, objects| {
        for scaler in objects.of("ScaledObject") {
            let spec = &scaler["spec"];
            let number = |value: &Value| value.as_u64().unwrap();
            let bounds = number(&spec["minReplicaCount"])..=number(&spec["maxReplicaCount"]);
            assert!(bounds.contains(&number(&spec["fallback"]["replicas"])), "{name}");
            // KEDA would not fall back with any other.
            assert!(list(&spec["triggers"]).iter().all(|trigger| trigger["metricType"] == "AverageValue"), "{name}");
            for trigger in list(&spec["triggers"]) {
                let wanted = &trigger["authenticationRef"]["name"];
                let mut known = objects.of("TriggerAuthentication");
                assert!(wanted.is_null() || known.any(|object| object["metadata"]["name"] == *wanted), "{name}");
            }
        }
    });
}

#[test]
fn what_is_mounted_is_there_once_and_what_is_there_is_mounted() {
    everywhere(|name, objects| {
        for (maker, template) in objects.templates() {
            let volumes: BTreeSet<&str> =
                list(&template["spec"]["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
            assert_eq!(volumes.len(), list(&template["spec"]["volumes"]).len(), "{name}: {maker}");
            let mut mounted = BTreeSet::new();
            for container in containers(template) {
                let mounts = list(&container["volumeMounts"]);
                let paths: BTreeSet<&str> = mounts.iter().map(|mount| text(&mount["mountPath"])).collect();
                assert_eq!(paths.len(), mounts.len(), "{name}: {maker}");
                mounted.extend(mounts.iter().map(|mount| text(&mount["name"])));
            }
            assert_eq!(mounted, volumes, "{name}: {maker}");
        }
        let maps: Vec<&Value> = objects.of("ConfigMap").map(|map| &map["metadata"]["name"]).collect();
        for (maker, template) in objects.templates() {
            for volume in list(&template["spec"]["volumes"]).iter().filter(|volume| !volume["configMap"].is_null()) {
                assert!(maps.contains(&&volume["configMap"]["name"]), "{name}: {maker}");
            }
        }
    });
}

/// The files that the server is told of lie in volumes, under the names that their Secrets' keys get.
#[test]
fn the_server_s_files_are_mounted() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        let objects = case.objects();
        let Some(deployment) = objects.deployment() else { continue };
        let (container, volumes) = (server(deployment), list(&deployment["spec"]["template"]["spec"]["volumes"]));
        for option in ["tls-certificate", "tls-key", "tls-client-ca", "keys-file", "bundle"] {
            let Some(path) = argument(container, option) else { continue };
            seen.insert(option);
            let mounts = list(&container["volumeMounts"]);
            let within = |mount: &&Value| {
                path.strip_prefix(text(&mount["mountPath"]))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let [mount] = mounts.iter().filter(within).collect::<Vec<_>>()[..] else { panic!("{}: {path}", case.name) };
            assert_eq!(mount["readOnly"], true, "{}: {path}", case.name);
            // A single file would never follow its Secret.
            assert!(mount["subPath"].is_null(), "{}: {path}", case.name);
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            let items = list(&volume["secret"]["items"]);
            let file = path.rsplit('/').next().unwrap();
            // A Secret of type kubernetes.io/tls has the names that the server is told.
            let known = match option {
                "bundle" => volume["secret"].is_null(),
                "tls-certificate" | "tls-key" => items.is_empty() && ["tls.crt", "tls.key"].contains(&file),
                _ => items.iter().any(|item| item["path"] == file),
            };
            assert!(known, "{}: {path}", case.name);
        }
    }
    assert_eq!(seen.len(), 5, "not every option is tried: {seen:?}");
}

/// What the restricted Pod Security Standard asks for, and a root file system that nobody can write to.
#[test]
fn every_container_is_without_privileges() {
    everywhere(|name, objects| {
        assert!(!objects.templates().is_empty(), "{name}");
        for (maker, template) in objects.templates() {
            let (spec, at) = (&template["spec"], format!("{name}: {maker}"));
            assert_eq!(spec["automountServiceAccountToken"], false, "{at}");
            assert_eq!(spec["enableServiceLinks"], false, "{at}");
            let context = &spec["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{at}");
            assert_eq!(context["runAsUser"], 65532, "{at}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{at}");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(spec[forbidden].is_null(), "{at}");
            }
            for container in containers(template) {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{at}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{at}");
                assert_eq!(context["capabilities"], serde_json::json!({ "drop": ["ALL"] }), "{at}");
                assert!(context["privileged"].is_null() && context["runAsUser"].is_null(), "{at}");
                let mounts = list(&container["volumeMounts"]);
                assert!(mounts.iter().any(|mount| mount["mountPath"] == "/tmp"), "{at}");
            }
            let allowed = ["configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"];
            for volume in list(&spec["volumes"]) {
                let kinds: Vec<&String> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
                assert!(kinds.len() == 1 && allowed.contains(&kinds[0].as_str()), "{at}: {kinds:?}");
            }
        }
    });
}

/// As many devices as GPUs, and a way onto the nodes that have them.
#[test]
fn gpus_are_asked_for_and_used() {
    let mut with_gpus = 0;
    everywhere(|name, objects| {
        let Some(deployment) = objects.deployment() else { return };
        let container = server(deployment);
        let gpus =
            container["resources"]["limits"]["nvidia.com/gpu"].as_str().map(|count| count.parse::<usize>().unwrap());
        let devices: Vec<&str> = argument(container, "device").unwrap().split(',').collect();
        let expected =
            gpus.map_or(vec!["cpu".to_owned()], |count| (0..count).map(|index| format!("cuda:{index}")).collect());
        assert_eq!(devices, expected, "{name}");
        let tolerations = list(&deployment["spec"]["template"]["spec"]["tolerations"]);
        assert_eq!(tolerations.iter().any(|one| one["key"] == "nvidia.com/gpu"), gpus.is_some(), "{name}");
    });
    for case in cases() {
        for (_, template) in case.objects().templates() {
            with_gpus += usize::from(
                containers(template).iter().any(|one| !one["resources"]["limits"]["nvidia.com/gpu"].is_null()),
            );
        }
    }
    assert!(with_gpus >= 3, "a server and two Jobs have GPUs");
}

/// Helm allows names of releases of 53 characters; a Service's and a Job's pods' may have 63.
#[test]
fn names_are_short_enough_for_the_longest_release() {
    let release = "r".repeat(53);
    for case in cases() {
        let objects = case.objects_of(&release);
        let mut names = BTreeSet::new();
        for object in &objects.0 {
            let name = text(&object["metadata"]["name"]);
            // The index of an Indexed Job's pod stands behind it.
            let limit = if object["spec"]["completionMode"] == "Indexed" { 59 } else { 63 };
            assert!(name.len() <= limit, "{}: {name}", case.name);
            assert!(names.insert(shown(object)), "{}: {} twice", case.name, shown(object));
            assert_eq!(object["metadata"]["namespace"], super::chart::NAMESPACE, "{}: {name}", case.name);
        }
    }
}

/// A container's arguments hold nothing twice.
#[test]
fn no_option_is_given_twice() {
    everywhere(|name, objects| {
        let Some(deployment) = objects.deployment() else { return };
        let given = arguments(server(deployment));
        let names: BTreeSet<&str> = given.iter().map(|one| one.split('=').next().unwrap_or_default()).collect();
        assert_eq!(names.len(), given.len(), "{name}: {given:?}");
    });
}
