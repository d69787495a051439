//! One pod: whether it is sealed, and what its sidecar itself says when it is not ready.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::LogParams;
use kube::{Api, Client, ResourceExt};
use sealwire_injector::names;
use serde_json::Value;

use super::finding::Finding;
use crate::cluster::words;
use crate::status::{Policy, Seal, failure, judge};

/// How many lines of a log are looked at, from its end.
const LINES: i64 = 200;

pub(super) async fn look(client: &Client, namespace: &str, name: &str) -> Vec<Finding> {
    let check = format!("pod {namespace}/{name}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = match (
        pods.get(name).await,
        Api::<Namespace>::all(client.clone()).get(namespace).await,
    ) {
        (Ok(pod), Ok(namespace)) => (pod, namespace),
        (Err(error), _) | (_, Err(error)) => {
            let fix = "name one that `kubectl get pods` shows, with the right to read it";
            return vec![Finding::fault(check, words(&error), fix)];
        }
    };
    let (pod, namespace) = found;
    let label = namespace.labels().get(names::INJECT);
    let seal = judge(&pod, Policy::of(label.map(String::as_str)));
    let mut findings = vec![match &seal {
        Seal::Sealed => Finding::good(&check, "sealed, and its sidecar is ready"),
        Seal::Ended => Finding::good(&check, "has ended"),
        Seal::Exempt(why) => {
            let fix = format!(
                "label its namespace: kubectl label namespace {} {}={}, then create the pod anew",
                namespace.name_any(),
                names::INJECT,
                names::ENABLED
            );
            Finding::warning(&check, format!("in the open: {why}"), fix)
        }
        Seal::Open(why) => Finding::fault(&check, "in the open, and ought to be sealed", why),
        Seal::Waiting(why) => Finding::fault(&check, "not ready, so that nothing passes", why),
    }];
    if matches!(seal, Seal::Waiting(_)) {
        for container in [names::CAPTURE, names::PROXY] {
            findings.extend(last_words(&pods, &pod, container).await);
        }
    }
    findings
}

/// The last that a container said was wrong: now, or before it was started again.
async fn last_words(pods: &Api<Pod>, pod: &Pod, container: &str) -> Option<Finding> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    let status = all.find(|status| status.name == container)?;
    let mut asked = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(LINES),
        ..LogParams::default()
    };
    let runs = status.state.as_ref()?.running.is_some();
    asked.previous = !runs && status.restart_count > 0;
    if status.ready || (failure(status).is_none() && !runs) {
        return None;
    }
    let log = pods.logs(&pod.name_any(), &asked).await.ok()?;
    let said = log.lines().rev().find_map(complaint)?;
    let fix = format!(
        "its whole log: kubectl logs --namespace {} {} -c {container}",
        pod.namespace()?,
        pod.name_any()
    );
    Some(Finding::fault(format!("what {container} says"), said, fix))
}

/// What a line of a log complains about: a record of the sidecar's, or what a command says as it
/// fails.
fn complaint(line: &str) -> Option<String> {
    let Ok(record) = serde_json::from_str::<Value>(line) else {
        return line.strip_prefix("sealwire-proxy: ").map(str::to_owned);
    };
    let is_one = matches!(record["level"].as_str(), Some("WARN" | "ERROR"));
    let text = |field: &str| record[field].as_str();
    let why = ["why", "error", "problem", "health"]
        .into_iter()
        .find_map(text);
    let message = text("message").filter(|_| is_one)?;
    let need = text("need")
        .map(|need| format!("{need}: "))
        .unwrap_or_default();
    Some(match why {
        Some(why) => format!("{need}{message}: {why}"),
        None => format!("{need}{message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_found_in_records_and_in_plain_lines_and_nowhere_else() {
        let record = r#"{"level":"WARN","message":"waiting for a need","need":"key","why":"the PIN was refused"}"#;
        assert_eq!(
            complaint(record).as_deref(),
            Some("key: waiting for a need: the PIN was refused")
        );
        assert_eq!(
            complaint("sealwire-proxy: nft failed").as_deref(),
            Some("nft failed")
        );
        for other in [r#"{"level":"INFO","message":"ready"}"#, "", "{", "hello"] {
            assert_eq!(complaint(other), None, "{other}");
        }
    }
}
