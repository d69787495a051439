//! What the injector adds: capture, the sidecar, and the volumes of both. Every default of the API
//! server is written out, so that a sealed pod that comes back can be compared with this.

use serde_json::{Map, Value, json};

use crate::config::{InjectorConfig, ModuleSource};
use crate::names;

/// Facts that the containers are given as arguments: environment variable, field, option.
const FACTS: [(&str, &str, &str); 5] = [
    ("SEALWIRE_NAMESPACE", "metadata.namespace", "--namespace"),
    (
        "SEALWIRE_SERVICE_ACCOUNT",
        "spec.serviceAccountName",
        "--service-account",
    ),
    (
        "SEALWIRE_NODE_ADDRESSES",
        "status.hostIPs",
        "--node-addresses",
    ),
    ("SEALWIRE_NODE", "spec.nodeName", "--node"),
    ("SEALWIRE_POD_ADDRESSES", "status.podIPs", "--pod-addresses"),
];

/// Permission bits of a file for its owner and the pod's group: 0440.
const PRIVATE: u32 = 0o440;
/// Permission bits of a file for everybody: 0644.
const PUBLIC: u32 = 0o644;

/// What is added to one pod.
pub(super) struct Parts<'a> {
    pub(super) config: &'a InjectorConfig,
    pub(super) native: bool,
    pub(super) namespace: &'a str,
    pub(super) account: &'a str,
    /// Whether the pod has resources of its own as a whole, in which all its containers have a part.
    pub(super) shares_resources: bool,
}

impl Parts<'_> {
    /// The init container that puts the capture rules in place.
    pub(super) fn capture(&self) -> Value {
        let mut container = self.container(names::CAPTURE, "capture");
        container.insert(
            "securityContext".to_owned(),
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "runAsGroup": 0,
                "runAsNonRoot": false,
                "runAsUser": 0,
                "seccompProfile": { "type": "RuntimeDefault" },
            }),
        );
        container.insert(
            "volumeMounts".to_owned(),
            json!([
                mount(names::CONFIG_VOLUME, names::CONFIG_PATH, true),
                mount(names::NO_TOKEN_VOLUME, names::TOKEN_PATH, true),
            ]),
        );
        Value::Object(container)
    }

    /// The sidecar.
    pub(super) fn proxy(&self) -> Value {
        let ports = self.config.proxy.ports;
        let mut container = self.container(names::PROXY, "run");
        if let Some(env) = container.get_mut("env").and_then(Value::as_array_mut) {
            let more = self.config.sidecar.environment.iter();
            env.extend(more.map(|(name, value)| variable(name, value)));
        }
        if self.native {
            container.insert("restartPolicy".to_owned(), json!("Always"));
        }
        container.insert(
            "securityContext".to_owned(),
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "runAsGroup": crate::UID,
                "runAsNonRoot": true,
                "runAsUser": crate::UID,
                "seccompProfile": { "type": "RuntimeDefault" },
            }),
        );
        container.insert(
            "ports".to_owned(),
            json!([{
                "containerPort": ports.metrics,
                "name": names::METRICS_PORT,
                "protocol": "TCP",
            }]),
        );
        let probe = |path: &str, period: u32, failures: u32| {
            json!({
                "httpGet": { "path": path, "port": ports.health, "scheme": "HTTP" },
                "periodSeconds": period,
                "timeoutSeconds": 2,
                "successThreshold": 1,
                "failureThreshold": failures,
            })
        };
        let startup = self.config.sidecar.startup_seconds;
        container.insert("startupProbe".to_owned(), probe("/readyz", 1, startup));
        container.insert("readinessProbe".to_owned(), probe("/readyz", 5, 2));
        container.insert("livenessProbe".to_owned(), probe("/livez", 10, 6));
        container.insert("volumeMounts".to_owned(), Value::from(self.mounts()));
        Value::Object(container)
    }

    /// What both have in common.
    fn container(&self, name: &str, command: &str) -> Map<String, Value> {
        let mut args = vec![
            command.to_owned(),
            format!("--config={}", names::CONFIG_FILE),
        ];
        args.extend(FACTS.map(|(variable, _, option)| format!("{option}=$({variable})")));
        let env = FACTS.map(|(variable, field, _)| {
            json!({
                "name": variable,
                "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } },
            })
        });
        let container = json!({
            "name": name,
            "image": self.config.image.name,
            "imagePullPolicy": self.config.image.pull_policy,
            "args": args,
            "env": env,
            "resources": self.resources(),
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        match container {
            Value::Object(container) => container,
            _ => Map::new(),
        }
    }

    /// Without what is empty, which the API server would leave out. More than the pod as a whole has
    /// set aside would be refused, so that there the sidecar has its part of that.
    fn resources(&self) -> Map<String, Value> {
        if self.shares_resources {
            return Map::new();
        }
        let resources = &self.config.sidecar.resources;
        [
            ("requests", &resources.requests),
            ("limits", &resources.limits),
        ]
        .into_iter()
        .filter(|(_, amounts)| !amounts.is_empty())
        .map(|(name, amounts)| (name.to_owned(), json!(amounts)))
        .collect()
    }

    fn mounts(&self) -> Vec<Value> {
        let volumes = &self.config.volumes;
        let given = [
            (true, names::CONFIG_VOLUME, names::CONFIG_PATH, true),
            (true, names::POD_VOLUME, names::POD_PATH, true),
            (true, names::NO_TOKEN_VOLUME, names::TOKEN_PATH, true),
            (true, names::STATE_VOLUME, names::STATE_PATH, false),
            (
                volumes.pin.is_some(),
                names::PIN_VOLUME,
                names::PIN_PATH,
                true,
            ),
            (
                volumes.vault_token.is_some(),
                names::VAULT_VOLUME,
                names::VAULT_PATH,
                true,
            ),
            (
                volumes.certificate.is_some(),
                names::IDENTITY_VOLUME,
                names::IDENTITY_PATH,
                true,
            ),
            (
                volumes.module.is_some(),
                names::MODULE_VOLUME,
                names::MODULE_PATH,
                true,
            ),
            (
                volumes.evidence.is_some(),
                names::EVIDENCE_VOLUME,
                names::EVIDENCE_PATH,
                false,
            ),
        ];
        given
            .into_iter()
            .filter(|(given, ..)| *given)
            .map(|(_, name, path, read_only)| mount(name, path, read_only))
            .collect()
    }

    /// Whether files with secrets are among the volumes.
    pub(super) fn has_secrets(&self) -> bool {
        self.config.volumes.pin.is_some() || self.config.volumes.vault_token.is_some()
    }

    /// The volumes of both.
    pub(super) fn volumes(&self) -> Vec<Value> {
        let volumes = &self.config.volumes;
        let field = |path: &str, field: &str| json!({ "path": path, "fieldRef": { "apiVersion": "v1", "fieldPath": field } });
        let probes = format!("metadata.annotations['{}']", names::PROBES);
        let mut list = vec![
            json!({
                "name": names::CONFIG_VOLUME,
                "configMap": { "name": names::CONFIG_MAP, "defaultMode": PUBLIC },
            }),
            json!({
                "name": names::POD_VOLUME,
                "downwardAPI": {
                    "defaultMode": PUBLIC,
                    "items": [
                        field("probes", &probes),
                        field("name", "metadata.name"),
                        field("namespace", "metadata.namespace"),
                        field("uid", "metadata.uid"),
                    ],
                },
            }),
            json!({ "name": names::NO_TOKEN_VOLUME, "emptyDir": { "sizeLimit": "1Mi" } }),
            json!({ "name": names::STATE_VOLUME, "emptyDir": { "sizeLimit": "1Mi" } }),
        ];
        list.extend(
            volumes
                .pin
                .as_ref()
                .map(|pin| self.secret(names::PIN_VOLUME, &pin.secret, &pin.key, "pin")),
        );
        list.extend(volumes.vault_token.as_ref().map(|token| {
            json!({
                "name": names::VAULT_VOLUME,
                "projected": {
                    "defaultMode": PRIVATE,
                    "sources": [{
                        "serviceAccountToken": {
                            "audience": token.audience,
                            "expirationSeconds": token.expiration_seconds,
                            "path": "token",
                        },
                    }],
                },
            })
        }));
        list.extend(volumes.certificate.as_ref().map(|certificate| {
            self.secret(
                names::IDENTITY_VOLUME,
                &certificate.secret,
                &certificate.key,
                "tls.pem",
            )
        }));
        list.extend(volumes.module.as_ref().map(|module| {
            let mut volume = match module {
                ModuleSource::Image(image) => json!({
                    "image": { "reference": image.name, "pullPolicy": image.pull_policy },
                }),
                ModuleSource::Volume(source) => json!(source),
            };
            if let Some(volume) = volume.as_object_mut() {
                volume.insert("name".to_owned(), Value::from(names::MODULE_VOLUME));
            }
            volume
        }));
        list.extend(volumes.evidence.as_ref().map(
            |size| json!({ "name": names::EVIDENCE_VOLUME, "emptyDir": { "sizeLimit": size } }),
        ));
        list
    }

    fn secret(&self, volume: &str, secret: &str, key: &str, file: &str) -> Value {
        let mode = if volume == names::PIN_VOLUME {
            PRIVATE
        } else {
            PUBLIC
        };
        json!({
            "name": volume,
            "secret": {
                "secretName": self.filled(secret),
                "defaultMode": mode,
                "items": [{ "key": key, "path": file }],
            },
        })
    }

    /// A name with the pod's own in it.
    fn filled(&self, text: &str) -> String {
        text.replace(sealwire_proxy::pod::SERVICE_ACCOUNT, self.account)
            .replace(sealwire_proxy::pod::NAMESPACE, self.namespace)
    }
}

fn variable(name: &str, value: &str) -> Value {
    if value.is_empty() {
        return json!({ "name": name });
    }
    json!({ "name": name, "value": value })
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    let mut mount = json!({ "name": name, "mountPath": path });
    if let (true, Some(mount)) = (read_only, mount.as_object_mut()) {
        mount.insert("readOnly".to_owned(), json!(true));
    }
    mount
}
