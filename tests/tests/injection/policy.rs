//! The ValidatingAdmissionPolicies: the same refusals, decided in the API server itself, while no
//! webhook is there at all. Each rule is seen to refuse.

use sealwire_pods::assert_eventually;
use sealwire_tests::SOON;
use sealwire_tests::cluster::{Cluster, container_names, in_each_cluster};
use serde_json::{Value, json};

use super::plain;

/// What is changed in a sealed pod, and what the policy's refusal names.
type Refused<'a> = Vec<(&'a str, Box<dyn Fn(&mut Value) + 'a>)>;

/// A sealed pod as it is stored, in a cluster from which all webhooks are gone since.
fn without_webhooks(cluster: &Cluster) -> Value {
    let mut pod = plain("sealed", |_| {});
    pod["metadata"]["labels"] = json!({ "sealwire.io/inject": "enabled" });
    let sealed = cluster.create(&pod).unwrap();
    cluster.run("delete validatingwebhookconfiguration,mutatingwebhookconfiguration sealwire");
    assert_eventually("no webhook is called", SOON, || {
        cluster.kill_injectors();
        let elsewhere = plain("probe", |pod| {
            pod["metadata"]["namespace"] = json!("default");
            pod["metadata"]["labels"] = json!({ "sealwire.io/inject": "enabled" });
        });
        cluster.dry_run(&elsewhere).ok()
    });
    // The API server takes a moment to know a policy that has come.
    assert_eventually("the policy is in force", SOON, || {
        let pod = like(&sealed, "probe", &spec("hostPID", json!(true)));
        let refused = cluster.dry_run(&pod).err()?;
        refused.contains("ValidatingAdmissionPolicy").then_some(())
    });
    sealed
}

/// A pod that the injector has sealed, but for what is changed.
fn like(sealed: &Value, name: &str, change: &dyn Fn(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop",
            "annotations": sealed["metadata"]["annotations"],
        },
        "spec": sealed["spec"],
    });
    change(&mut pod);
    pod
}

fn assert_refused_by_the_policy(said: &str, done: Result<impl std::fmt::Debug, String>) {
    let message = done.expect_err(said);
    assert!(
        message.contains("ValidatingAdmissionPolicy") && message.contains(said),
        "{said}: {message}"
    );
}

fn context(field: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |pod| pod["spec"]["containers"][0]["securityContext"][field] = value.clone()
}

fn spec(field: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |pod| pod["spec"][field] = value.clone()
}

fn ours(number: usize, field: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |pod| pod["spec"]["initContainers"][number][field] = value.clone()
}

#[test]
fn without_any_webhook_the_policy_refuses_what_would_get_past_the_seal() {
    in_each_cluster(|cluster| {
        let sealed = without_webhooks(cluster);
        let adds = |name: &str| context("capabilities", json!({ "add": [name], "drop": ["ALL"] }));
        let main = |field: &'static str, value: Value| {
            move |pod: &mut Value| pod["spec"]["containers"][0][field] = value.clone()
        };
        let mut refused: Refused<'_> = vec![
            ("1337", Box::new(context("runAsUser", json!(1337)))),
            (
                "spec.securityContext.runAsUser",
                Box::new(spec("securityContext", json!({ "runAsUser": 1337 }))),
            ),
            (
                "privileged",
                Box::new(|pod| {
                    // A privileged container may not say that it gains nothing.
                    pod["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
                }),
            ),
            (
                "allowPrivilegeEscalation",
                Box::new(context("allowPrivilegeEscalation", json!(true))),
            ),
            (
                "SETUID",
                Box::new(context(
                    "capabilities",
                    json!({ "drop": ["NET_RAW", "SETGID"] }),
                )),
            ),
            ("NET_ADMIN", Box::new(adds("NET_ADMIN"))),
            ("NET_ADMIN", Box::new(adds("cap_net_admin"))),
            ("SYS_TIME", Box::new(adds("SYS_TIME"))),
            ("NET_ADMIN", Box::new(adds("NET_ADMıN"))),
            ("hostNetwork", Box::new(spec("hostNetwork", json!(true)))),
            ("hostPID", Box::new(spec("hostPID", json!(true)))),
            ("hostIPC", Box::new(spec("hostIPC", json!(true)))),
            (
                "shareProcessNamespace",
                Box::new(spec("shareProcessNamespace", json!(true))),
            ),
            (
                "procMount",
                Box::new(|pod| {
                    pod["spec"]["hostUsers"] = json!(false);
                    context("procMount", json!("Unmasked"))(pod);
                }),
            ),
            (
                "directory of the node",
                Box::new(|pod| {
                    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
                    volumes.push(json!({ "name": "run", "hostPath": { "path": "/run" } }));
                }),
            ),
            (
                "for the sidecar alone",
                Box::new(|pod| {
                    let mounts = &mut pod["spec"]["containers"][0]["volumeMounts"];
                    let mount = json!({ "name": "sealwire-vault", "mountPath": "/stolen" });
                    match mounts.as_array_mut() {
                        Some(mounts) => mounts.push(mount),
                        None => *mounts = json!([mount]),
                    }
                }),
            ),
            (
                "a probe with a host",
                Box::new(main(
                    "livenessProbe",
                    json!({ "tcpSocket": { "host": "203.0.113.1", "port": 80 } }),
                )),
            ),
            (
                "a probe with a host",
                Box::new(main(
                    "lifecycle",
                    json!({ "preStop": { "httpGet": { "host": "203.0.113.1", "port": 80 } } }),
                )),
            ),
            (
                "not sealed",
                Box::new(|pod| pod["metadata"]["annotations"] = json!({})),
            ),
            (
                "capture has to come first",
                Box::new(|pod| {
                    let inits = pod["spec"]["initContainers"].as_array_mut().unwrap();
                    inits.remove(0);
                }),
            ),
            (
                "NET_ADMIN and nothing else",
                Box::new(ours(
                    0,
                    "securityContext",
                    json!({ "capabilities": { "add": ["SYS_ADMIN"] } }),
                )),
            ),
            (
                "user 1337 without any capability",
                Box::new(ours(1, "securityContext", json!({ "runAsUser": 0 }))),
            ),
        ];
        for (i, (said, change)) in refused.drain(..).enumerate() {
            let pod = like(&sealed, &format!("refused-{i}"), &*change);
            assert_refused_by_the_policy(said, cluster.create(&pod));
        }
        let good = cluster.create(&like(&sealed, "good", &|_| {})).unwrap();
        assert_eq!(
            container_names(&good, "initContainers"),
            container_names(&sealed, "initContainers")
        );
    });
}

#[test]
fn without_any_webhook_the_policy_refuses_changes_of_what_is_the_injectors() {
    in_each_cluster(|cluster| {
        without_webhooks(cluster);
        let patch = |patch: &Value| {
            let patch = patch.to_string();
            let told = ["patch", "pod", "sealed", "-n", "shop", "-p", &patch];
            let done = cluster.api.kubectl(&told);
            done.map_err(|error| error.to_string())
        };
        let annotation = |name: &str, value: Value| json!({ "metadata": { "annotations": { format!("sealwire.io/{name}"): value } } });
        let image = |list: &str, name: &str| json!({ "spec": { list: [{ "name": name, "image": "registry.example/other:2" }] } });
        for (said, changed) in [
            ("sealwire.io/status", annotation("status", Value::Null)),
            (
                "sealwire.io/probes",
                annotation("probes", json!("{\"web\":{}}")),
            ),
            (
                "sealwire.io/injector-version",
                annotation("injector-version", json!("9")),
            ),
            (
                "sealwire.io/inject",
                annotation("inject", json!("disabled")),
            ),
            (
                "sealwire.io/opt-out-reason",
                annotation("opt-out-reason", json!("none")),
            ),
            (
                "metadata.labels[sealwire.io/inject]",
                json!({ "metadata": { "labels": { "sealwire.io/inject": null } } }),
            ),
            ("images", image("initContainers", "sealwire-capture")),
            ("images", image("initContainers", "sealwire-proxy")),
        ] {
            assert_refused_by_the_policy(said, patch(&changed));
        }
        patch(&json!({ "metadata": { "labels": { "app": "shop" }, "annotations": { "a": "b" } } }))
            .unwrap();
        patch(&image("containers", "main")).unwrap();
    });
}

#[test]
fn without_any_webhook_the_policy_holds_ephemeral_containers_to_the_same() {
    in_each_cluster(|cluster| {
        without_webhooks(cluster);
        let join = |change: &dyn Fn(&mut Value)| {
            let mut pod = cluster.get("pod sealed -n shop");
            let mut container = json!({
                "name": "debug", "image": "none",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            });
            change(&mut container);
            pod["spec"]["ephemeralContainers"] = json!([container]);
            let path = "/api/v1/namespaces/shop/pods/sealed/ephemeralcontainers";
            let told = ["replace", "--raw", path, "-f", "-"];
            let done = cluster.api.kubectl_with(&told, &pod.to_string());
            done.map_err(|error| error.to_string())
        };
        let context = |field: &'static str, value: Value| {
            move |container: &mut Value| container["securityContext"][field] = value.clone()
        };
        let refused: Refused<'_> = vec![
            ("1337", Box::new(context("runAsUser", json!(1337)))),
            (
                "privileged",
                Box::new(|container| container["securityContext"] = json!({ "privileged": true })),
            ),
            (
                "NET_ADMIN",
                Box::new(context(
                    "capabilities",
                    json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] }),
                )),
            ),
            ("SETUID", Box::new(context("capabilities", json!({})))),
            (
                "allowPrivilegeEscalation",
                Box::new(|container| {
                    container["securityContext"] = json!({ "capabilities": { "drop": ["ALL"] } });
                }),
            ),
            (
                "for the sidecar alone",
                Box::new(|container| {
                    container["volumeMounts"] =
                        json!([{ "name": "sealwire-vault", "mountPath": "/a" }]);
                }),
            ),
            (
                "targetContainerName",
                Box::new(|container| container["targetContainerName"] = json!("sealwire-proxy")),
            ),
        ];
        for (said, change) in &refused {
            assert_refused_by_the_policy(said, join(&**change));
        }
        join(&|_| {}).unwrap();
    });
}

#[test]
fn nobody_gets_into_the_sidecar_of_a_sealed_namespace() {
    in_each_cluster(|cluster| {
        cluster.create(&plain("main", |_| {})).unwrap();
        let enter = |way: &str, container: &str| {
            let login = cluster.api.kubeconfig();
            let login = login.to_str().unwrap();
            let mut told = vec![
                way,
                "main",
                "-n",
                "shop",
                "-c",
                container,
                "--kubeconfig",
                login,
            ];
            if way == "exec" {
                told.extend(["--", "sh"]);
            }
            let done = cluster.api.kubectl(&told);
            done.map_err(|error| error.to_string())
        };
        // The API server takes a moment to know a policy that has come.
        assert_eventually("the policy is in force", SOON, || {
            let refused = enter("exec", "sealwire-proxy").unwrap_err();
            refused.contains("ValidatingAdmissionPolicy").then_some(())
        });
        for way in ["exec", "attach"] {
            for container in ["sealwire-proxy", "sealwire-capture"] {
                assert_refused_by_the_policy("nobody gets into the sidecar", enter(way, container));
            }
        }
        // Past the policy: no node has it.
        let refused = enter("exec", "main").unwrap_err();
        assert!(!refused.contains("ValidatingAdmissionPolicy"), "{refused}");
    });
}
