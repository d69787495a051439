//! Any pod at all: it comes out sealed with its own parts untouched, or is refused with a reason.
//! What is put into it here is what people put into pods, and what would get past the seal.

use proptest::collection::vec;
use proptest::prelude::*;
use sealwire_injector::inject::Scope;
use serde_json::{Map, Value, json};

use super::injector;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pod_is_sealed_once_and_for_all_or_refused_with_a_field_and_a_way_out(pod in pods()) {
        let injector = injector();
        match injector.inject(&pod, "shop", Scope::Namespace) {
            Err(refusal) => {
                prop_assert!(!refusal.faults.is_empty());
                for fault in &refusal.faults {
                    prop_assert!(!fault.field.is_empty() && !fault.problem.is_empty() && !fault.fix.is_empty());
                }
            }
            Ok(injected) => {
                let again = injector.inject(&injected.pod, "shop", Scope::Namespace).unwrap();
                prop_assert_eq!(&again.pod, &injected.pod);
                injector.validate(&injected.pod, "shop", Scope::Namespace).unwrap();
                let spec = &injected.pod["spec"];
                prop_assert_eq!(&spec["initContainers"][0]["name"], "sealwire-capture");
                prop_assert_eq!(&spec["initContainers"][1]["name"], "sealwire-proxy");
                prop_assert_eq!(own_parts(&injected.pod), own_parts(&pod));
            }
        }
    }

    #[test]
    fn the_patch_makes_of_the_pod_what_it_is_to_be(pod in pods()) {
        if let Ok(injected) = injector().inject(&pod, "shop", Scope::Namespace) {
            let mut patched = pod.clone();
            let patch = json_patch::diff(&pod, &injected.pod);
            json_patch::patch(&mut patched, &patch).unwrap();
            prop_assert_eq!(patched, injected.pod);
        }
    }

    #[test]
    fn any_value_in_any_place_of_a_pod_is_answered(
        pod in pods(),
        place in any::<prop::sample::Index>(),
        value in junk(),
    ) {
        let mut pod = pod;
        let mut places = Vec::new();
        pointers(&pod, String::new(), &mut places);
        let place = place.get(&places);
        *pod.pointer_mut(place).unwrap() = value;
        let injector = injector();
        if let Ok(injected) = injector.inject(&pod, "shop", Scope::Namespace) {
            let again = injector.inject(&injected.pod, "shop", Scope::Namespace).unwrap();
            prop_assert_eq!(again.pod, injected.pod);
        }
        let _ = injector.validate(&pod, "shop", Scope::Namespace);
        let _ = injector.validate_update(&pod, &Value::Null);
        let _ = injector.validate_ephemeral(&pod, &pod);
        let _ = injector.keep(&pod, &pod, "shop", Scope::Namespace);
    }
}

/// The pod without what the injector adds, and without what it is there to change: probes over the
/// network, and privileges that it drops.
fn own_parts(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let metadata = pod["metadata"].as_object_mut().unwrap();
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.retain(|name, _| !name.starts_with("sealwire.io/"));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    let spec = pod["spec"].as_object_mut().unwrap();
    // The group by which the sidecar reads its secrets, where the pod had none.
    if let Some(context) = spec
        .get_mut("securityContext")
        .and_then(Value::as_object_mut)
    {
        if context.get("fsGroup") == Some(&json!(1337)) {
            context.remove("fsGroup");
            context.remove("fsGroupChangePolicy");
        }
        if context.is_empty() {
            spec.remove("securityContext");
        }
    }
    for list in ["initContainers", "containers", "volumes"] {
        let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        items.retain(|item| !item["name"].as_str().unwrap().starts_with("sealwire-"));
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(probe) = item.get_mut(field).and_then(Value::as_object_mut) {
                    for handler in ["httpGet", "tcpSocket", "grpc"] {
                        probe.remove(handler);
                    }
                }
            }
            if let Some(lifecycle) = item.get_mut("lifecycle").and_then(Value::as_object_mut) {
                for handler in lifecycle.values_mut() {
                    handler.as_object_mut().unwrap().remove("httpGet");
                }
            }
            without_dropped(item);
        }
        if items.is_empty() {
            spec.remove(list);
        }
    }
    pod
}

fn without_dropped(container: &mut Map<String, Value>) {
    let Some(context) = container
        .get_mut("securityContext")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if context.get("allowPrivilegeEscalation") == Some(&json!(false)) {
        context.remove("allowPrivilegeEscalation");
    }
    if let Some(capabilities) = context
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    {
        capabilities.remove("drop");
        if capabilities.is_empty() {
            context.remove("capabilities");
        }
    }
    if context.is_empty() {
        container.remove("securityContext");
    }
}

/// Paths of everything in a value.
fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(inner, format!("{at}/{name}"), out);
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                pointers(inner, format!("{at}/{i}"), out);
            }
        }
        _ => {}
    }
    out.push(at);
}

fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([null, {}, 7])),
        Just(json!("sealwire-proxy")),
        Just(json!({ "name": "sealwire-capture" })),
        Just(json!({ "sealwire.io/status": "sealed", "sealwire.io/probes": "[7" })),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ]
}

fn pods() -> impl Strategy<Value = Value> {
    let metadata = prop_oneof![
        Just(json!({ "name": "a" })),
        Just(json!({ "generateName": "a-", "labels": { "app": "a" } })),
        Just(json!({ "name": "a", "annotations": { "own": "annotation" } })),
    ];
    let containers = vec(container(false), 1..4);
    let inits = proptest::option::of(vec(container(true), 0..3));
    let spec = (containers, inits, volumes(), contexts(), spec_fields());
    (metadata, spec).prop_map(
        |(metadata, (containers, inits, volumes, context, fields))| {
            let mut spec = fields;
            spec.insert("containers".to_owned(), named(containers, "c"));
            if let Some(inits) = inits.filter(|inits| !inits.is_empty()) {
                spec.insert("initContainers".to_owned(), named(inits, "i"));
            }
            if !volumes.is_empty() {
                spec.insert("volumes".to_owned(), named(volumes, "v"));
            }
            spec.extend(context.map(|context| ("securityContext".to_owned(), context)));
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
        },
    )
}

fn named(items: Vec<Map<String, Value>>, prefix: &str) -> Value {
    let name = |(i, mut item): (usize, Map<String, Value>)| {
        item.insert("name".to_owned(), json!(format!("{prefix}{i}")));
        Value::Object(item)
    };
    items.into_iter().enumerate().map(name).collect()
}

fn container(init: bool) -> impl Strategy<Value = Map<String, Value>> {
    let context = proptest::option::weighted(
        0.5,
        prop_oneof![
            4 => Just(json!({ "runAsUser": 1000, "allowPrivilegeEscalation": false })),
            4 => Just(json!({ "capabilities": { "drop": ["ALL"] } })),
            2 => Just(json!({ "capabilities": { "add": ["CHOWN"], "drop": ["cap_setuid"] } })),
            1 => Just(json!({ "capabilities": { "add": ["NET_ADMIN"] } })),
            1 => Just(json!({ "privileged": true })),
            1 => Just(json!({ "runAsUser": 1337 })),
            1 => Just(json!({ "allowPrivilegeEscalation": true })),
        ],
    );
    let probes = vec(proptest::option::weighted(0.4, probe()), 3);
    let hooks = proptest::option::weighted(
        0.2,
        prop_oneof![
            Just(json!({ "preStop": { "exec": { "command": ["a"] } } })),
            Just(json!({ "preStop": { "httpGet": { "path": "/quit", "port": 8080 } } })),
            Just(json!({ "postStart": { "httpGet": { "port": "http" } } })),
        ],
    );
    let ports = proptest::option::weighted(
        0.5,
        prop_oneof![
            6 => Just(json!([{ "name": "http", "containerPort": 8080 }, { "containerPort": 5432, "hostPort": 5432 }])),
            1 => Just(json!([{ "containerPort": 15001 }])),
        ],
    );
    (context, probes, hooks, ports, any::<bool>()).prop_map(
        move |(context, probes, hooks, ports, goes_on)| {
            let mut container =
                Map::from_iter([("image".to_owned(), json!("registry.example/a:1"))]);
            container.extend(context.map(|context| ("securityContext".to_owned(), context)));
            container.extend(ports.map(|ports| ("ports".to_owned(), ports)));
            if init && goes_on {
                container.insert("restartPolicy".to_owned(), json!("Always"));
            }
            // An init container that ends has none.
            if !init || goes_on {
                let fields = ["startupProbe", "readinessProbe", "livenessProbe"];
                for (field, probe) in fields.into_iter().zip(probes) {
                    container.extend(probe.map(|probe| (field.to_owned(), probe)));
                }
                container.extend(hooks.map(|hooks| ("lifecycle".to_owned(), hooks)));
            }
            container
        },
    )
}

fn probe() -> impl Strategy<Value = Value> {
    let handler = prop_oneof![
        4 => Just(json!({ "httpGet": { "path": "/ready", "port": 8080 } })),
        2 => Just(json!({ "httpGet": { "port": "http", "scheme": "HTTPS", "httpHeaders": [{ "name": "A", "value": "b" }] } })),
        3 => Just(json!({ "tcpSocket": { "port": 5432 } })),
        3 => Just(json!({ "grpc": { "port": 9000, "service": null } })),
        3 => Just(json!({ "exec": { "command": ["a"] } })),
        1 => Just(json!({ "httpGet": { "host": "203.0.113.9", "port": 80 } })),
    ];
    let timeout = proptest::option::of(1_u32..9);
    (handler, timeout).prop_map(|(mut probe, timeout)| {
        if let Some(seconds) = timeout {
            probe["timeoutSeconds"] = json!(seconds);
        }
        probe
    })
}

fn volumes() -> impl Strategy<Value = Vec<Map<String, Value>>> {
    let volume = prop_oneof![
        6 => Just(json!({ "emptyDir": {} })),
        4 => Just(json!({ "configMap": { "name": "own" } })),
        4 => Just(json!({ "persistentVolumeClaim": { "claimName": "own" } })),
        1 => Just(json!({ "hostPath": { "path": "/run" } })),
    ];
    vec(
        volume.prop_map(|volume| volume.as_object().unwrap().clone()),
        0..3,
    )
}

fn contexts() -> impl Strategy<Value = Option<Value>> {
    proptest::option::weighted(
        0.3,
        prop_oneof![
            6 => Just(json!({ "runAsNonRoot": true, "runAsUser": 1000 })),
            6 => Just(json!({ "fsGroup": 2000, "supplementalGroups": [3000] })),
            1 => Just(json!({ "runAsUser": 1337 })),
        ],
    )
}

fn spec_fields() -> impl Strategy<Value = Map<String, Value>> {
    let fields = prop_oneof![
        8 => Just(json!({})),
        4 => Just(json!({ "restartPolicy": "Never", "activeDeadlineSeconds": 60 })),
        4 => Just(json!({ "terminationGracePeriodSeconds": 1, "serviceAccountName": "web" })),
        2 => Just(json!({ "hostUsers": false, "dnsPolicy": "ClusterFirst" })),
        1 => Just(json!({ "hostNetwork": true })),
        1 => Just(json!({ "shareProcessNamespace": true })),
    ];
    fields.prop_map(|fields| fields.as_object().unwrap().clone())
}
