//! Manifests without a cluster.

use sealwire_injector::inject::Status;
use sealwire_injector::offline::{self, OfflineError};
use serde_json::Value;

use super::injector;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { ports: [{ port: 80 }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  replicas: 2
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: web, image: "registry.example/web:1" }] }
---
apiVersion: v1
kind: List
items:
  - apiVersion: batch/v1
    kind: CronJob
    metadata: { name: report }
    spec:
      schedule: "0 * * * *"
      jobTemplate:
        spec:
          template:
            spec: { restartPolicy: Never, containers: [{ name: a, image: a }] }
  - apiVersion: v1
    kind: Pod
    metadata: { name: alone }
    spec: { os: { name: windows }, containers: [{ name: a, image: a }] }
"#;

#[test]
fn pods_and_templates_are_sealed_wherever_they_are_and_nothing_else_is_touched() {
    let offline = offline::inject(&injector(), MANIFESTS, "default").unwrap();
    let done: Vec<(&str, Status)> = offline
        .done
        .iter()
        .map(|done| (done.what.as_str(), done.status))
        .collect();
    assert_eq!(
        done,
        [
            ("Deployment web", Status::Sealed),
            ("CronJob report", Status::Sealed),
            ("Pod alone", Status::Windows),
        ]
    );
    let before: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).unwrap();
    let after: Vec<Value> = serde_saphyr::from_multiple(&offline.text).unwrap();
    assert_eq!(after[0], before[0]);
    let template = &after[1]["spec"]["template"];
    assert_eq!(
        template["spec"]["initContainers"][1]["name"],
        "sealwire-proxy"
    );
    assert_eq!(template["metadata"]["labels"]["app"], "web");
    let job = &after[2]["items"][0]["spec"]["jobTemplate"]["spec"]["template"];
    assert_eq!(
        job["metadata"]["annotations"]["sealwire.io/status"],
        "sealed"
    );
    let again = offline::inject(&injector(), &offline.text, "default").unwrap();
    assert_eq!(again.text, offline.text);
}

#[test]
fn a_refusal_names_the_manifest() {
    let text = MANIFESTS.replace("{ restartPolicy: Never,", "{ hostNetwork: true,");
    let refused = offline::inject(&injector(), &text, "default").unwrap_err();
    assert!(matches!(refused, OfflineError::Refused { .. }));
    let said = refused.to_string();
    assert!(
        said.starts_with("CronJob report: spec.hostNetwork: "),
        "{said}"
    );
    assert!(offline::inject(&injector(), "a: [", "default").is_err());
}

#[test]
fn modes_and_texts_are_read_and_written_as_kubernetes_does() {
    let texts = [
        "yes",
        "on",
        "0440",
        "1e3",
        "~",
        "0x1F",
        "1_000",
        "null",
        "12:30:45",
        "2001-01-01",
        "",
    ];
    let env: Vec<Value> = texts
        .iter()
        .map(|text| serde_json::json!({ "name": "A", "value": text }))
        .collect();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
        "spec": { "containers": [{ "name": "a", "env": env }] },
    });
    // JSON is YAML, and has no octal numbers.
    let text = pod.to_string().replace(
        "\"spec\":{",
        "\"spec\":{\"volumes\":[{\"name\":\"v\",\"secret\":{\"defaultMode\":0440}}],",
    );
    let offline = offline::inject(&injector(), &text, "default").unwrap();
    assert!(
        offline.text.contains("defaultMode: 288"),
        "{}",
        offline.text
    );
    for text in texts {
        let quoted = [format!("value: \"{text}\""), format!("value: '{text}'")];
        let is_quoted = quoted.iter().any(|quoted| offline.text.contains(quoted));
        assert!(is_quoted, "{text:?} in {}", offline.text);
    }
}
