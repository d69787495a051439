//! Takes off what an injector has put on, and refuses what only looks like it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

use super::{parse, probes};
use crate::names;
use crate::refusal::{Faults, Reason, Refusal};

/// Annotations that only the injector writes.
pub(crate) const WRITTEN: [&str; 3] = [names::STATUS, names::VERSION, names::PROBES];

/// Leaves the pod's own parts alone, and gives them.
pub(super) fn strip(pod: &mut Value) -> Result<Pod, Refusal> {
    let typed = parse(pod)?;
    let annotations = typed.metadata.annotations.as_ref();
    let status = annotations.and_then(|map| map.get(names::STATUS));
    if status.is_none_or(|status| status != names::SEALED) {
        only_looks_sealed(&typed)?;
        unmark(pod);
        return Ok(typed);
    }
    let declared = annotations
        .and_then(|map| map.get(names::PROBES))
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        remove(spec, "initContainers", is_ours);
        remove(spec, "containers", is_ours);
        remove(spec, "volumes", |name| {
            name.starts_with(names::VOLUME_PREFIX)
        });
        probes::restore(spec, &declared);
    }
    unmark(pod);
    parse(pod)
}

/// Whether a container is one of ours, by its name.
pub(crate) fn is_ours(name: &str) -> bool {
    name == names::CAPTURE || name == names::PROXY
}

/// A sidecar that somebody wrote by hand is not taken for ours, and not replaced unseen.
fn only_looks_sealed(pod: &Pod) -> Result<(), Refusal> {
    let mut faults = Faults::default();
    let Some(spec) = &pod.spec else {
        return Ok(());
    };
    let inits = spec.init_containers.iter().flatten();
    let kinds = [
        ("initContainers", inits.collect::<Vec<_>>()),
        ("containers", spec.containers.iter().collect()),
    ];
    for (kind, containers) in kinds {
        for (i, container) in containers.iter().enumerate() {
            if is_ours(&container.name) {
                faults.add(
                    Reason::Reserved,
                    format!("spec.{kind}[{i}].name"),
                    format!(
                        "{} is the injector's, and it did not write this one",
                        container.name
                    ),
                    "take the container out: the injector adds its own",
                );
            }
        }
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        if volume.name.starts_with(names::VOLUME_PREFIX) {
            faults.add(
                Reason::Reserved,
                format!("spec.volumes[{i}].name"),
                format!("{} begins like the sidecar's volumes", volume.name),
                "give it another name",
            );
        }
    }
    let annotations = pod.metadata.annotations.iter().flatten();
    for (name, _) in annotations.filter(|(name, _)| WRITTEN.contains(&name.as_str())) {
        // How a pod stands that is not sealed is written anew.
        if name != names::STATUS {
            faults.add(
                Reason::Reserved,
                format!("metadata.annotations[{name}]"),
                "is the injector's, and it did not seal this pod",
                "take it out",
            );
        }
    }
    faults.none_or_refuse()
}

/// Takes the injector's annotations off.
fn unmark(pod: &mut Value) {
    let annotations = pod.pointer_mut("/metadata/annotations");
    if let Some(map) = annotations.and_then(Value::as_object_mut) {
        map.retain(|name, _| !WRITTEN.contains(&name.as_str()));
    }
}

fn remove(spec: &mut Map<String, Value>, kind: &str, ours: impl Fn(&str) -> bool) {
    let Some(list) = spec.get_mut(kind).and_then(Value::as_array_mut) else {
        return;
    };
    let before = list.len();
    list.retain(|item| !item.get("name").and_then(Value::as_str).is_some_and(&ours));
    // A list that was there only for ours was not there before.
    if list.is_empty() && before > 0 {
        spec.remove(kind);
    }
}
