//! Pods as people write them (`tests/pods`), and what becomes of each (`tests/snapshots`): the
//! sealed pod, or why it is refused. A first line `# with: …` says how the mesh is configured.
//!
//! `cargo test -p sealwire-injector --test injection -- --ignored` writes the snapshots anew: read
//! what has changed before you commit it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sealwire_injector::config::{Capabilities, ModuleSource, OptOut, Users};
use sealwire_injector::inject::{Injector, Scope};
use serde_json::{Value, json};

use super::{PKCS11, VAULT, config};

#[test]
fn every_pod_becomes_what_its_snapshot_says() {
    let mut wrong = Vec::new();
    for (name, text) in pods() {
        let there = fs::read_to_string(snapshot(&name)).unwrap_or_default();
        let now = World::of(&text).outcome(&text);
        if there != now {
            wrong.push(format!("{name}:\n{}", difference(&there, &now)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "writes the snapshots instead of comparing them"]
fn write_the_snapshots() {
    for (name, text) in pods() {
        fs::write(snapshot(&name), World::of(&text).outcome(&text)).unwrap();
    }
}

#[test]
fn there_is_no_snapshot_without_its_pod() {
    let names: Vec<String> = pods().into_iter().map(|(name, _)| name).collect();
    for file in fs::read_dir(directory("snapshots")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(names.contains(&name), "{}", file.display());
    }
}

#[test]
fn a_pod_is_refused_where_its_name_says_so_and_nowhere_else() {
    for (name, text) in pods() {
        let refused = World::of(&text).inject(&text).is_err();
        assert_eq!(refused, name.starts_with("refused-"), "{name}");
    }
}

#[test]
fn a_second_call_changes_nothing_and_the_validating_webhook_takes_it() {
    for (name, text) in pods() {
        let world = World::of(&text);
        let Ok(once) = world.inject(&text) else {
            continue;
        };
        let again = world.injector.inject(&once, "shop", world.scope).unwrap();
        assert_eq!(again.pod, once, "{name}");
        world.injector.validate(&once, "shop", world.scope).unwrap();
    }
}

#[test]
fn another_webhook_that_comes_between_gets_its_containers_behind_ours_and_its_probes_forwarded() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "plain")
        .unwrap();
    let world = World::of(&text);
    let mut pod = world.inject(&text).unwrap();
    let foreign = json!({
        "name": "foreign", "image": "foreign", "restartPolicy": "Always",
        "livenessProbe": { "httpGet": { "path": "/", "port": 7000 } },
    });
    let inits = pod
        .pointer_mut("/spec/initContainers")
        .unwrap()
        .as_array_mut()
        .unwrap();
    inits.insert(0, foreign);
    assert!(world.injector.validate(&pod, "shop", world.scope).is_err());
    let again = world
        .injector
        .inject(&pod, "shop", world.scope)
        .unwrap()
        .pod;
    let names: Vec<&str> = again["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["sealwire-capture", "sealwire-proxy", "foreign"]);
    let probe = &again["spec"]["initContainers"][2]["livenessProbe"]["httpGet"];
    assert_eq!(probe["path"], "/probe/foreign/liveness");
    world
        .injector
        .validate(&again, "shop", world.scope)
        .unwrap();
}

#[test]
fn whatever_is_changed_in_our_parts_is_refused_with_its_field() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "probes-http")
        .unwrap();
    let world = World::of(&text);
    let good = world.inject(&text).unwrap();
    for (path, value) in [
        ("/spec/initContainers/0/image", json!("evil")),
        ("/spec/initContainers/0/args/0", json!("check")),
        (
            "/spec/initContainers/0/securityContext/capabilities/add",
            json!([]),
        ),
        ("/spec/initContainers/1/restartPolicy", json!("Never")),
        ("/spec/initContainers/1/env", json!([])),
        ("/spec/initContainers/1/volumeMounts", json!([])),
        ("/spec/initContainers/1/securityContext/runAsUser", json!(0)),
        ("/spec/volumes/0/configMap/name", json!("other")),
        (
            "/spec/containers/0/readinessProbe/httpGet/port",
            json!(8080),
        ),
        (
            "/spec/containers/0/securityContext/capabilities/drop",
            json!([]),
        ),
        (
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
        ),
        ("/metadata/annotations/sealwire.io~1probes", json!("{}")),
        (
            "/metadata/annotations/sealwire.io~1status",
            json!("opted-out"),
        ),
    ] {
        let mut pod = good.clone();
        *pod.pointer_mut(path).unwrap() = value;
        let refused = world.injector.validate(&pod, "shop", world.scope);
        assert!(refused.is_err(), "{path}");
        let update = world.injector.validate_update(&good, &pod);
        let ours = !path.starts_with("/spec/containers");
        assert_eq!(update.is_err(), ours, "{path}: {update:?}");
    }
}

#[test]
fn a_cluster_that_leaves_the_image_with_the_module_out_is_told_apart() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "pkcs11-module-from-an-image")
        .unwrap();
    let world = World::of(&text);
    let mut pod = world.inject(&text).unwrap();
    for path in ["/spec/volumes", "/spec/initContainers/1/volumeMounts"] {
        let list = pod.pointer_mut(path).unwrap().as_array_mut().unwrap();
        list.retain(|item| item["name"] != "sealwire-module");
    }
    let refused = world.injector.validate(&pod, "shop", world.scope);
    assert!(refused.unwrap_err().to_string().contains("ImageVolume"));
}

#[test]
fn what_plugins_fill_in_is_no_change() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "plain")
        .unwrap();
    let world = World::of(&text);
    let mut pod = world.inject(&text).unwrap();
    pod.pointer_mut("/spec/initContainers/1/resources/limits")
        .unwrap()["cpu"] = json!("1");
    pod["spec"]["nodeName"] = json!("node-1");
    world.injector.validate(&pod, "shop", world.scope).unwrap();
}

#[test]
fn an_ephemeral_container_is_held_to_the_same_and_drops_capabilities_itself() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "plain")
        .unwrap();
    let world = World::of(&text);
    let sealed = world.inject(&text).unwrap();
    let with = |container: Value| {
        let mut pod = sealed.clone();
        pod["spec"]["ephemeralContainers"] = json!([container]);
        let validated = world.injector.validate_ephemeral(&sealed, &pod);
        validated.map_err(|refusal| refusal.to_string())
    };
    let drops = json!({ "capabilities": { "drop": ["ALL"] }, "allowPrivilegeEscalation": false });
    with(json!({ "name": "a", "image": "a", "securityContext": drops })).unwrap();
    for (container, field) in [
        (
            json!({ "name": "a", "securityContext": { "capabilities": { "drop": ["ALL"] } } }),
            "allowPrivilegeEscalation",
        ),
        (
            json!({ "name": "a" }),
            "spec.ephemeralContainers[0].securityContext.capabilities.drop",
        ),
        (
            json!({ "name": "a", "securityContext": { "privileged": true } }),
            "privileged",
        ),
        (
            json!({ "name": "a", "securityContext": { "runAsUser": 1337 } }),
            "runAsUser",
        ),
        (
            json!({ "name": "a", "targetContainerName": "sealwire-proxy" }),
            "targetContainerName",
        ),
        (
            json!({ "name": "a", "volumeMounts": [{ "name": "sealwire-vault", "mountPath": "/a" }] }),
            "volumeMounts[0]",
        ),
    ] {
        let refused = with(container).unwrap_err();
        assert!(refused.contains(field), "{refused}");
    }
    let mut own = sealed.clone();
    own["metadata"]["annotations"] = json!({});
    let mut pod = own.clone();
    pod["spec"]["ephemeralContainers"] = json!([{ "name": "a", "image": "a" }]);
    world.injector.validate_ephemeral(&own, &pod).unwrap();
}

#[test]
fn a_pod_that_is_applied_again_as_it_was_written_stays_as_it_is() {
    let mut kept = 0;
    for (name, text) in pods() {
        let world = World::of(&text);
        let Ok(sealed) = world.inject(&text) else {
            continue;
        };
        let written: Value = serde_saphyr::from_str(&text).unwrap();
        let again = applied(&sealed, &written);
        let result = world.injector.keep(&sealed, &again, "shop", world.scope);
        kept += usize::from(result.is_some());
        assert_eq!(result.unwrap_or(again), sealed, "{name}");
    }
    assert!(kept > 5, "only {kept} were put back");
}

#[test]
fn what_an_update_changes_on_purpose_is_not_put_back() {
    let (_, text) = pods()
        .into_iter()
        .find(|(name, _)| name == "probes-http")
        .unwrap();
    let world = World::of(&text);
    let sealed = world.inject(&text).unwrap();
    let written: Value = serde_saphyr::from_str(&text).unwrap();
    for (path, value) in [
        (
            "/spec/containers/0/readinessProbe/httpGet/path",
            json!("/other"),
        ),
        (
            "/spec/containers/0/readinessProbe/httpGet/port",
            json!(9999),
        ),
        ("/spec/containers/0/image", json!("registry.example/web:2")),
    ] {
        let mut again = applied(&sealed, &written);
        *again.pointer_mut(path).unwrap() = value.clone();
        let kept = world.injector.keep(&sealed, &again, "shop", world.scope);
        let kept = kept.unwrap_or(again);
        assert_eq!(kept.pointer(path), Some(&value), "{path}");
    }
    // Nothing of a pod that is not sealed, or no longer says so, is the injector's to put back.
    let mut bare = sealed.clone();
    bare["metadata"]["annotations"] = json!({});
    let again = applied(&sealed, &written);
    let keep = |old, new| world.injector.keep(old, new, "shop", world.scope);
    assert_eq!(keep(&bare, &again), None);
    assert_eq!(keep(&sealed, &bare), None);
}

/// A sealed pod with what was written applied to it again: probes, hooks and dropped capabilities
/// are as they were written, in the order in which they were, the rest is as it is.
fn applied(sealed: &Value, written: &Value) -> Value {
    let mut again = sealed.clone();
    for list in ["initContainers", "containers"] {
        let there = again["spec"].get_mut(list).and_then(Value::as_array_mut);
        if let Some(there) = there {
            there.sort_by_key(|one| one["name"].as_str().unwrap().starts_with("sealwire-"));
        }
        let written = written["spec"][list].as_array().into_iter().flatten();
        for container in written {
            let containers = again["spec"][list].as_array_mut().unwrap();
            let there = containers
                .iter_mut()
                .find(|there| there["name"] == container["name"])
                .unwrap();
            let asks = [
                "startupProbe",
                "readinessProbe",
                "livenessProbe",
                "lifecycle",
            ];
            for field in asks {
                if let Some(value) = container.get(field) {
                    there[field] = value.clone();
                }
            }
            if let Some(drop) = container.pointer("/securityContext/capabilities/drop") {
                there["securityContext"]["capabilities"]["drop"] = drop.clone();
            }
        }
    }
    again
}

/// How a pod's mesh is configured.
struct World {
    injector: Injector,
    scope: Scope,
}

impl World {
    fn of(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        let with = first.strip_prefix("# with: ").unwrap_or_default();
        let tokens = matches!(with, "pkcs11" | "module-volume" | "pin-by-account");
        let mut config = config(if tokens { PKCS11 } else { VAULT });
        match with {
            "opt-out" => config.policy.opt_out = OptOut::Allowed,
            "leave-capabilities" => config.policy.capabilities = Capabilities::Leave,
            "users-given" => config.policy.users = Users::Given,
            "pin-by-account" => {
                let pin = config.volumes.pin.as_mut().unwrap();
                pin.secret = "pin-{serviceAccount}".to_owned();
            }
            "refuse-capabilities" => config.policy.capabilities = Capabilities::Refuse,
            "host-paths" => config.policy.host_paths = vec!["/var/log".into()],
            "module-volume" => {
                let claim = json!({ "claimName": "module", "readOnly": true });
                let source = BTreeMap::from([("persistentVolumeClaim".to_owned(), claim)]);
                config.volumes.module = Some(ModuleSource::Volume(source));
            }
            _ => {}
        }
        let scope = if with == "labelled" {
            Scope::Pod
        } else {
            Scope::Namespace
        };
        Self {
            injector: Injector::new(config, with != "ordinary"),
            scope,
        }
    }

    fn inject(&self, text: &str) -> Result<Value, String> {
        let pod: Value = serde_saphyr::from_str(text).unwrap();
        let injected = self.injector.inject(&pod, "shop", self.scope);
        injected
            .map(|injected| injected.pod)
            .map_err(|refusal| refusal.to_string())
    }

    /// What the snapshot is to hold.
    fn outcome(&self, text: &str) -> String {
        let pod: Value = serde_saphyr::from_str(text).unwrap();
        match self.injector.inject(&pod, "shop", self.scope) {
            Ok(injected) => {
                let warnings: String = injected
                    .warnings
                    .iter()
                    .map(|said| format!("# warning: {said}\n"))
                    .collect();
                format!(
                    "{warnings}{}",
                    serde_saphyr::to_string(&injected.pod).unwrap()
                )
            }
            Err(refusal) => {
                let faults: Vec<String> = refusal.faults.iter().map(ToString::to_string).collect();
                format!("# refused:\n{}\n", faults.join("\n"))
            }
        }
    }
}

fn pods() -> Vec<(String, String)> {
    let mut pods: Vec<(String, String)> = fs::read_dir(directory("pods"))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    pods.sort();
    assert!(pods.len() > 70, "{} pods", pods.len());
    pods
}

fn snapshot(name: &str) -> PathBuf {
    directory("snapshots").join(format!("{name}.yaml"))
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// The first lines that differ.
fn difference(there: &str, now: &str) -> String {
    let pairs = there
        .lines()
        .chain(std::iter::repeat("(end)"))
        .zip(now.lines().chain(std::iter::repeat("(end)")));
    pairs
        .take(there.lines().count().max(now.lines().count()) + 1)
        .enumerate()
        .find(|(_, (there, now))| there != now)
        .map_or_else(
            || "  another end of the file".to_owned(),
            |(i, (there, now))| format!("  line {}\n  - {there}\n  + {now}", i + 1),
        )
}
