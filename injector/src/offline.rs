//! Does to manifests what the webhook does to pods: for reviews of what would be created, and for
//! clusters that no webhook may be in. `sealwire inject` is made of it.

use serde_json::Value;

use crate::inject::{Injector, Scope, Status};
use crate::refusal::Refusal;

/// Workloads, by where their pods' template is.
const TEMPLATES: [(&str, &str); 8] = [
    ("CronJob", "/spec/jobTemplate/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("Deployment", "/spec/template"),
    ("Job", "/spec/template"),
    ("PodTemplate", "/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("StatefulSet", "/spec/template"),
];

/// What became of manifests.
#[derive(Clone, Debug, PartialEq)]
pub struct Offline {
    /// The manifests, as YAML.
    pub text: String,
    /// What was done to each pod and template, in order.
    pub done: Vec<Done>,
}

/// What was done to one pod or template.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Such as `Deployment web`.
    pub what: String,
    /// How it stands with sealing.
    pub status: Status,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// Why manifests could not be injected.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// They are no YAML.
    #[error("no YAML: {0}")]
    Yaml(String),
    /// One of them is refused.
    #[error("{what}: {refusal}")]
    Refused {
        /// Such as `Deployment web`.
        what: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Injects every pod and every template in a YAML text of one or more documents; a `List` counts as
/// what is in it. Other objects stay. `namespace` is for what says none.
///
/// # Errors
/// [`OfflineError`] for the first that cannot be.
pub fn inject(injector: &Injector, text: &str, namespace: &str) -> Result<Offline, OfflineError> {
    // As Kubernetes reads it: 0440 is a file's mode.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| OfflineError::Yaml(error.to_string()))?;
    let mut done = Vec::new();
    for document in &mut documents {
        inject_object(injector, document, namespace, &mut done)?;
    }
    let text = serde_saphyr::to_string_multiple(&documents)
        .map_err(|error| OfflineError::Yaml(error.to_string()))?;
    Ok(Offline { text, done })
}

fn inject_object(
    injector: &Injector,
    object: &mut Value,
    namespace: &str,
    done: &mut Vec<Done>,
) -> Result<(), OfflineError> {
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        return items
            .iter_mut()
            .try_for_each(|item| inject_object(injector, item, namespace, done));
    }
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or_default();
    let what = format!(
        "{kind} {}",
        text("/metadata/name").unwrap_or("without a name")
    );
    let namespace = text("/metadata/namespace").unwrap_or(namespace).to_owned();
    let path = match TEMPLATES.iter().find(|(name, _)| *name == kind) {
        Some((_, path)) => path,
        None if kind == "Pod" => "",
        None => return Ok(()),
    };
    let Some(pod) = object.pointer_mut(path) else {
        return Ok(());
    };
    let injected = injector
        .inject(pod, &namespace, Scope::Namespace)
        .map_err(|refusal| OfflineError::Refused {
            what: what.clone(),
            refusal,
        })?;
    *pod = injected.pod;
    done.push(Done {
        what,
        status: injected.status,
        warnings: injected.warnings,
    });
    Ok(())
}
