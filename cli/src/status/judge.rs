//! Whether a pod is sealed, told from the pod as it is stored and from its namespace's label. What
//! it claims (an annotation) counts for nothing without the containers that make it so.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use sealwire_injector::names;
use serde::Serialize;

/// How it stands with a pod.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "seal", content = "why")]
pub(crate) enum Seal {
    /// Nothing passes but through a sidecar that is ready.
    Sealed,
    /// Nothing passes: its sidecar is not ready, and why.
    Waiting(String),
    /// It has ended.
    Ended,
    /// In the open, as somebody has declared.
    Exempt(String),
    /// In the open, in a namespace that is to be sealed.
    Open(String),
}

/// What a namespace's label says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Policy {
    /// Every pod is sealed.
    Everybody,
    /// Pods with the label are.
    Labelled,
    /// Nobody is.
    Nobody,
}

impl Policy {
    /// The policy of a namespace with this value of the label.
    pub(crate) fn of(label: Option<&str>) -> Self {
        match label {
            Some(names::ENABLED) => Self::Everybody,
            Some(names::LABELLED) => Self::Labelled,
            _ => Self::Nobody,
        }
    }
}

impl Seal {
    /// Whether something has to be done about it.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Waiting(_))
    }

    /// In a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Waiting(_) => "waiting",
            Self::Ended => "ended",
            Self::Exempt(_) => "exempt",
            Self::Open(_) => "OPEN",
        }
    }

    /// Why it is so.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Sealed | Self::Ended => "",
            Self::Waiting(why) | Self::Exempt(why) | Self::Open(why) => why,
        }
    }
}

/// Judges a pod of a namespace with this policy.
pub(crate) fn judge(pod: &Pod, policy: Policy) -> Seal {
    if matches!(phase(pod), "Succeeded" | "Failed") {
        return Seal::Ended;
    }
    let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
    if has_seal(pod) {
        return match trouble(pod) {
            None => Seal::Sealed,
            Some(why) => Seal::Waiting(why),
        };
    }
    if annotation(names::STATUS) == Some(names::SEALED) {
        return Seal::Open(
            "it says that it is sealed, and has no sidecar: find out who made it so".to_owned(),
        );
    }
    let wish = pod.labels().get(names::INJECT).map(String::as_str);
    let wish = wish.or(annotation(names::INJECT));
    match (policy, wish) {
        (Policy::Nobody, Some(names::ENABLED)) => Seal::Open(format!(
            "it is to be sealed, but its namespace has no label: kubectl label namespace {} {}={}",
            pod.namespace().unwrap_or_default(),
            names::INJECT,
            names::LABELLED
        )),
        (Policy::Nobody, _) => Seal::Exempt("nobody has labelled its namespace".to_owned()),
        (Policy::Labelled, wish) if wish != Some(names::ENABLED) => {
            Seal::Exempt("its namespace seals labelled pods alone".to_owned())
        }
        _ if runs_on_windows(pod) => Seal::Exempt("it runs on Windows".to_owned()),
        // What it wishes counts only where the injector has let it.
        _ if annotation(names::STATUS) == Some(names::OPTED_OUT) => Seal::Exempt(format!(
            "it opted out: {}",
            annotation(names::OPT_OUT_REASON).unwrap_or("without a reason")
        )),
        _ if annotation("kubernetes.io/config.mirror").is_some() => Seal::Open(
            "a static pod, which no webhook sees: move it to another namespace".to_owned(),
        ),
        _ => Seal::Open(
            "it was created when its namespace was not labelled, or past the webhook: create it anew"
                .to_owned(),
        ),
    }
}

/// Whether it has both of the containers that make a seal.
fn has_seal(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let init = || spec.init_containers.iter().flatten();
    let native = init().any(|container| {
        container.name == names::PROXY && container.restart_policy.as_deref() == Some("Always")
    });
    let ordinary = || {
        spec.containers
            .iter()
            .any(|container| container.name == names::PROXY)
    };
    init().any(|container| container.name == names::CAPTURE) && (native || ordinary())
}

/// Why a sidecar is not ready, as far as the pod's status tells.
fn trouble(pod: &Pod) -> Option<String> {
    let Some(status) = &pod.status else {
        return Some("no node has taken it yet".to_owned());
    };
    let all = || {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    };
    let find = |name: &str| all().find(|container| container.name == name);
    let Some(proxy) = find(names::PROXY) else {
        let scheduled = status.conditions.iter().flatten();
        let unscheduled = scheduled
            .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .find_map(|condition| condition.message.clone());
        return Some(unscheduled.unwrap_or_else(|| "no node has taken it yet".to_owned()));
    };
    if proxy.ready {
        return None;
    }
    if let Some(code) = find(names::CAPTURE).and_then(failure) {
        return Some(format!(
            "capture could not be applied (exit code {code}): kubectl logs -c {}",
            names::CAPTURE
        ));
    }
    let waits = |container: &ContainerStatus| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        // Without a message it merely waits for its turn.
        let (reason, message) = (waiting.reason.as_deref()?, waiting.message.as_deref()?);
        Some(format!("{}: {reason}: {message}", container.name))
    };
    let why = match failure(proxy) {
        Some(1) => "its configuration is wrong, or a port is taken",
        Some(2) => "key or certificate were not usable in time",
        Some(3) => "capture could not be proven in time",
        _ => {
            let waiting = [names::CAPTURE, names::PROXY].into_iter();
            let waiting = waiting.filter_map(find).find_map(waits);
            return Some(waiting.unwrap_or_else(|| {
                format!("its sidecar is not ready: kubectl logs -c {}", names::PROXY)
            }));
        }
    };
    Some(format!("{why}: kubectl logs -c {}", names::PROXY))
}

/// The exit code with which a container failed, now or before it was started again.
pub(crate) fn failure(container: &ContainerStatus) -> Option<i32> {
    [&container.state, &container.last_state]
        .into_iter()
        .flatten()
        .filter_map(|state| state.terminated.as_ref())
        .map(|ended| ended.exit_code)
        .find(|code| *code != 0)
}

fn runs_on_windows(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    let selected = spec.node_selector.as_ref();
    let selected = selected.and_then(|labels| labels.get("kubernetes.io/os"));
    os.or(selected.map(String::as_str)) == Some("windows")
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "web", "namespace": "shop",
                "annotations": { (names::STATUS): names::SEALED }, "labels": {} },
            "spec": {
                "initContainers": [
                    { "name": names::CAPTURE },
                    { "name": names::PROXY, "restartPolicy": "Always" },
                ],
                "containers": [{ "name": "web" }],
            },
            "status": {
                "phase": "Running",
                "initContainerStatuses": [
                    status(names::CAPTURE, true, json!({ "terminated": { "exitCode": 0 } })),
                    status(names::PROXY, true, json!({ "running": {} })),
                ],
            },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn status(name: &str, ready: bool, state: Value) -> Value {
        json!({ "name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "",
            "state": state })
    }

    fn bare(change: impl FnOnce(&mut Value)) -> Pod {
        pod(|pod| {
            pod["metadata"]["annotations"] = json!({});
            pod["spec"]["initContainers"] = json!([]);
            change(pod);
        })
    }

    #[test]
    fn a_pod_with_capture_and_a_ready_sidecar_is_sealed() {
        assert_eq!(judge(&pod(|_| {}), Policy::Everybody), Seal::Sealed);
        // On a cluster without native sidecars.
        let ordinary = pod(|pod| {
            pod["spec"]["initContainers"] = json!([{ "name": names::CAPTURE }]);
            pod["spec"]["containers"] = json!([{ "name": names::PROXY }, { "name": "web" }]);
        });
        assert_eq!(judge(&ordinary, Policy::Everybody), Seal::Sealed);
    }

    #[test]
    fn what_a_pod_claims_counts_for_nothing_without_the_containers() {
        for missing in [names::CAPTURE, names::PROXY] {
            let claimed = pod(|pod| {
                let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
                init.retain(|container| container["name"] != missing);
            });
            let seal = judge(&claimed, Policy::Everybody);
            assert!(seal.is_fault() && seal.word() == "OPEN", "{seal:?}");
        }
        let once = pod(|pod| {
            let sidecar = pod["spec"]["initContainers"][1].as_object_mut().unwrap();
            sidecar.remove("restartPolicy");
        });
        assert_eq!(judge(&once, Policy::Everybody).word(), "OPEN");
    }

    #[test]
    fn a_sidecar_that_is_not_ready_says_why_as_far_as_it_is_known() {
        let with = |proxy: Value, capture: Value| {
            let pod = pod(|pod| {
                pod["status"]["initContainerStatuses"] = json!([
                    status(names::CAPTURE, false, capture),
                    status(names::PROXY, false, proxy),
                ]);
            });
            match judge(&pod, Policy::Everybody) {
                Seal::Waiting(why) => why,
                other => panic!("{other:?}"),
            }
        };
        let done = || json!({ "terminated": { "exitCode": 0 } });
        let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
        for (code, said) in [
            (1, "configuration"),
            (2, "key or certificate"),
            (3, "capture could not be proven"),
        ] {
            assert!(with(ended(code), done()).contains(said));
        }
        let waiting = json!({ "waiting": { "reason": "PodInitializing" } });
        let said = with(waiting, ended(1));
        assert!(said.contains(names::CAPTURE), "{said}");
        let image = json!({ "waiting": { "reason": "ErrImagePull", "message": "no such host" } });
        let said = with(json!({ "waiting": { "reason": "PodInitializing" } }), image);
        assert!(said.contains("no such host"), "{said}");
        let said = with(json!({ "running": {} }), done());
        assert!(said.contains("kubectl logs"), "{said}");
        let unscheduled = pod(|pod| {
            pod["status"] = json!({ "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" }
            ]});
        });
        let seal = judge(&unscheduled, Policy::Everybody);
        assert_eq!(seal.why(), "0/3 nodes are available");
    }

    #[test]
    fn a_pod_in_the_open_is_a_fault_unless_somebody_declared_it() {
        let label = |value: &'static str| {
            move |pod: &mut Value| pod["metadata"]["labels"][names::INJECT] = json!(value)
        };
        for (pod, policy, fault, said) in [
            (bare(|_| {}), Policy::Everybody, true, "create it anew"),
            (bare(|_| {}), Policy::Labelled, false, "labelled pods alone"),
            (bare(|_| {}), Policy::Nobody, false, "nobody has labelled"),
            (
                bare(label("enabled")),
                Policy::Labelled,
                true,
                "create it anew",
            ),
            (
                bare(label("enabled")),
                Policy::Nobody,
                true,
                "kubectl label namespace shop",
            ),
            (
                bare(label("disabled")),
                Policy::Everybody,
                true,
                "create it anew",
            ),
            (
                bare(|pod| {
                    pod["metadata"]["annotations"] = json!({
                        (names::INJECT): "disabled", (names::OPT_OUT_REASON): "legacy",
                        (names::STATUS): names::OPTED_OUT,
                    });
                }),
                Policy::Everybody,
                false,
                "legacy",
            ),
            (
                bare(|pod| pod["spec"]["os"] = json!({ "name": "windows" })),
                Policy::Everybody,
                false,
                "Windows",
            ),
            (
                bare(|pod| {
                    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x");
                }),
                Policy::Everybody,
                true,
                "static pod",
            ),
        ] {
            let seal = judge(&pod, policy);
            assert_eq!(seal.is_fault(), fault, "{seal:?}");
            assert!(seal.why().contains(said), "{seal:?}");
        }
        let ended = bare(|pod| pod["status"]["phase"] = json!("Succeeded"));
        assert_eq!(judge(&ended, Policy::Everybody), Seal::Ended);
    }
}
