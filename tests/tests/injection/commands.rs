//! `sealwire doctor` and `sealwire status` in front of real API servers.

use std::process::Command;

use sealwire_pods::{Programs, assert_eventually};
use sealwire_tests::SOON;
use sealwire_tests::cluster::{Cluster, in_each_cluster, with_each_release};
use serde_json::{Value, json};

use super::plain;

/// Runs the command line, and gives its exit code and what it said.
fn sealwire(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    let own = std::env::current_exe().unwrap();
    let done = Command::new(Programs::beside(&own).unwrap().cli)
        .args(arguments)
        .arg("--kubeconfig")
        .arg(cluster.api.kubeconfig())
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

/// What the doctor found of one thing: its state, and what it said.
fn finding(cluster: &Cluster, check: &str) -> (String, String) {
    let (_, said) = sealwire(cluster, &["doctor", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let mut findings = said["findings"].as_array().unwrap().iter();
    let found = findings
        .find(|one| one["check"] == check)
        .unwrap_or_else(|| panic!("nothing about {check} in {said:#}"));
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("state"), format!("{} {}", text("said"), found["fix"]))
}

#[test]
fn the_doctor_finds_a_cluster_fit_before_anything_is_installed() {
    with_each_release(|release| {
        let cluster = Cluster::bare(release);
        let (code, said) = sealwire(&cluster, &["doctor"]);
        assert_eq!(code, 0, "{said}");
        for (check, state) in [
            ("Kubernetes", "good"),
            ("API groups", "good"),
            ("native sidecars", "good"),
            ("clock", "good"),
            ("nodes", "warning"),
            ("Sealwire", "warning"),
        ] {
            assert_eq!(finding(&cluster, check).0, state, "{check}");
        }
        assert!(said.contains("docs/install.md"), "{said}");
    });
}

#[test]
fn the_doctor_sees_a_pod_come_up_sealed_and_says_why_when_none_does() {
    in_each_cluster(|cluster| {
        cluster.wait_until_configured("shop");
        for check in [
            "sealing in shop",
            "configuration in shop",
            "mutating webhooks",
            "validating webhooks",
        ] {
            assert_eventually(check, SOON, || {
                (finding(cluster, check).0 == "good").then_some(())
            });
        }

        cluster.kill_injectors();
        let (state, said) = finding(cluster, "sealing in shop");
        assert_eq!(state, "fault");
        assert!(said.contains("failed calling webhook"), "{said}");
        assert_eq!(sealwire(cluster, &["doctor"]).0, 1);

        let open = r#"[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]"#;
        let told = [
            "patch",
            "mutatingwebhookconfiguration",
            "sealwire",
            "--type",
            "json",
            "-p",
            open,
        ];
        cluster.api.kubectl(&told).unwrap();
        assert_eq!(finding(cluster, "mutating webhooks").0, "fault");
    });
}

#[test]
fn a_node_whose_kernel_is_too_old_or_whose_clock_is_ahead_is_named() {
    in_each_cluster(|cluster| {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "old" } });
        cluster.create(&node).unwrap();
        let status = json!({ "status": { "nodeInfo": {
            "kernelVersion": "4.19.0", "operatingSystem": "linux", "architecture": "amd64", "bootID": "",
            "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
            "osImage": "", "systemUUID": "",
        } } });
        let told = [
            "patch",
            "node",
            "old",
            "--subresource=status",
            "-p",
            &status.to_string(),
        ];
        cluster.api.kubectl(&told).unwrap();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "fast", "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": "fast", "renewTime": "2099-01-01T00:00:00.000000Z" },
        });
        assert_eventually("the namespace is there", SOON, || {
            cluster.create(&lease).ok()
        });
        let (state, said) = finding(cluster, "node old");
        assert_eq!(state, "fault");
        assert!(said.contains("4.19.0"), "{said}");
        let (state, said) = finding(cluster, "node fast");
        assert_eq!(state, "fault");
        assert!(said.contains("ahead"), "{said}");
    });
}

#[test]
fn status_says_of_each_pod_whether_it_is_sealed_and_why_not() {
    in_each_cluster(|cluster| {
        cluster.namespace("late", None);
        let late = plain("before", |pod| pod["metadata"]["namespace"] = json!("late"));
        cluster.create(&late).unwrap();
        cluster.run("label namespace late sealwire.io/inject=enabled");
        cluster.create(&plain("ready", |_| {})).unwrap();
        cluster.create(&plain("stuck", |_| {})).unwrap();
        let status = |name: &str, ready: bool, state: Value| json!({ "name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state });
        let patch = |pod: &str, containers: Value| {
            let patch =
                json!({ "status": { "phase": "Running", "initContainerStatuses": containers } });
            let told = [
                "patch",
                "pod",
                pod,
                "-n",
                "shop",
                "--subresource=status",
                "-p",
                &patch.to_string(),
            ];
            cluster.api.kubectl(&told).unwrap();
        };
        let done = json!({ "terminated": { "exitCode": 0 } });
        let runs = json!({ "running": {} });
        patch(
            "ready",
            json!([
                status("sealwire-capture", true, done.clone()),
                status("sealwire-proxy", true, runs),
            ]),
        );
        let failed = json!({ "terminated": { "exitCode": 3 } });
        patch(
            "stuck",
            json!([
                status("sealwire-capture", true, done),
                status("sealwire-proxy", false, failed),
            ]),
        );

        let (code, said) = sealwire(cluster, &["status", "--json"]);
        assert_eq!(code, 1, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        let seal = |name: &str| {
            let mut pods = said["pods"].as_array().unwrap().iter();
            let pod = pods.find(|pod| pod["pod"] == name).unwrap();
            (
                pod["seal"].as_str().unwrap(),
                pod["why"].as_str().unwrap_or_default(),
            )
        };
        assert_eq!(seal("ready"), ("sealed", ""));
        assert_eq!(seal("stuck").0, "waiting");
        assert!(seal("stuck").1.contains("capture could not be proven"));
        assert_eq!(seal("before").0, "open");
        assert!(seal("before").1.contains("create it anew"));

        cluster.run("delete pod stuck -n shop --now");
        let (code, said) = sealwire(cluster, &["status", "--namespace", "shop"]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("1 sealed"), "{said}");
        let (code, said) = sealwire(cluster, &["doctor", "--pod", "late/before"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("in the open"), "{said}");
    });
}
