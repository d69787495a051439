//! Generated pods: whatever the API server takes for a pod, it takes sealed as well, with all its
//! own parts, or the injector refuses it with a reason. Never does a pod come out that the API
//! server finds invalid.

use std::collections::BTreeMap;

use fastrand::Rng;
use sealwire_tests::cluster::{Cluster, in_each_cluster, is_sealed};
use serde_json::{Value, json};

/// How many pods are made for each release.
const PODS: usize = 300;

/// The seed of the generator: another one tries other pods.
const SEED: u64 = 0x5ea1;

#[test]
fn whatever_is_a_pod_is_one_when_it_is_sealed_or_is_refused_with_a_reason() {
    in_each_cluster(|cluster| {
        cluster.namespace("open", None);
        let mut rng = Rng::with_seed(SEED);
        let pods: Vec<_> = (0..PODS)
            .map(|i| pod(&mut rng, &format!("pod-{i}")))
            .collect();
        let (valid, _) = dry_run(cluster, "open", pods.iter());
        assert!(
            valid.len() > PODS / 2,
            "only {} of {PODS} are pods",
            valid.len()
        );

        let (sealed, refusals) = dry_run(
            cluster,
            "shop",
            pods.iter()
                .filter(|pod| valid.contains_key(pod["metadata"]["name"].as_str().unwrap())),
        );
        let refused = valid.len() - sealed.len();
        let by_the_injector = refusals.matches("denied the request: sealwire: ").count();
        assert_eq!(refused, by_the_injector, "{refusals}");
        assert!(
            sealed.len() > PODS / 4 && refused > PODS / 20,
            "{refused} of {PODS} refused"
        );
        for (name, sealed) in &sealed {
            assert!(is_sealed(sealed), "{sealed}");
            has_all_of(&valid[name], sealed);
        }
    });
}

/// What would be stored of each pod, by name, and what was said of the others.
fn dry_run<'a>(
    cluster: &Cluster,
    namespace: &str,
    pods: impl Iterator<Item = &'a Value>,
) -> (BTreeMap<String, Value>, String) {
    let pods: Vec<_> = pods
        .map(|pod| {
            let mut pod = pod.clone();
            pod["metadata"]["namespace"] = json!(namespace);
            pod
        })
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string();
    let told = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let done = cluster.api.kubectl_ended(&told, &list).unwrap();
    let stored = serde_json::Deserializer::from_slice(&done.stdout).into_iter::<Value>();
    let stored = stored.map(|pod| {
        let pod = pod.unwrap();
        (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod)
    });
    (stored.collect(), String::from_utf8(done.stderr).unwrap())
}

/// Every container of the pod's own is in the sealed one, in the same order, as it was but for
/// probes, hooks and privileges; and so is everything else of the pod.
fn has_all_of(own: &Value, sealed: &Value) {
    let name = &own["metadata"]["name"];
    for kind in ["initContainers", "containers"] {
        let own = own["spec"][kind].as_array().into_iter().flatten();
        let sealed = sealed["spec"][kind].as_array().into_iter().flatten();
        let sealed = sealed.filter(|one| !one["name"].as_str().unwrap().starts_with("sealwire-"));
        let pairs: Vec<_> = own.zip(sealed).collect();
        for (own, sealed) in pairs {
            let bare = |container: &Value| {
                let mut container = container.clone();
                for field in [
                    "readinessProbe",
                    "livenessProbe",
                    "startupProbe",
                    "lifecycle",
                ] {
                    container[field] = Value::Null;
                }
                for field in ["capabilities", "allowPrivilegeEscalation"] {
                    container["securityContext"][field] = Value::Null;
                }
                // The API server's own mount of a token has a name of chance.
                let mounts = container["volumeMounts"].as_array_mut();
                for mount in mounts.into_iter().flatten() {
                    if is_of_chance(&mount["name"]) {
                        mount["name"] = Value::Null;
                    }
                }
                container
            };
            assert_eq!(bare(own), bare(sealed), "{name}");
        }
    }
    for (field, value) in own["spec"].as_object().unwrap() {
        match field.as_str() {
            "initContainers" | "containers" => {}
            "volumes" => {
                let there = sealed["spec"]["volumes"].as_array().unwrap();
                for volume in value.as_array().unwrap() {
                    let same = is_of_chance(&volume["name"]) || there.contains(volume);
                    assert!(same, "{name}: {volume}");
                }
            }
            "securityContext" => {
                for (field, value) in value.as_object().unwrap() {
                    assert_eq!(&sealed["spec"]["securityContext"][field], value, "{name}");
                }
            }
            field => assert_eq!(&sealed["spec"][field], value, "{name}: {field}"),
        }
    }
}

fn is_of_chance(name: &Value) -> bool {
    name.as_str().unwrap().starts_with("kube-api-access-")
}

fn pod(rng: &mut Rng, name: &str) -> Value {
    let mut containers: Vec<_> = (0..rng.usize(1..4))
        .map(|i| container(rng, &format!("c{i}")))
        .collect();
    let mut inits: Vec<_> = (0..rng.usize(0..3))
        .map(|i| container(rng, &format!("i{i}")))
        .collect();
    for init in &mut inits {
        if rng.bool() {
            init["restartPolicy"] = json!("Always");
        } else {
            // Only what goes on can be probed.
            for field in [
                "readinessProbe",
                "livenessProbe",
                "startupProbe",
                "lifecycle",
            ] {
                init.as_object_mut().unwrap().remove(field);
            }
        }
    }
    let mut spec = json!({});
    let volumes = volumes(rng);
    for volume in &volumes {
        let last = containers.last_mut().unwrap();
        let mount = json!({ "name": volume["name"], "mountPath": format!("/data/{}", volume["name"].as_str().unwrap()) });
        match last["volumeMounts"].as_array_mut() {
            Some(mounts) => mounts.push(mount),
            None => last["volumeMounts"] = json!([mount]),
        }
    }
    spec["containers"] = json!(containers);
    if !inits.is_empty() || rng.bool() {
        spec["initContainers"] = json!(inits);
    }
    if !volumes.is_empty() {
        spec["volumes"] = json!(volumes);
    }
    let fields: [(&str, u8, Value); 16] = [
        (
            "restartPolicy",
            40,
            json!(pick(rng, &["Always", "OnFailure", "Never"])),
        ),
        ("terminationGracePeriodSeconds", 30, json!(rng.u32(0..120))),
        ("automountServiceAccountToken", 30, json!(rng.bool())),
        ("enableServiceLinks", 20, json!(rng.bool())),
        (
            "dnsPolicy",
            20,
            json!(pick(rng, &["ClusterFirst", "Default"])),
        ),
        ("hostNetwork", 4, json!(true)),
        ("hostPID", 3, json!(true)),
        ("shareProcessNamespace", 4, json!(rng.bool())),
        ("nodeSelector", 15, json!({ "kubernetes.io/os": "linux" })),
        (
            "tolerations",
            15,
            json!([{ "key": "dedicated", "operator": "Exists" }]),
        ),
        (
            "hostAliases",
            10,
            json!([{ "ip": "203.0.113.5", "hostnames": ["old.example"] }]),
        ),
        ("activeDeadlineSeconds", 10, json!(rng.u32(1..10_000))),
        (
            "securityContext",
            50,
            json!({
                "runAsNonRoot": rng.bool(), "runAsUser": 1000 + rng.u32(0..500),
                "fsGroup": 2000, "supplementalGroups": [3000],
            }),
        ),
        (
            "topologySpreadConstraints",
            10,
            json!([{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": { "app": "generated" } },
            }]),
        ),
        (
            "readinessGates",
            10,
            json!([{ "conditionType": "example.com/gate" }]),
        ),
        ("subdomain", 10, json!("headless")),
    ];
    for (field, percent, value) in fields {
        if rng.u8(0..100) < percent {
            spec[field] = value;
        }
    }
    let mut metadata = json!({ "name": name, "labels": { "app": "generated" } });
    if rng.u8(0..100) < 20 {
        metadata["annotations"] = json!({ "example.com/note": "☃ \"quoted\"\nand more" });
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

fn container(rng: &mut Rng, name: &str) -> Value {
    let ports = json!([
        { "name": "http", "containerPort": 8080 },
        { "name": "grpc", "containerPort": 9090, "protocol": "TCP" },
        { "containerPort": 9053, "protocol": "UDP" },
    ]);
    let mut context = json!({ "allowPrivilegeEscalation": false });
    match rng.u8(0..20) {
        0..8 => context["capabilities"] = json!({ "drop": ["ALL"] }),
        8 => context["capabilities"] = json!({ "add": ["NET_BIND_SERVICE"], "drop": ["NET_RAW"] }),
        9 => context["capabilities"] = json!({ "add": ["SYS_PTRACE"] }),
        10 => context = json!({ "privileged": true }),
        11 => context["runAsUser"] = json!(1337),
        _ => {}
    }
    let fields: [(&str, u8, Value); 14] = [
        ("command", 40, json!(["sh", "-c", "exec \"$0\" \"$@\""])),
        ("args", 40, json!(["--port", "$(PORT)"])),
        (
            "env",
            50,
            json!([
                { "name": "PORT", "value": "8080" },
                { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
            ]),
        ),
        (
            "envFrom",
            15,
            json!([{ "configMapRef": { "name": "settings", "optional": true } }]),
        ),
        ("ports", 60, ports),
        (
            "resources",
            40,
            json!({ "requests": { "cpu": "10m" }, "limits": { "cpu": "1", "memory": "1Gi" } }),
        ),
        ("readinessProbe", 50, probe(rng)),
        ("livenessProbe", 40, probe(rng)),
        ("startupProbe", 20, probe(rng)),
        (
            "lifecycle",
            25,
            json!({ "postStart": hook(rng), "preStop": hook(rng) }),
        ),
        (
            "imagePullPolicy",
            30,
            json!(pick(rng, &["Always", "IfNotPresent", "Never"])),
        ),
        (
            "terminationMessagePolicy",
            10,
            json!("FallbackToLogsOnError"),
        ),
        ("tty", 10, json!(true)),
        ("workingDir", 10, json!("/srv")),
    ];
    let mut container = json!({
        "name": name, "image": format!("registry.example/{name}:1"), "securityContext": context,
    });
    for (field, percent, value) in fields {
        if rng.u8(0..100) < percent {
            container[field] = value;
        }
    }
    container
}

fn probe(rng: &mut Rng) -> Value {
    let port = |rng: &mut Rng| {
        if rng.bool() {
            json!("http")
        } else {
            json!(8080)
        }
    };
    let mut probe = match rng.u8(0..10) {
        0..4 => json!({ "httpGet": { "path": "/health?full=1", "port": port(rng),
            "scheme": pick(rng, &["HTTP", "HTTPS"]),
            "httpHeaders": [{ "name": "X-Check", "value": "yes" }] } }),
        4..6 => json!({ "tcpSocket": { "port": port(rng) } }),
        6 => json!({ "grpc": { "port": 9090, "service": pick(rng, &["", "shop.v1"]) } }),
        7 => json!({ "httpGet": { "host": "203.0.113.9", "port": 80 } }),
        _ => json!({ "exec": { "command": ["true"] } }),
    };
    for (field, values) in [
        ("initialDelaySeconds", 0..60_u32),
        ("periodSeconds", 1..60),
        ("timeoutSeconds", 1..90),
        ("failureThreshold", 1..10),
    ] {
        if rng.bool() {
            probe[field] = json!(rng.u32(values));
        }
    }
    probe
}

fn hook(rng: &mut Rng) -> Value {
    match rng.u8(0..3) {
        0 => json!({ "exec": { "command": ["sleep", "1"] } }),
        1 => json!({ "httpGet": { "path": "/hook", "port": 8080 } }),
        _ => json!({ "sleep": { "seconds": 2 } }),
    }
}

fn volumes(rng: &mut Rng) -> Vec<Value> {
    let all = [
        json!({ "name": "scratch", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }),
        json!({ "name": "settings", "configMap": { "name": "settings", "defaultMode": 0o440 } }),
        json!({ "name": "secret", "secret": { "secretName": "mine", "optional": true } }),
        json!({ "name": "facts", "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        ] } }),
        json!({ "name": "projected", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token", "audience": "somebody" } },
            { "configMap": { "name": "settings" } },
        ] } }),
        json!({ "name": "node", "hostPath": { "path": "/var/log" } }),
    ];
    let chances = [30, 20, 20, 15, 15, 4];
    all.into_iter()
        .zip(chances)
        .filter_map(|(volume, percent)| (rng.u8(0..100) < percent).then_some(volume))
        .collect()
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(0..from.len())]
}
