//! Probes and hooks of the kubelet. What it would send to the application goes to the sidecar's
//! health port instead, and the sidecar forwards what was declared and nothing else. What was
//! declared stands in an annotation, which the sidecar reads as a file. Commands (exec) stay.

use k8s_openapi::api::core::v1::{
    Container, GRPCAction, HTTPGetAction, LifecycleHandler, Pod, PodSpec, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sealwire_proxy::config::Ports;
use serde_json::{Map, Value, json};

use super::map;
use crate::names;
use crate::refusal::{Faults, Reason, Refusal};

/// Probes, by the sidecar's name for them and the container's field.
const PROBES: [(&str, &str); 3] = [
    ("startup", "startupProbe"),
    ("readiness", "readinessProbe"),
    ("liveness", "livenessProbe"),
];

/// Hooks, likewise: field in `lifecycle`.
const HOOKS: [&str; 2] = ["postStart", "preStop"];

/// By which the sidecar knows that a container still runs, where it is no native sidecar.
const ALIVE: &str = "alive";

/// Ways of probing that go over the network.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Lets the kubelet ask the sidecar, and gives what was declared.
pub(super) fn redirect(
    pod: &mut Value,
    own: &Pod,
    native: bool,
    ports: &Ports,
) -> Result<Value, Refusal> {
    let mut faults = Faults::default();
    let mut declared = Map::new();
    let Some(spec) = &own.spec else {
        return Ok(json!({}));
    };
    let inits: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let kinds = [
        ("initContainers", inits),
        ("containers", spec.containers.iter().collect()),
    ];
    for (list, containers) in kinds {
        for (i, container) in containers.into_iter().enumerate() {
            let Some(value) = pod
                .pointer_mut(&format!("/spec/{list}/{i}"))
                .and_then(Value::as_object_mut)
            else {
                continue;
            };
            let mut desk = Desk {
                container,
                field: format!("spec.{list}[{i}]"),
                ports,
                faults: &mut faults,
                declared: Map::new(),
            };
            let silence = (list == "containers" && !native)
                .then(|| silence(spec))
                .flatten();
            desk.redirect(value, silence);
            if !desk.declared.is_empty() {
                declared.insert(container.name.clone(), Value::Object(desk.declared));
            }
        }
    }
    faults.none_or_refuse()?;
    Ok(Value::Object(declared))
}

/// Puts back what was declared, where the kubelet was let ask the sidecar.
pub(super) fn restore(spec: &mut Map<String, Value>, declared: &Value) {
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let name = container
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let of = declared.get(&name);
            for (kind, field) in PROBES {
                if let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) {
                    put_back(probe, &name, kind, of);
                }
            }
            for hook in HOOKS {
                let lifecycle = container.get_mut("lifecycle");
                let handler = lifecycle.and_then(|lifecycle| lifecycle.get_mut(hook));
                if let Some(handler) = handler.and_then(Value::as_object_mut) {
                    put_back(handler, &name, hook, of);
                }
            }
            remove_alive(container, &name);
        }
    }
}

fn put_back(probe: &mut Map<String, Value>, container: &str, kind: &str, declared: Option<&Value>) {
    if !asks_for(probe.get("httpGet"), container, kind) {
        return;
    }
    let Some(was) = declared.and_then(|of| of.get(kind)) else {
        return;
    };
    for handler in HANDLERS {
        if let Some(action) = was.get(handler) {
            probe.remove("httpGet");
            probe.insert(handler.to_owned(), action.clone());
        }
    }
}

/// Takes out what only asks whether the container runs.
fn remove_alive(container: &mut Map<String, Value>, name: &str) {
    let is_alive = |asker: Option<&Value>| {
        asker.is_some_and(|asker| asks_for(asker.get("httpGet"), name, ALIVE))
    };
    if is_alive(container.get("readinessProbe")) {
        container.remove("readinessProbe");
    }
    let Some(lifecycle) = container
        .get_mut("lifecycle")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    if is_alive(lifecycle.get("postStart")) {
        lifecycle.remove("postStart");
        if lifecycle.is_empty() {
            container.remove("lifecycle");
        }
    }
}

/// After how much silence a container has ended, where its end ends the pod: longer than the pause
/// before a container that has failed is started again.
fn silence(spec: &PodSpec) -> Option<u32> {
    match spec.restart_policy.as_deref() {
        Some("Never") => Some(30),
        Some("OnFailure") => Some(330),
        _ => None,
    }
}

fn asks_for(action: Option<&Value>, container: &str, kind: &str) -> bool {
    let path = action
        .and_then(|action| action.get("path"))
        .and_then(Value::as_str);
    path.is_some_and(|path| path == path_of(container, kind))
}

fn path_of(container: &str, kind: &str) -> String {
    format!("{}/{container}/{kind}", names::PROBE_PATH)
}

/// One container's probes on their way to the sidecar.
struct Desk<'a> {
    container: &'a Container,
    field: String,
    /// The sidecar's own.
    ports: &'a Ports,
    faults: &'a mut Faults,
    declared: Map<String, Value>,
}

impl Desk<'_> {
    fn redirect(&mut self, value: &mut Map<String, Value>, silence: Option<u32>) {
        let container = self.container;
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        for ((kind, field), probe) in PROBES.into_iter().zip(probes) {
            let Some(probe) = probe else { continue };
            if let Some(handler) = self.probe(field, probe) {
                let probe = map(value, field);
                let mut said = handler;
                if let Some(seconds) = probe.get("timeoutSeconds").filter(|value| value.is_u64()) {
                    said.insert("timeoutSeconds".to_owned(), seconds.clone());
                }
                self.point(probe, kind, said);
            }
        }
        let hooks = container.lifecycle.as_ref();
        let handlers = [
            hooks.and_then(|hooks| hooks.post_start.as_ref()),
            hooks.and_then(|hooks| hooks.pre_stop.as_ref()),
        ];
        for (kind, hook) in HOOKS.into_iter().zip(handlers) {
            let Some(hook) = hook else { continue };
            if let Some(handler) = self.hook(kind, hook) {
                self.point(map(map(value, "lifecycle"), kind), kind, handler);
            }
        }
        if let Some(seconds) = silence {
            self.ask_after(value, seconds);
        }
    }

    /// Lets the kubelet ask after the container for as long as it runs, and once when it begins.
    fn ask_after(&mut self, value: &mut Map<String, Value>, silence: u32) {
        let action = self.action(ALIVE);
        if self.container.readiness_probe.is_none() {
            value.insert(
                "readinessProbe".to_owned(),
                json!({
                    "httpGet": action,
                    "periodSeconds": 5,
                    "timeoutSeconds": 1,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                }),
            );
        }
        let hooks = self.container.lifecycle.as_ref();
        if hooks.is_none_or(|hooks| hooks.post_start.is_none()) {
            let hook = json!({ "httpGet": action });
            map(value, "lifecycle").insert("postStart".to_owned(), hook);
        }
        let said = json!({ "silentSeconds": silence });
        self.declared.insert(ALIVE.to_owned(), said);
    }

    /// Where the kubelet asks instead.
    fn action(&self, kind: &str) -> Value {
        json!({
            "path": path_of(&self.container.name, kind),
            "port": self.ports.health,
            "scheme": "HTTP",
        })
    }

    fn point(&mut self, probe: &mut Map<String, Value>, kind: &str, said: Map<String, Value>) {
        for handler in HANDLERS {
            probe.remove(handler);
        }
        probe.insert("httpGet".to_owned(), self.action(kind));
        self.declared.insert(kind.to_owned(), Value::Object(said));
    }

    fn probe(&mut self, field: &str, probe: &Probe) -> Option<Map<String, Value>> {
        if let Some(action) = &probe.http_get {
            return self.http(field, action);
        }
        if let Some(action) = &probe.tcp_socket {
            return self.tcp(field, action);
        }
        self.grpc(field, probe.grpc.as_ref()?)
    }

    fn hook(&mut self, kind: &str, hook: &LifecycleHandler) -> Option<Map<String, Value>> {
        let field = format!("lifecycle.{kind}");
        if let Some(action) = &hook.http_get {
            return self.http(&field, action);
        }
        // The kubelet has long ceased to do this; it would go past the sidecar if it did.
        hook.tcp_socket.as_ref()?;
        let field = format!("{}.{field}.tcpSocket", self.field);
        self.faults.add(
            Reason::Probe,
            field,
            "does nothing in Kubernetes",
            "use exec, sleep or httpGet",
        );
        None
    }

    fn http(&mut self, field: &str, action: &HTTPGetAction) -> Option<Map<String, Value>> {
        let field = format!("{field}.httpGet");
        let port = self.port(&field, &action.port);
        if !self.names_no_host(&field, action.host.as_deref()) {
            return None;
        }
        let mut said = json!({ "port": port? });
        if let Some(said) = said.as_object_mut() {
            let path = action.path.clone().map(Value::from);
            let scheme = action.scheme.clone().map(Value::from);
            let headers = action.http_headers.as_ref().map(|headers| {
                let pair = |header: &k8s_openapi::api::core::v1::HTTPHeader| {
                    json!({ "name": header.name, "value": header.value })
                };
                Value::from(headers.iter().map(pair).collect::<Vec<_>>())
            });
            let given = [("path", path), ("scheme", scheme), ("httpHeaders", headers)];
            for (name, value) in given {
                said.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
        Some(only("httpGet", said))
    }

    fn tcp(&mut self, field: &str, action: &TCPSocketAction) -> Option<Map<String, Value>> {
        let field = format!("{field}.tcpSocket");
        let port = self.port(&field, &action.port);
        if !self.names_no_host(&field, action.host.as_deref()) {
            return None;
        }
        Some(only("tcpSocket", json!({ "port": port? })))
    }

    fn grpc(&mut self, field: &str, action: &GRPCAction) -> Option<Map<String, Value>> {
        let port = IntOrString::Int(action.port);
        let port = self.port(&format!("{field}.grpc"), &port)?;
        let mut said = json!({ "port": port });
        if let (Some(said), Some(service)) = (said.as_object_mut(), &action.service) {
            said.insert("service".to_owned(), Value::from(service.clone()));
        }
        Some(only("grpc", said))
    }

    /// A probe of another host would be sent by the sidecar to wherever it says.
    fn names_no_host(&mut self, field: &str, host: Option<&str>) -> bool {
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return true;
        };
        self.faults.add(
            Reason::Probe,
            format!("{}.{field}.host", self.field),
            format!("{host:?} is asked instead of the pod"),
            "leave it out, or use exec",
        );
        false
    }

    /// A port by its number, or by its name among the container's ports.
    fn port(&mut self, field: &str, port: &IntOrString) -> Option<u16> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                ports
                    .filter(|port| port.name.as_ref() == Some(name))
                    .map(|port| port.container_port)
                    .next()
            }
        };
        let number = number.and_then(|number| u16::try_from(number).ok());
        if let Some(number) = number.filter(|number| *number != 0) {
            let mut taken = self.ports.named().into_iter();
            let Some((name, _)) = taken.find(|(_, own)| *own == number) else {
                return Some(number);
            };
            self.faults.add(
                Reason::Probe,
                format!("{}.{field}.port", self.field),
                format!("{number} is the sidecar's own ({name}), which it would ask itself"),
                "ask a port of the application",
            );
            return None;
        }
        let shown = match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => format!("{name:?}"),
        };
        self.faults.add(
            Reason::Probe,
            format!("{}.{field}.port", self.field),
            format!("{shown} is no port of this container"),
            "use a number from 1 to 65535, or a name under ports",
        );
        None
    }
}

fn only(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}
