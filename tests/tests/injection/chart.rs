//! The chart: rendered, installed, upgraded and removed by Helm, and taken by the API server.

use sealwire_tests::cluster::{Cluster, SYSTEM, chart, is_sealed, with_each_release};
use serde_json::{Value, json};

use super::plain;

/// Ways to configure it that differ in what is rendered.
fn variants() -> Vec<(&'static str, Value)> {
    vec![
        ("as it is", json!({})),
        (
            "keys in a token",
            json!({ "config": {
                "proxy": {
                    "key": {
                        "vaultTransit": null,
                        "pkcs11": {
                            "module": "/etc/sealwire/module/module.so",
                            "uri": "pkcs11:token=mesh;object={serviceAccount}?pin-source=file:/run/secrets/sealwire/pin/pin",
                        },
                    },
                },
                "volumes": {
                    "pin": { "secret": "token-pin", "key": "pin" },
                    "module": { "image": { "name": "registry.example/vendor/module:1" } },
                },
            } }),
        ),
        (
            "a certificate in a Secret",
            json!({ "webhooks": {
                "caBundle": "Y2E=",
                "certificate": { "source": "secret", "selfMade": null, "secret": { "name": "tls" } },
            } }),
        ),
        (
            "API servers known, one replica, no policy",
            json!({
                "injector": { "replicas": 1 },
                "networkPolicy": { "apiServers": ["198.18.255.1/32"] },
                "admissionPolicy": { "enabled": false },
            }),
        ),
        (
            "a dashboard",
            json!({ "monitoring": { "dashboard": { "enabled": true } } }),
        ),
    ]
}

#[test]
fn what_helm_renders_is_taken_by_the_api_server_in_every_variant() {
    with_each_release(|release| {
        let mut cluster = Cluster::bare(release);
        for (name, values) in variants() {
            cluster.choose(&values);
            let objects = cluster.rendered();
            assert!(objects.len() > 8, "{name}: {} objects", objects.len());
            let taken = cluster.send_all(&["apply", "--server-side", "--dry-run=server"], &objects);
            let said = taken.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!said.contains("Warning"), "{name}: {said}");
        }
    });
}

#[test]
fn helm_lints_installs_upgrades_rolls_back_and_removes_it() {
    with_each_release(|release| {
        let mut cluster = Cluster::bare(release);
        cluster.choose(&json!({}));
        let chart = chart();
        let chart = chart.to_str().unwrap();
        cluster.helm(&["lint", chart]).unwrap();
        let said = cluster.helm(&["install", "sealwire", chart]).unwrap();
        assert!(said.contains("NOTES"), "{said}");
        let replicas = || {
            let deployment = cluster.get(&format!("deployment sealwire-injector -n {SYSTEM}"));
            deployment["spec"]["replicas"].as_u64()
        };
        assert_eq!(replicas(), Some(2));
        let more = ["upgrade", "sealwire", chart, "--set", "injector.replicas=3"];
        cluster.helm(&more).unwrap();
        assert_eq!(replicas(), Some(3));
        cluster.helm(&["rollback", "sealwire"]).unwrap();
        assert_eq!(replicas(), Some(2));
        cluster.helm(&["uninstall", "sealwire"]).unwrap();
        // Nothing is left that would refuse pods.
        let left = cluster.run(
            "get validatingwebhookconfigurations,mutatingwebhookconfigurations,validatingadmissionpolicies,\
             validatingadmissionpolicybindings,clusterroles,clusterrolebindings -o name",
        );
        assert!(!left.contains("sealwire"), "{left}");
    });
}

#[test]
fn a_value_that_the_chart_does_not_know_is_refused_by_helm() {
    let mut cluster = Cluster::bare(sealwire_pods::Release::V1_34);
    cluster.choose(&json!({ "injektor": { "replicas": 3 } }));
    let refused = cluster.helm(&["template", "sealwire", chart().to_str().unwrap()]);
    let refused = refused.unwrap_err();
    assert!(refused.contains("injektor"), "{refused}");
}

#[test]
fn the_injector_needs_the_strictest_pod_security_level_and_sealed_pods_the_widest() {
    with_each_release(|release| {
        let cluster = Cluster::sealing(release);
        let level = |namespace: &str, level: &str| {
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            cluster.run(&format!("label namespace {namespace} --overwrite {label}"));
        };
        level(SYSTEM, "restricted");
        let deployment = cluster.get(&format!("deployment sealwire-injector -n {SYSTEM}"));
        let mut pod = deployment["spec"]["template"].clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("injector");
        pod["metadata"]["namespace"] = json!(SYSTEM);
        cluster.create(&pod).unwrap();

        // What puts the capture rules in place needs NET_ADMIN, for as long as it runs.
        level("shop", "baseline");
        let refused = cluster.create(&plain("main", |_| {})).unwrap_err();
        assert!(refused.contains("NET_ADMIN"), "{refused}");
        level("shop", "privileged");
        assert!(is_sealed(&cluster.create(&plain("main", |_| {})).unwrap()));
    });
}
