//! Whether a pod is to be sealed. The pod's label comes first, then its annotation, then the
//! namespace's label.

use k8s_openapi::api::core::v1::Pod;

use crate::config::OptOut;
use crate::names;
use crate::refusal::{Fault, Reason};

/// What the namespace's label says. The webhook knows it by the path that it is called on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// `sealwire.io/inject: enabled`: every pod, but for those that opt out.
    Namespace,
    /// `sealwire.io/inject: labelled`: this pod has the label `sealwire.io/inject: enabled`.
    Pod,
}

/// How it stands with sealing a pod.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Status {
    /// It is sealed.
    Sealed,
    /// It opted out.
    OptedOut,
    /// It runs on Windows, which has neither the capture nor the sidecar.
    Windows,
}

impl Status {
    /// The annotation's value, and the label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sealed => names::SEALED,
            Self::OptedOut => names::OPTED_OUT,
            Self::Windows => names::WINDOWS,
        }
    }
}

/// Whether to seal it.
pub(super) fn choose(pod: &Pod, scope: Scope, opt_out: OptOut) -> Result<Status, Fault> {
    if is_windows(pod) {
        return Ok(Status::Windows);
    }
    let (field, said) = said(pod);
    match said {
        None | Some(names::ENABLED) => Ok(Status::Sealed),
        Some(names::DISABLED) if scope == Scope::Pod => Ok(Status::OptedOut),
        Some(names::DISABLED) if opt_out == OptOut::Forbidden => Err(Fault::new(
            Reason::Choice,
            field,
            "opting out is forbidden in this mesh",
            "leave it out, or have policy.optOut set to allowed",
        )),
        Some(names::DISABLED) if reason(pod).is_none() => Err(Fault::new(
            Reason::Choice,
            format!("metadata.annotations[{}]", names::OPT_OUT_REASON),
            "missing or empty, and the pod opts out",
            "say in one line why it may not be sealed: an auditor will read it",
        )),
        Some(names::DISABLED) => Ok(Status::OptedOut),
        Some(other) => Err(Fault::new(
            Reason::Choice,
            field,
            format!("{other:?} is neither enabled nor disabled"),
            "write enabled or disabled",
        )),
    }
}

/// What the pod says itself, and where.
fn said(pod: &Pod) -> (String, Option<&str>) {
    let metadata = &pod.metadata;
    let get = |map: &'static str| format!("metadata.{map}[{}]", names::INJECT);
    if let Some(label) = metadata
        .labels
        .as_ref()
        .and_then(|map| map.get(names::INJECT))
    {
        return (get("labels"), Some(label));
    }
    let annotations = metadata.annotations.as_ref();
    let annotation = annotations.and_then(|map| map.get(names::INJECT));
    (get("annotations"), annotation.map(String::as_str))
}

fn reason(pod: &Pod) -> Option<&String> {
    let reason = pod
        .metadata
        .annotations
        .as_ref()?
        .get(names::OPT_OUT_REASON)?;
    let good = !reason.trim().is_empty() && !reason.chars().any(char::is_control);
    good.then_some(reason)
}

/// Whether only a Windows node would run it: kubelets refuse a pod of another system, and of
/// another selector.
fn is_windows(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let selected = spec.node_selector.as_ref();
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
        || selected
            .and_then(|labels| labels.get("kubernetes.io/os"))
            .is_some_and(|os| os == "windows")
}
