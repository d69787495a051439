//! The chart, rendered by Helm itself, and its alerts, tried by Prometheus' own tool. What takes an
//! API server is in the suite `injection`. `make test SUITE=chart`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sealwire_pods::Programs;
use serde_json::Value;

/// A file of values for each way of keeping keys.
const MODES: [&str; 3] = ["vault", "pkcs11-image", "pkcs11-volume"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where Helm is, once `scripts/kubernetes helm` has built it.
fn helm() -> PathBuf {
    let found = Command::new(root().join("scripts/kubernetes"))
        .args(["--find", "helm"])
        .output()
        .unwrap();
    assert!(found.status.success(), "{}", said(&found));
    Path::new(String::from_utf8(found.stdout).unwrap().trim()).join("helm")
}

/// Where the programs are that were built with this test.
fn programs() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let proxy = Programs::beside(&own).unwrap().proxy;
    proxy.parent().unwrap().to_owned()
}

fn template(arguments: &[&str]) -> Output {
    Command::new(helm())
        .current_dir(root().join("deploy/helm"))
        .args([
            "template",
            "sealwire",
            "sealwire",
            "--namespace",
            "sealwire-system",
        ])
        .args(arguments)
        .output()
        .unwrap()
}

/// What the chart renders to, as objects.
fn rendered(arguments: &[&str]) -> Vec<Value> {
    let done = template(arguments);
    assert!(done.status.success(), "{}", said(&done));
    let text = String::from_utf8(done.stdout).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn values(mode: &str) -> String {
    format!("values/{mode}.yaml")
}

fn said(done: &Output) -> String {
    let [out, err] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) {
    let done = Command::new(program)
        .current_dir(root())
        .env("HELM", helm())
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", said(&done));
}

#[test]
fn the_manifests_without_helm_are_what_the_chart_renders() {
    run(root().join("deploy/kustomize/render"), &["--check"]);
}

#[test]
fn the_schema_is_what_the_programs_say() {
    let programs = programs().display().to_string();
    run(root().join("deploy/helm/schema"), &["--check", &programs]);
}

#[test]
fn a_value_that_nobody_knows_is_refused_by_its_name() {
    let mode = values("vault");
    for (setting, named) in [
        ("injector.replica=3", "replica"),
        ("config.proxy.mesh.rangez={10.0.0.0/8}", "rangez"),
        ("config.volumes.pins.secret=x", "pins"),
        ("config.image.name=x", "image"),
        ("webhooks.limits.maxByte=1", "maxByte"),
        ("webhooks.certificate.source=none", "source"),
        ("webhooks.certificate.source=secret", "caBundle"),
        ("images.proxy.digest=sha256:short", "digest"),
    ] {
        let done = template(&["--values", &mode, "--set", setting]);
        assert!(!done.status.success(), "{setting}");
        assert!(said(&done).contains(named), "{setting}: {}", said(&done));
    }
}

#[test]
fn what_nobody_else_can_know_has_no_default() {
    let done = template(&[]);
    assert!(!done.status.success());
    for missing in ["identity", "key"] {
        assert!(said(&done).contains(missing), "{}", said(&done));
    }
}

#[test]
fn the_injector_takes_the_configuration_that_is_rendered_for_it() {
    let scratch = tempfile::tempdir().unwrap();
    for mode in MODES {
        let objects = rendered(&["--values", &values(mode)]);
        let config = &object(&objects, "ConfigMap", "sealwire-injector")["data"]["injector.yaml"];
        let file = scratch.path().join(mode);
        fs::write(&file, config.as_str().unwrap()).unwrap();
        let file = file.display().to_string();
        run(
            programs().join("sealwire-injector"),
            &["check", "--config", &file],
        );
    }
}

#[test]
fn without_an_answer_there_is_no_pod() {
    let objects = rendered(&["--values", &values("vault")]);
    for kind in [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ] {
        let webhooks = object(&objects, kind, "sealwire")["webhooks"]
            .as_array()
            .unwrap();
        assert!(!webhooks.is_empty());
        for webhook in webhooks {
            assert_eq!(webhook["failurePolicy"], "Fail", "{webhook}");
            assert!(webhook["namespaceSelector"].is_object(), "{webhook}");
        }
    }
}

#[test]
fn a_certificate_of_cert_manager_is_mounted_and_its_ca_injected() {
    let objects = rendered(&[
        "--values",
        &values("vault"),
        "--set",
        "webhooks.certificate.source=certManager,webhooks.certificate.certManager.issuer.name=own",
    ]);
    let certificate = object(&objects, "Certificate", "sealwire-injector");
    assert_eq!(certificate["spec"]["issuerRef"]["name"], "own");
    let secret = &certificate["spec"]["secretName"];
    let deployment = object(&objects, "Deployment", "sealwire-injector");
    let volumes = deployment["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .unwrap();
    assert!(
        volumes
            .iter()
            .any(|volume| volume["secret"]["secretName"] == *secret)
    );
    let webhooks = object(&objects, "MutatingWebhookConfiguration", "sealwire");
    let from = &webhooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(from, "sealwire-system/sealwire-injector");
    // It may neither make a certificate nor write into the webhooks then.
    let rules = object(&objects, "Role", "sealwire-injector")["rules"].to_string();
    assert!(!rules.contains("secrets"), "{rules}");
    let rules = object(&objects, "ClusterRole", "sealwire-injector")["rules"].to_string();
    assert!(!rules.contains("webhookconfigurations"), "{rules}");
}

#[test]
fn everything_that_monitors_can_be_switched_on() {
    let on = ["rules", "injector", "sidecars", "dashboard"]
        .map(|part| format!("monitoring.{part}.enabled=true"))
        .join(",");
    let objects = rendered(&["--values", &values("vault"), "--set", &on]);
    let rules = object(&objects, "PrometheusRule", "sealwire");
    assert!(
        rules["spec"]["groups"][0]["rules"]
            .as_array()
            .unwrap()
            .len()
            > 10
    );
    let dashboard = object(&objects, "ConfigMap", "sealwire-dashboard");
    let text = dashboard["data"]["sealwire.json"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(text).unwrap()["uid"],
        "sealwire"
    );
    object(&objects, "ServiceMonitor", "sealwire-injector");
    object(&objects, "PodMonitor", "sealwire-sidecars");
}

#[test]
fn alerts_are_silent_and_fire_when_they_should() {
    let promtool = root().join(".cache/prometheus/usr/bin/promtool");
    run(
        &promtool,
        &["check", "rules", "deploy/helm/sealwire/files/alerts.yaml"],
    );
    run(
        &promtool,
        &["test", "rules", "deploy/helm/tests/alerts.yaml"],
    );
}
