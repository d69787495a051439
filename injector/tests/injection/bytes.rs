//! Any bytes at all: a review is answered, or refused as none; never does it panic. The fuzz target
//! `review` does the same for longer.

use proptest::prelude::*;
use sealwire_injector::review::{Outcome, Review, ReviewError, Task};
use serde_json::{Value, json};

use super::injector;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_answered_or_no_review(bytes in any::<Vec<u8>>()) {
        ask(&bytes);
    }

    #[test]
    fn a_review_with_bytes_changed_is_answered_or_no_review(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = serde_json::to_vec(&review("CREATE", "pods", &json!({}))).unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        ask(&bytes);
    }
}

#[test]
fn what_is_nested_too_deep_is_no_review() {
    for depth in [129, 100_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let text = review("CREATE", "pods", &json!("HERE"))
            .to_string()
            .replace("\"HERE\"", &nested);
        let refused = Review::read(Task::ALL[0], text.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("recursion limit"), "{refused}");
    }
}

#[test]
fn what_would_take_many_times_its_size_in_memory_is_no_review() {
    let nested = format!("[{}]", vec!["[0]"; 700_000].join(","));
    let text = review("CREATE", "pods", &json!("HERE"))
        .to_string()
        .replace("\"HERE\"", &nested);
    let refused = Review::read(Task::ALL[0], text.as_bytes()).unwrap_err();
    assert!(matches!(refused, ReviewError::Crowded), "{refused}");
}

#[test]
fn a_refusal_shows_of_a_value_as_much_as_somebody_reads() {
    let host = "a".repeat(1_000_000);
    let pod = json!({ "initContainers": [{
        "name": "a", "image": "a", "livenessProbe": { "tcpSocket": { "host": host, "port": 80 } },
    }] });
    let message = answer(Task::ALL[0], &review("CREATE", "pods", &pod))
        .0
        .result
        .message;
    assert!(
        message.contains("livenessProbe.tcpSocket.host"),
        "{message}"
    );
    assert!(
        message.contains("leave it out") && message.len() < 2000,
        "{}",
        message.len()
    );
}

#[test]
fn another_version_and_a_review_without_a_request_are_refused() {
    let mut other = review("CREATE", "pods", &json!({}));
    other["apiVersion"] = json!("admission.k8s.io/v1beta1");
    for value in [
        other,
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }),
    ] {
        let refused = Review::read(Task::ALL[0], value.to_string().as_bytes()).unwrap_err();
        assert!(matches!(refused, ReviewError::Version(_)), "{refused}");
    }
}

#[test]
fn a_refusal_is_a_forbidden_with_the_reason() {
    let pod = json!({ "hostNetwork": true });
    let answer = answer(Task::ALL[0], &review("CREATE", "pods", &pod));
    assert!(!answer.0.allowed);
    assert_eq!(answer.0.result.code, 403);
    assert!(
        answer
            .0
            .result
            .message
            .starts_with("sealwire: spec.hostNetwork: "),
        "{}",
        answer.0.result.message
    );
}

#[test]
fn a_labelled_pod_in_a_namespace_without_the_label_is_told_what_to_do() {
    let answer = answer(Task::Stray, &review("CREATE", "pods", &json!({})));
    assert!(
        answer
            .0
            .result
            .message
            .contains("kubectl label namespace shop sealwire.io/inject=labelled")
    );
}

#[test]
fn a_static_pods_image_is_left_alone_when_a_kubelet_makes_it_and_only_then() {
    let mut review = review("CREATE", "pods", &json!({ "hostNetwork": true }));
    review["request"]["object"]["metadata"]["annotations"] =
        json!({ "kubernetes.io/config.mirror": "1" });
    for task in &Task::ALL[..4] {
        assert!(!answer(*task, &review).0.allowed);
    }
    review["request"]["userInfo"] =
        json!({ "username": "system:node:n1", "groups": ["system:nodes"] });
    for task in &Task::ALL[..4] {
        let (response, outcome) = answer(*task, &review);
        assert!(response.allowed && response.patch.is_none());
        assert_eq!(outcome, Outcome::Untouched);
    }
}

#[test]
fn only_the_injector_writes_the_config_map_and_only_its_namespaces_end_deletes_it() {
    let by = |user: &str, operation: &str, name: &str| {
        let mut review = review(operation, "configmaps", &json!({}));
        review["request"]["name"] = json!(name);
        review["request"]["userInfo"] = json!({ "username": user });
        answer(Task::Config, &review).0.allowed
    };
    let injector = "system:serviceaccount:sealwire-system:sealwire-injector";
    let end = "system:serviceaccount:kube-system:namespace-controller";
    assert!(by(injector, "CREATE", "sealwire") && by(injector, "UPDATE", "sealwire"));
    assert!(by("admin", "UPDATE", "another"));
    assert!(by(end, "DELETE", "sealwire"));
    assert!(!by(end, "UPDATE", "sealwire"));
    for operation in ["CREATE", "UPDATE", "DELETE"] {
        assert!(!by("admin", operation, "sealwire"), "{operation}");
    }
}

/// Asks every webhook; the answer does not matter.
fn ask(bytes: &[u8]) {
    for task in Task::ALL {
        if let Ok(review) = Review::read(task, bytes) {
            review.claims();
            let _ = review.answer(&injector(), Ok(()));
        }
    }
}

fn answer(task: Task, review: &Value) -> (kube::core::admission::AdmissionResponse, Outcome) {
    let review = Review::read(task, review.to_string().as_bytes()).unwrap();
    let answer = review.answer(&injector(), Ok(())).unwrap();
    (answer.response, answer.outcome)
}

/// A review of a pod with this in its spec.
pub(crate) fn review(operation: &str, resource: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert(
            "containers".to_owned(),
            json!([{ "name": "web", "image": "registry.example/web:1" }]),
        );
    }
    let kind = if resource == "pods" {
        "Pod"
    } else {
        "ConfigMap"
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74",
            "kind": { "group": "", "version": "v1", "kind": kind },
            "resource": { "group": "", "version": "v1", "resource": resource },
            "namespace": "shop",
            "operation": operation,
            "userInfo": { "username": "developer" },
            "object": { "apiVersion": "v1", "kind": kind, "metadata": { "name": "web" }, "spec": spec },
        },
    })
}
