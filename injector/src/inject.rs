//! Makes a sealed pod of a pod: a function of the pod, its namespace and the configuration. The
//! webhook and `sealwire inject` call it; [`crate::validate`] asks it what a sealed pod would be.
//!
//! What the injector once added is taken off before it is added again. So a second call, a call
//! after another webhook has changed the pod, and a pod that an older injector has sealed all lead
//! to the same: the pod's own parts, and around them the parts of today.

mod choice;
mod keep;
mod parts;
mod probes;
mod strip;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::choice::{Scope, Status};
pub(crate) use self::keep::is_sealed;
pub(crate) use self::strip::{WRITTEN, is_ours};
use crate::config::{Capabilities, InjectorConfig, Native};
use crate::names;
use crate::refusal::{Fault, Reason, Refusal};
use crate::validate;

/// Capabilities that container runtimes give to every container, and that get past capture.
pub(crate) const IMPLICIT: [&str; 3] = ["NET_RAW", "SETGID", "SETUID"];

/// Makes sealed pods.
#[derive(Clone, Debug)]
pub struct Injector {
    pub(crate) config: InjectorConfig,
    /// Whether the cluster has native sidecars.
    pub(crate) native: bool,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod, as it is to be.
    pub pod: Value,
    /// How it stands with sealing.
    pub status: Status,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

impl Injector {
    /// An injector for a cluster that has native sidecars, or has not; the configuration has the
    /// last word.
    pub fn new(config: InjectorConfig, cluster_has_native: bool) -> Self {
        let native = match config.sidecar.native {
            Native::Auto => cluster_has_native,
            Native::Always => true,
            Native::Never => false,
        };
        Self { config, native }
    }

    /// The configuration.
    pub fn config(&self) -> &InjectorConfig {
        &self.config
    }

    /// Makes a sealed pod, or one that says why it is not.
    ///
    /// # Errors
    /// [`Refusal`] when it could get past the seal, or cannot be sealed.
    pub fn inject(&self, pod: &Value, namespace: &str, scope: Scope) -> Result<Injected, Refusal> {
        let mut pod = pod.clone();
        let own = strip::strip(&mut pod)?;
        let status = choice::choose(&own, scope, self.config.policy.opt_out)?;
        let mut warnings = Vec::new();
        if status == Status::Sealed {
            validate::check(&own, &self.config)?;
            self.seal(&mut pod, &own, namespace)?;
            warnings.extend(self.warning(&own));
        } else {
            annotate(&mut pod, [(names::STATUS, status.label().to_owned())]);
        }
        Ok(Injected {
            pod,
            status,
            warnings,
        })
    }

    fn seal(&self, pod: &mut Value, own: &Pod, namespace: &str) -> Result<(), Refusal> {
        let declared = probes::redirect(pod, own, self.native, &self.config.proxy.ports)?;
        let parts = parts::Parts {
            config: &self.config,
            native: self.native,
            namespace,
            account: service_account(own),
            shares_resources: own
                .spec
                .as_ref()
                .is_some_and(|spec| spec.resources.is_some()),
        };
        let mut annotations = vec![
            (names::STATUS, Status::Sealed.label().to_owned()),
            (names::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        ];
        // Always there, so that its file is.
        annotations.push((names::PROBES, declared.to_string()));
        annotate(pod, annotations);
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
            return Err(malformed("spec", "missing").into());
        };
        if self.config.policy.capabilities == Capabilities::Drop {
            drop_implicit(spec);
        }
        if parts.has_secrets() {
            share_with_group(spec);
        }
        let list = list(spec, "initContainers");
        if self.native {
            list.insert(0, parts.proxy());
        }
        list.insert(0, parts.capture());
        if !self.native {
            self::list(spec, "containers").insert(0, parts.proxy());
        }
        self::list(spec, "volumes").extend(parts.volumes());
        Ok(())
    }

    fn warning(&self, own: &Pod) -> Option<String> {
        let drain = i64::try_from(self.config.proxy.drain.seconds).unwrap_or(i64::MAX);
        let spec = own.spec.as_ref()?;
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        (grace < drain).then(|| {
            format!(
                "spec.terminationGracePeriodSeconds is {grace}, and the sidecar drains for up to {drain} s: links may be cut"
            )
        })
    }
}

/// The pod as Kubernetes' types have it. What they do not know is left out there, and kept in the
/// value.
pub(crate) fn parse(pod: &Value) -> Result<Pod, Refusal> {
    let typed = Pod::deserialize(pod).map_err(|error| malformed("pod", error.to_string()))?;
    if typed.spec.is_none() {
        return Err(malformed("spec", "missing").into());
    }
    Ok(typed)
}

/// The pod's service account.
pub(crate) fn service_account(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    let named = spec.and_then(|spec| {
        let old = spec.service_account.as_deref();
        spec.service_account_name.as_deref().or(old)
    });
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The list by that name, made when it is not there.
pub(crate) fn list<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = object.entry(name).or_insert_with(|| json!([]));
    if !value.is_array() {
        // The types allow null for none.
        *value = json!([]);
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list"),
    }
}

fn malformed(field: &str, problem: impl Into<String>) -> Fault {
    Fault::new(
        Reason::Malformed,
        field,
        problem,
        "send a pod of the API version v1",
    )
}

fn annotate(pod: &mut Value, pairs: impl IntoIterator<Item = (&'static str, String)>) {
    let Some(pod) = pod.as_object_mut() else {
        return;
    };
    let annotations = map(map(pod, "metadata"), "annotations");
    for (name, text) in pairs {
        annotations.insert(name.to_owned(), Value::String(text));
    }
}

/// The object by that name, made when it is not there.
fn map<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = object.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

/// Drops, for every container of the pod's own, what would get past capture and nobody asked for:
/// capabilities, and becoming another user by a file with the set-user-ID bit.
fn drop_implicit(spec: &mut Map<String, Value>) {
    for kind in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(kind).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let context = map(container, "securityContext");
            let escalation = context.entry("allowPrivilegeEscalation");
            let escalation = escalation.or_insert(Value::Null);
            if escalation.is_null() {
                *escalation = json!(false);
            }
            let dropped = list(map(context, "capabilities"), "drop");
            let has = |dropped: &[Value], name: &str| {
                let same =
                    |value: &Value| value.as_str().is_some_and(|text| capability(text) == name);
                dropped.iter().any(same)
            };
            if has(dropped, "ALL") {
                continue;
            }
            for name in IMPLICIT {
                if !has(dropped, name) {
                    dropped.push(Value::from(name));
                }
            }
        }
    }
}

/// A capability's name as Kubernetes writes it.
pub(crate) fn capability(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    upper
        .strip_prefix("CAP_")
        .map_or(upper.clone(), str::to_owned)
}

/// Files with secrets are for their owner, which is root, and the pod's group: without one the
/// sidecar could not read them. A group that the pod has already does as well.
fn share_with_group(spec: &mut Map<String, Value>) {
    let context = map(spec, "securityContext");
    if context.get("fsGroup").is_none_or(Value::is_null) {
        context.insert("fsGroup".to_owned(), json!(crate::UID));
        context
            .entry("fsGroupChangePolicy")
            .or_insert_with(|| json!("OnRootMismatch"));
    }
}
