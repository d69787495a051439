//! An update of a sealed pod by whoever wrote it. What was written has probes, hooks and capabilities
//! as they were before sealing, and applying it again asks for those; the API server takes no change
//! of them. Where nothing else is meant, what is stored is put back.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Injector, Scope, is_ours};
use crate::names;

/// The fields of a container that sealing changes: those that go to the sidecar, which are declared
/// in an annotation, and the rest.
const ASKED: [&str; 4] = [
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
];
const CONTEXT: [&str; 1] = ["securityContext"];

impl Injector {
    /// What an update is to be so that it changes what it is meant to and nothing else. None where
    /// nothing is to be put back.
    pub fn keep(&self, old: &Value, new: &Value, namespace: &str, scope: Scope) -> Option<Value> {
        if !is_sealed(old) || !is_sealed(new) {
            return None;
        }
        // Both as they would be sealed now: where these are the same, the same was meant. What
        // cannot be sealed is for the other webhook to refuse.
        let sealed = |pod| self.inject(pod, namespace, scope).ok().map(|done| done.pod);
        let (was, will_be) = (sealed(old)?, sealed(new)?);
        let (asked_before, asked) = (declared(&was), declared(&will_be));
        let mut kept = new.clone();
        for list in ["initContainers", "containers"] {
            let containers = kept.pointer_mut(&format!("/spec/{list}"));
            let containers = containers.and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let Some(container) = container.as_object_mut() else {
                    continue;
                };
                let name = container.get("name").and_then(Value::as_str);
                let Some(name) = name.filter(|name| !is_ours(name)).map(str::to_owned) else {
                    continue;
                };
                let found = |pod| find(pod, list, &name);
                let (Some(old), Some(was), Some(will_be)) =
                    (found(old), found(&was), found(&will_be))
                else {
                    continue;
                };
                if asked_before.get(&name) == asked.get(&name) {
                    put_back(container, old, was, will_be, &ASKED);
                }
                put_back(container, old, was, will_be, &CONTEXT);
            }
        }
        // Whoever does not know our containers may have put them behind its own.
        for list in ["initContainers", "containers", "volumes"] {
            in_the_order_of(old, &mut kept, list);
        }
        (kept != *new).then_some(kept)
    }
}

/// Puts a list in the order that it has in another pod, and what is not there last.
fn in_the_order_of(old: &Value, pod: &mut Value, list: &str) {
    let named = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let there = old.get("spec").and_then(|spec| spec.get(list)?.as_array());
    let order: BTreeMap<_, _> = there.into_iter().flatten().map(named).zip(0..).collect();
    let items = pod
        .get_mut("spec")
        .and_then(|spec| spec.get_mut(list)?.as_array_mut());
    if let Some(items) = items {
        items.sort_by_key(|item| order.get(&named(item)).copied().unwrap_or(usize::MAX));
    }
}

/// Whether a pod says that it is sealed.
pub(crate) fn is_sealed(pod: &Value) -> bool {
    annotation(pod, names::STATUS) == Some(names::SEALED)
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod.pointer("/metadata/annotations")?.get(name)?.as_str()
}

fn declared(pod: &Value) -> Value {
    annotation(pod, names::PROBES)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

fn find<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Map<String, Value>> {
    let containers = pod.get("spec")?.get(list)?.as_array()?;
    let named = |container: &&Value| container.get("name").and_then(Value::as_str) == Some(name);
    containers.iter().find(named)?.as_object()
}

fn put_back(
    container: &mut Map<String, Value>,
    old: &Map<String, Value>,
    was: &Map<String, Value>,
    will_be: &Map<String, Value>,
    fields: &[&str],
) {
    for field in fields {
        if was.get(*field) != will_be.get(*field) {
            continue;
        }
        match old.get(*field) {
            Some(value) => drop(container.insert((*field).to_owned(), value.clone())),
            None => drop(container.remove(*field)),
        }
    }
}
