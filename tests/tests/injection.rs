//! The injector and its chart against real API servers, of each supported end of the range of
//! releases: what is stored, what is refused, and what happens while things fail or change.
//! `make test SUITE=injection`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "injection/chart.rs"]
mod chart;
#[path = "injection/commands.rs"]
mod commands;
#[path = "injection/generated.rs"]
mod generated;
#[path = "injection/policy.rs"]
mod policy;

use std::time::Instant;

use sealwire_pods::{Release, assert_eventually};
use sealwire_proxy::config::Config;
use sealwire_proxy::pod::PodFacts;
use sealwire_proxy::probes::Probes;
use sealwire_tests::cluster::{
    Cluster, SYSTEM, container, container_names, in_each_cluster, is_sealed, repository,
    with_each_release,
};
use sealwire_tests::{LONG, SOON};
use serde_json::{Value, json};

/// A pod with probes of every kind, an init container and a sidecar of its own.
fn web(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": "web" } },
        "spec": {
            "initContainers": [
                { "name": "migrate", "image": "registry.example/migrate:1" },
                { "name": "logs", "image": "registry.example/logs:1", "restartPolicy": "Always",
                  "startupProbe": { "tcpSocket": { "port": 9000 } } },
            ],
            "containers": [
                { "name": "web", "image": "registry.example/web:1",
                  "ports": [{ "name": "http", "containerPort": 8080 }],
                  "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 3 },
                  "livenessProbe": { "grpc": { "port": 9090, "service": "web" }, "timeoutSeconds": 7 },
                  "startupProbe": { "exec": { "command": ["true"] } },
                  "lifecycle": { "preStop": { "httpGet": { "path": "/quit", "port": 8080 } } } },
                { "name": "cache", "image": "registry.example/cache:1" },
            ],
        },
    })
}

/// A pod with one container, changed.
fn plain(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "containers": [{ "name": "main", "image": "registry.example/main:1" }] },
    });
    change(&mut pod);
    pod
}

#[test]
fn a_pod_of_a_sealed_namespace_is_stored_sealed_with_its_own_parts_as_they_were() {
    in_each_cluster(|cluster| {
        let stored = cluster.create(&web("web")).unwrap();
        assert_eq!(
            container_names(&stored, "initContainers"),
            ["sealwire-capture", "sealwire-proxy", "migrate", "logs"]
        );
        assert_eq!(container_names(&stored, "containers"), ["web", "cache"]);
        let capture = container(&stored, "sealwire-capture");
        assert_eq!(
            capture["securityContext"]["capabilities"],
            json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] })
        );
        let proxy = container(&stored, "sealwire-proxy");
        assert_eq!(proxy["restartPolicy"], "Always");
        assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
        assert_eq!(proxy["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(
            proxy["securityContext"]["capabilities"],
            json!({ "drop": ["ALL"] })
        );
        // What is mounted into the sidecar is mounted nowhere else.
        for name in ["migrate", "logs", "web", "cache"] {
            let mounts = container(&stored, name)["volumeMounts"].to_string();
            assert!(!mounts.contains("sealwire"), "{name}: {mounts}");
        }
        // The kubelet asks the sidecar, and commands stay.
        let own = container(&stored, "web");
        assert_eq!(
            own["readinessProbe"]["httpGet"]["path"],
            "/probe/web/readiness"
        );
        assert_eq!(own["readinessProbe"]["periodSeconds"], 3);
        assert_eq!(own["livenessProbe"]["httpGet"]["port"], 15021);
        assert_eq!(own["livenessProbe"]["timeoutSeconds"], 7);
        assert_eq!(own["startupProbe"]["exec"], json!({ "command": ["true"] }));
        assert_eq!(
            own["lifecycle"]["preStop"]["httpGet"]["path"],
            "/probe/web/preStop"
        );
        let logs = container(&stored, "logs");
        assert_eq!(
            logs["startupProbe"]["httpGet"]["path"],
            "/probe/logs/startup"
        );
        // And the sidecar takes what is declared.
        let declared = stored["metadata"]["annotations"]["sealwire.io/probes"]
            .as_str()
            .unwrap();
        Probes::parse(declared).unwrap();
        let declared: Value = serde_json::from_str(declared).unwrap();
        assert_eq!(declared["web"]["readiness"]["httpGet"]["port"], 8080);
        assert_eq!(declared["web"]["liveness"]["grpc"]["service"], "web");
    });
}

#[test]
fn the_configuration_reaches_a_labelled_namespace_is_put_back_and_is_the_injectors_alone() {
    in_each_cluster(|cluster| {
        let text = || {
            let map =
                cluster
                    .api
                    .kubectl(&["get", "configmap", "sealwire", "-n", "shop", "-o", "json"]);
            let map: Value = serde_json::from_str(&map.ok()?).unwrap();
            map["data"]["proxy.yaml"].as_str().map(str::to_owned)
        };
        let found = assert_eventually("the ConfigMap comes", SOON, text);
        let pod = PodFacts {
            namespace: Some("shop".to_owned()),
            service_account: Some("web".to_owned()),
            node: None,
            node_addresses: vec!["198.18.255.1".parse().unwrap()],
            pod_addresses: vec!["198.18.0.7".parse().unwrap()],
        };
        let settings = Config::parse(&found)
            .unwrap()
            .for_pod(&pod)
            .unwrap()
            .settings()
            .unwrap();
        let pki = settings.config.identity.vault_pki.unwrap();
        assert_eq!(pki.spiffe_id, "spiffe://mesh.example/ns/shop/sa/web");

        cluster.run("delete configmap sealwire -n shop");
        let again = assert_eventually("it is put back", SOON, text);
        assert_eq!(again, found);
        let changed = [
            "patch",
            "configmap",
            "sealwire",
            "-n",
            "shop",
            "-p",
            r#"{"data":{"proxy.yaml":""}}"#,
        ];
        let refused = cluster.api.kubectl(&changed).unwrap_err().to_string();
        assert!(refused.contains("only the injector writes it"), "{refused}");

        // Nor does anybody write one beforehand, where no pod is sealed yet.
        cluster.namespace("early", None);
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "immutable": true,
            "metadata": { "name": "sealwire", "namespace": "early" }, "data": { "proxy.yaml": "" },
        });
        let refused = cluster.create(&map).unwrap_err();
        assert!(refused.contains("only the injector writes it"), "{refused}");

        // What a namespace says of itself gets in.
        let said = "- { destination: 198.19.0.80/32, ports: [80], identities: [\"spiffe://mesh.example/ns/shop/sa/web\"] }";
        let annotation = format!("sealwire.io/services={said}");
        cluster
            .api
            .kubectl(&["annotate", "namespace", "shop", &annotation])
            .unwrap();
        assert_eventually("it is taken up", SOON, || {
            text()?.contains("198.19.0.80").then_some(())
        });
        // Pods that were sealed go on when the label goes.
        cluster.run("label namespace shop sealwire.io/inject-");
        cluster.namespace("later", Some("enabled"));
        cluster.wait_until_configured("later");
        assert!(text().is_some());
    });
}

#[test]
fn templates_of_every_controller_in_the_examples_become_sealed_pods() {
    in_each_cluster(|cluster| {
        let mut sealed = 0;
        for entry in std::fs::read_dir(repository().join("deploy/examples")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let objects = cluster.objects(&std::fs::read_to_string(&path).unwrap());
            let (namespaces, mut others): (Vec<_>, Vec<_>) = objects
                .into_iter()
                .partition(|object| object["kind"] == "Namespace");
            // Addresses of Services are of another range here.
            for service in others.iter_mut().filter(|one| one["kind"] == "Service") {
                if service["spec"]["clusterIP"] != "None" {
                    service["spec"].as_object_mut().unwrap().remove("clusterIP");
                }
            }
            cluster.apply_all(&namespaces).unwrap();
            for namespace in &namespaces {
                let name = namespace["metadata"]["name"].as_str().unwrap();
                let account = json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": { "name": "default", "namespace": name },
                });
                cluster.apply(&account).unwrap();
            }
            cluster.apply_all(&others).unwrap();
            for object in &others {
                let Some(pod) = pod_of(object) else { continue };
                let stored = cluster
                    .create(&pod)
                    .unwrap_or_else(|error| panic!("{path:?}: {error}"));
                let asked = stored["metadata"]["labels"]["sealwire.io/inject"] != "disabled";
                assert!(is_sealed(&stored) || !asked, "{path:?}: {stored}");
                sealed += 1;
            }
        }
        assert!(sealed >= 5, "{sealed} templates");
    });
}

/// The pod that a controller would make of an object: as no controllers run, its template.
fn pod_of(object: &Value) -> Option<Value> {
    let template = match object["kind"].as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => &object["spec"]["template"],
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    let mut pod = template.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let name = object["metadata"]["name"].as_str()?.to_owned();
    pod["metadata"]["name"] = json!(format!("{name}-0"));
    pod["metadata"]["namespace"] = object["metadata"]["namespace"].clone();
    // Claims that a StatefulSet makes come with a name of their own.
    let claims = object["spec"]["volumeClaimTemplates"].as_array();
    for claim in claims.into_iter().flatten() {
        let claim = claim["metadata"]["name"].as_str()?;
        let volume = json!({
            "name": claim, "persistentVolumeClaim": { "claimName": format!("{claim}-{name}-0") },
        });
        let volumes = &mut pod["spec"]["volumes"];
        match volumes.as_array_mut() {
            Some(volumes) => volumes.push(volume),
            None => *volumes = json!([volume]),
        }
    }
    Some(pod)
}

#[test]
fn applying_again_and_changing_ones_own_parts_work_and_changing_the_seal_does_not() {
    in_each_cluster(|cluster| {
        let main = plain("main", |_| {});
        let first = cluster.apply(&main).unwrap();
        assert!(is_sealed(&first));
        let second = cluster.apply(&main).unwrap();
        assert_eq!(
            first["metadata"]["resourceVersion"],
            second["metadata"]["resourceVersion"]
        );

        // Probes, hooks and capabilities were changed as it was sealed; what was written is the same.
        let mut written = web("web");
        let drops = json!({ "capabilities": { "drop": ["MKNOD"] } });
        written["spec"]["containers"][1]["securityContext"] = drops;
        let stored = cluster.apply(&written).unwrap();
        let again = cluster.apply(&written).unwrap();
        assert_eq!(again["spec"], stored["spec"]);
        written["spec"]["containers"][1]["image"] = json!("registry.example/cache:2");
        let again = cluster.apply(&written).unwrap();
        let image = |pod: &Value, name: &str| container(pod, name)["image"].clone();
        assert_eq!(image(&again, "cache"), "registry.example/cache:2");
        assert_eq!(
            image(&again, "sealwire-proxy"),
            image(&stored, "sealwire-proxy")
        );
        written["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = json!("/other");
        let refused = cluster.apply(&written).unwrap_err();
        assert!(refused.contains("pod updates may not change"), "{refused}");
        // The same by kubectl's own reckoning of what has changed.
        let client = |pod: &Value| {
            let told = ["apply", "-f", "-"];
            cluster.api.kubectl_with(&told, &pod.to_string())
        };
        for _ in 0..2 {
            client(&web("reckoned")).unwrap();
        }

        let patch = |patch: Value| {
            let patch = patch.to_string();
            let told = [
                "patch",
                "pod",
                "web",
                "-n",
                "shop",
                "--type",
                "strategic",
                "-p",
                &patch,
            ];
            cluster
                .api
                .kubectl(&told)
                .map_err(|error| error.to_string())
        };
        let image = |name: &str| json!({ "name": name, "image": "registry.example/other:2" });
        patch(json!({ "metadata": { "labels": { "app": "shop" } } })).unwrap();
        patch(json!({ "spec": { "containers": [image("web")] } })).unwrap();
        for (changed, field) in [
            (
                json!({ "spec": { "initContainers": [image("sealwire-proxy")] } }),
                "image",
            ),
            (
                json!({ "spec": { "initContainers": [image("sealwire-capture")] } }),
                "image",
            ),
            (
                json!({ "metadata": { "annotations": { "sealwire.io/status": null } } }),
                "sealwire.io/status",
            ),
            (
                json!({ "metadata": { "annotations": { "sealwire.io/probes": "{}" } } }),
                "sealwire.io/probes",
            ),
            (
                json!({ "metadata": { "labels": { "sealwire.io/inject": "disabled" } } }),
                "sealwire.io/inject",
            ),
        ] {
            let refused = patch(changed.clone()).expect_err(&changed.to_string());
            assert!(
                refused.contains("create the pod anew") && refused.contains(field),
                "{changed}: {refused}"
            );
        }
        // A finished pod's finalizers and its deletion are nobody's business.
        cluster.run("delete pod web -n shop --wait=false");
    });
}

#[test]
fn what_would_get_past_the_seal_is_refused_with_its_field_and_the_way_out() {
    in_each_cluster(|cluster| {
        let container = |field: &'static str, value: Value| {
            move |pod: &mut Value| pod["spec"]["containers"][0]["securityContext"][field] = value
        };
        let spec =
            |field: &'static str, value: Value| move |pod: &mut Value| pod["spec"][field] = value;
        type Change = Box<dyn FnOnce(&mut Value)>;
        let refused: Vec<(Change, &str)> = vec![
            (Box::new(container("runAsUser", json!(1337))), "runAsUser"),
            (Box::new(container("privileged", json!(true))), "privileged"),
            (
                Box::new(container("capabilities", json!({ "add": ["NET_ADMIN"] }))),
                "capabilities.add[0]",
            ),
            (Box::new(spec("hostNetwork", json!(true))), "hostNetwork"),
            (Box::new(spec("hostPID", json!(true))), "hostPID"),
            (
                Box::new(container("allowPrivilegeEscalation", json!(true))),
                "allowPrivilegeEscalation",
            ),
            (
                Box::new(container("capabilities", json!({ "add": ["ſYS_ADMIN"] }))),
                "no capability",
            ),
            (
                Box::new(spec("shareProcessNamespace", json!(true))),
                "shareProcessNamespace",
            ),
            (
                Box::new(spec(
                    "volumes",
                    json!([{ "name": "host", "hostPath": { "path": "/var/run" } }]),
                )),
                "hostPath",
            ),
            (
                Box::new(|pod| {
                    pod["spec"]["containers"][0]["livenessProbe"] =
                        json!({ "tcpSocket": { "host": "203.0.113.1", "port": 80 } });
                }),
                "host",
            ),
            (
                Box::new(|pod| {
                    pod["metadata"]["labels"] = json!({ "sealwire.io/inject": "disabled" })
                }),
                "opting out is forbidden",
            ),
        ];
        for (i, (change, said)) in refused.into_iter().enumerate() {
            let pod = plain(&format!("refused-{i}"), change);
            let message = cluster.create(&pod).expect_err(&pod.to_string());
            assert!(
                message.contains("sealwire:") && message.contains(said),
                "{said}: {message}"
            );
        }
        let stored = cluster.run("get pods -n shop -o name");
        assert_eq!(stored, "");
    });
}

#[test]
fn an_ephemeral_container_joins_a_sealed_pod_only_without_what_gets_past_the_seal() {
    in_each_cluster(|cluster| {
        cluster.create(&plain("main", |_| {})).unwrap();
        let join = |ephemeral: Value| {
            let mut pod = cluster.get("pod main -n shop");
            pod["spec"]["ephemeralContainers"] = json!([ephemeral]);
            let path = "/api/v1/namespaces/shop/pods/main/ephemeralcontainers";
            let told = ["replace", "--raw", path, "-f", "-"];
            let done = cluster.api.kubectl_with(&told, &pod.to_string());
            done.map(drop).map_err(|error| error.to_string())
        };
        let drops =
            json!({ "capabilities": { "drop": ["ALL"] }, "allowPrivilegeEscalation": false });
        let shell = |context: Value| json!({ "name": "debug", "image": "none", "securityContext": context });
        let refused = join(shell(json!({ "capabilities": { "drop": ["ALL"] } })));
        let refused = refused.unwrap_err();
        assert!(refused.contains("allowPrivilegeEscalation"), "{refused}");
        let refused = join(shell(
            json!({ "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] } }),
        ));
        let refused = refused.unwrap_err();
        assert!(refused.contains("NET_ADMIN"), "{refused}");
        let mut inside = shell(drops.clone());
        inside["targetContainerName"] = json!("sealwire-proxy");
        let refused = join(inside).unwrap_err();
        assert!(refused.contains("targetContainerName"), "{refused}");
        join(shell(drops)).unwrap();
    });
}

#[test]
fn while_no_injector_answers_sealed_namespaces_get_no_pods_and_others_do() {
    in_each_cluster(|cluster| {
        cluster.namespace("elsewhere", None);
        cluster.kill_injectors();
        let refused = cluster.create(&plain("main", |_| {})).unwrap_err();
        assert!(refused.contains("failed calling webhook"), "{refused}");
        let elsewhere = |pod: &mut Value| pod["metadata"]["namespace"] = json!("elsewhere");
        cluster.create(&plain("main", elsewhere)).unwrap();
        // One that asks to be sealed where nobody would do it is refused as well.
        let stray = plain("stray", |pod| {
            elsewhere(pod);
            pod["metadata"]["labels"] = json!({ "sealwire.io/inject": "enabled" });
        });
        let refused = cluster.create(&stray).unwrap_err();
        assert!(refused.contains("failed calling webhook"), "{refused}");

        cluster.start_injector();
        cluster.wait_until_sealing("shop");
        let refused = cluster.create(&stray).unwrap_err();
        assert!(
            refused.contains("kubectl label namespace elsewhere"),
            "{refused}"
        );
        assert!(is_sealed(&cluster.create(&plain("main", |_| {})).unwrap()));
    });
}

#[test]
fn an_injector_that_is_told_to_end_does_so_and_another_takes_over() {
    in_each_cluster(|cluster| {
        let holder = || {
            let lease = cluster.get(&format!("lease sealwire-injector -n {SYSTEM}"));
            let holder = lease["spec"]["holderIdentity"].as_str()?.to_owned();
            (!holder.is_empty()).then_some(holder)
        };
        let first = assert_eventually("it leads", SOON, holder);
        cluster.start_replica();
        assert_eq!(holder().as_ref(), Some(&first));
        assert_eq!(cluster.stop_injector(), Some(0));
        assert_eventually("the other leads", SOON, || {
            holder().filter(|now| *now != first)
        });
    });
}

#[test]
fn the_webhooks_certificate_is_replaced_again_and_again_without_a_refused_pod() {
    with_each_release(|release| {
        let cluster = Cluster::sealing_with_certificates_for(release, 30);
        let certificate = || {
            let secret = cluster.get(&format!("secret sealwire-injector-tls -n {SYSTEM}"));
            secret["data"].to_string()
        };
        let mut seen = vec![certificate()];
        let deadline = Instant::now() + LONG;
        let mut asked = 0;
        while seen.len() < 4 {
            let stored = cluster.dry_run(&plain("main", |_| {}));
            assert!(
                is_sealed(&stored.unwrap()),
                "after {asked} pods and {} certificates",
                seen.len()
            );
            asked += 1;
            let now = certificate();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            assert!(Instant::now() < deadline, "{} in time", seen.len());
        }
        assert!(asked > seen.len(), "{asked} pods");
    });
}

#[test]
fn pods_of_a_namespace_that_seals_labelled_pods_choose_themselves() {
    in_each_cluster(|cluster| {
        cluster.namespace("moving", Some("labelled"));
        cluster.wait_until_configured("moving");
        let pod = |name: &str, label: Option<&str>| {
            plain(name, |pod| {
                pod["metadata"]["namespace"] = json!("moving");
                if let Some(label) = label {
                    pod["metadata"]["labels"] = json!({ "sealwire.io/inject": label });
                }
            })
        };
        assert!(is_sealed(
            &cluster.create(&pod("asks", Some("enabled"))).unwrap()
        ));
        assert!(!is_sealed(&cluster.create(&pod("silent", None)).unwrap()));
        let label = [
            "label",
            "pod",
            "asks",
            "-n",
            "moving",
            "sealwire.io/inject-",
        ];
        let refused = cluster.api.kubectl(&label).unwrap_err().to_string();
        assert!(refused.contains("create the pod anew"), "{refused}");
    });
}

#[test]
fn each_release_is_the_one_it_says() {
    with_each_release(|release| {
        let cluster = Cluster::bare(release);
        assert_eq!(cluster.api.release(), release);
        let version = cluster.run("version -o json");
        let version: Value = serde_json::from_str(&version).unwrap();
        let server = version["serverVersion"]["gitVersion"].as_str().unwrap();
        assert!(
            server.starts_with(&format!("v{}.", release.name())),
            "{server}"
        );
    });
    assert_eq!(Release::ALL.len(), 2);
}
