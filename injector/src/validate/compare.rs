//! Compares pods in what is the injector's.

use serde_json::{Map, Value, json};

use crate::inject::{WRITTEN, is_ours};
use crate::names;

/// What the API server and its plugins fill in or write in another way, and what takes nothing from
/// the seal: amounts, and when an image is pulled.
const LEFT_OPEN: [&str; 3] = ["imagePullPolicy", "resources", "sizeLimit"];

/// The first field in which a pod is not as it is wanted to be.
pub(super) fn same_pod(pod: &Value, wanted: &Value) -> Option<String> {
    differs(pod, wanted, "")
}

/// The first of the injector's fields in which two pods differ. What the pod says of its own
/// choice counts among them: it cannot be changed afterwards.
pub(super) fn same_parts(old: &Value, new: &Value) -> Option<String> {
    let (old, new) = (parts(old), parts(new));
    // Either may have what the other has not.
    differs(&old, &new, "").or_else(|| differs(&new, &old, ""))
}

/// The injector's parts of a pod.
fn parts(pod: &Value) -> Value {
    let named = |path: &str, ours: fn(&str) -> bool| -> Vec<Value> {
        let list = pod.pointer(path).and_then(Value::as_array);
        let is_ours = |item: &&Value| item.get("name").and_then(Value::as_str).is_some_and(ours);
        list.into_iter()
            .flatten()
            .filter(is_ours)
            .cloned()
            .collect()
    };
    let marks = |path: &str| -> Map<String, Value> {
        let map = pod.pointer(path).and_then(Value::as_object);
        let is_ours = |name: &str| {
            name == names::INJECT || name == names::OPT_OUT_REASON || WRITTEN.contains(&name)
        };
        let ours = map.into_iter().flatten().filter(|(name, _)| is_ours(name));
        ours.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    json!({
        "metadata": { "labels": marks("/metadata/labels"), "annotations": marks("/metadata/annotations") },
        "spec": {
            "initContainers": named("/spec/initContainers", is_ours),
            "containers": named("/spec/containers", is_ours),
            "volumes": named("/spec/volumes", |name| name.starts_with(names::VOLUME_PREFIX)),
        },
    })
}

/// The first field in which the two differ.
fn differs(there: &Value, wanted: &Value, field: &str) -> Option<String> {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            let inner = |name: &str| {
                if field.is_empty() {
                    name.to_owned()
                } else {
                    format!("{field}.{name}")
                }
            };
            for (name, wanted) in wanted {
                let Some(there) = there.get(name) else {
                    return Some(inner(name));
                };
                if LEFT_OPEN.contains(&name.as_str()) {
                    continue;
                }
                let found = differs(there, wanted, &inner(name));
                if found.is_some() {
                    return found;
                }
            }
            let more = there.keys().find(|name| !wanted.contains_key(*name));
            more.map(|name| inner(name))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            if there.len() != wanted.len() {
                return Some(field.to_owned());
            }
            let pairs = there.iter().zip(wanted).enumerate();
            pairs
                .filter_map(|(i, (there, wanted))| differs(there, wanted, &format!("{field}[{i}]")))
                .next()
        }
        _ => (there != wanted).then(|| field.to_owned()),
    }
}
