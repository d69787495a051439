//! Containers: users, capabilities, ports and mounts that get past the seal.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, Pod, PodSpec, SecurityContext, VolumeMount,
};

use crate::config::{Capabilities, InjectorConfig};
use crate::inject::{IMPLICIT, capability};
use crate::names;
use crate::refusal::{Faults, Reason};

/// Capabilities by which a process gets past capture, or at the sidecar.
pub(super) const FORBIDDEN: [&str; 11] = [
    "ALL",
    "BPF",
    "NET_ADMIN",
    "NET_RAW",
    "PERFMON",
    "SETGID",
    "SETUID",
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

/// What containers are held to.
pub(super) struct Policy<'a> {
    /// Whether capabilities that runtimes give by themselves have to be dropped.
    drops: bool,
    ports: [(&'static str, u16); 5],
    pin: Option<&'a str>,
}

impl<'a> Policy<'a> {
    pub(super) fn new(config: &'a InjectorConfig) -> Self {
        Self {
            drops: config.policy.capabilities == Capabilities::Refuse,
            ports: config.proxy.ports.named(),
            pin: config.volumes.pin.as_ref().map(|pin| pin.secret.as_str()),
        }
    }

    /// Ephemeral containers are not changed by the injector, so that they drop them themselves.
    fn for_ephemeral(mut self, config_leaves: bool) -> Self {
        self.drops = !config_leaves;
        self
    }
}

/// Checks the pod's own init containers and containers.
pub(super) fn check_containers(spec: &PodSpec, policy: &Policy<'_>, faults: &mut Faults) {
    let inits = spec.init_containers.iter().flatten();
    let kinds = [
        ("initContainers", inits.collect::<Vec<_>>()),
        ("containers", spec.containers.iter().collect()),
    ];
    for (kind, containers) in kinds {
        for (i, container) in containers.into_iter().enumerate() {
            View::of(container).check(&format!("spec.{kind}[{i}]"), policy, faults);
        }
    }
}

/// Checks ephemeral containers. They are no containers by type, and have the same in them.
pub(super) fn check_ephemeral(pod: &Pod, policy: Policy<'_>, leaves: bool, faults: &mut Faults) {
    let policy = policy.for_ephemeral(leaves);
    let containers = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.ephemeral_containers.as_ref());
    for (i, container) in containers.into_iter().flatten().enumerate() {
        let field = format!("spec.ephemeralContainers[{i}]");
        let target = container.target_container_name.as_deref();
        if let Some(target) = target.filter(|name| crate::inject::is_ours(name)) {
            faults.add(
                Reason::Bypass,
                format!("{field}.targetContainerName"),
                format!("in the processes of {target}"),
                "name a container of the application",
            );
        }
        let view = View {
            name: &container.name,
            context: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            mounts: container.volume_mounts.as_deref().unwrap_or_default(),
            env: container.env.as_deref().unwrap_or_default(),
            env_from: container.env_from.as_deref().unwrap_or_default(),
        };
        view.check(&field, &policy, faults);
    }
}

pub(super) fn own_uid(field: &str, faults: &mut Faults) {
    faults.add(
        Reason::Bypass,
        field,
        format!(
            "{} is the sidecar's user, whose connections are not captured",
            crate::UID
        ),
        "use any other",
    );
}

/// A container, ephemeral or not, as far as it is checked.
struct View<'a> {
    name: &'a str,
    context: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    mounts: &'a [VolumeMount],
    env: &'a [EnvVar],
    env_from: &'a [EnvFromSource],
}

impl<'a> View<'a> {
    fn of(container: &'a Container) -> Self {
        Self {
            name: &container.name,
            context: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            mounts: container.volume_mounts.as_deref().unwrap_or_default(),
            env: container.env.as_deref().unwrap_or_default(),
            env_from: container.env_from.as_deref().unwrap_or_default(),
        }
    }

    fn check(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        if crate::inject::is_ours(self.name) {
            faults.add(
                Reason::Reserved,
                format!("{field}.name"),
                format!("{} is the injector's", self.name),
                "give the container another name",
            );
        }
        self.check_context(field, policy, faults);
        for (i, port) in self.ports.iter().enumerate() {
            let taken = policy
                .ports
                .iter()
                .find(|(_, own)| i32::from(*own) == port.container_port);
            if let Some((name, own)) = taken {
                faults.add(
                    Reason::Reserved,
                    format!("{field}.ports[{i}].containerPort"),
                    format!("{own} is the sidecar's own ({name})"),
                    "listen on another port, or move the sidecar's with proxy.ports",
                );
            }
        }
        for (i, mount) in self.mounts.iter().enumerate() {
            if mount.name.starts_with(names::VOLUME_PREFIX) {
                faults.add(
                    Reason::Reserved,
                    format!("{field}.volumeMounts[{i}].name"),
                    format!("{} is for the sidecar alone", mount.name),
                    "take the mount out",
                );
            }
        }
        self.check_pin(field, policy, faults);
    }

    fn check_context(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        let context = self.context.cloned().unwrap_or_default();
        let field = format!("{field}.securityContext");
        if context.run_as_user == Some(crate::UID.into()) {
            own_uid(&format!("{field}.runAsUser"), faults);
        }
        if context.privileged == Some(true) {
            faults.add(
                Reason::Bypass,
                format!("{field}.privileged"),
                "a privileged container can take the capture away",
                "leave it out, and add the capabilities that are needed",
            );
        }
        if context.proc_mount.as_deref() == Some("Unmasked") {
            faults.add(
                Reason::Bypass,
                format!("{field}.procMount"),
                "an unmasked /proc reaches the node's settings",
                "leave it out",
            );
        }
        let capabilities = context.capabilities.unwrap_or_default();
        for (i, name) in capabilities.add.iter().flatten().enumerate() {
            if FORBIDDEN.contains(&capability(name).as_str()) {
                faults.add(
                    Reason::Bypass,
                    format!("{field}.capabilities.add[{i}]"),
                    format!("with {name} a process gets past the capture, or at the sidecar"),
                    "take it out",
                );
            }
        }
        if !policy.drops {
            return;
        }
        let dropped: Vec<String> = capabilities
            .drop
            .iter()
            .flatten()
            .map(|name| capability(name))
            .collect();
        let kept: Vec<&str> = IMPLICIT
            .into_iter()
            .filter(|name| {
                !dropped
                    .iter()
                    .any(|dropped| dropped == "ALL" || dropped == name)
            })
            .collect();
        if !kept.is_empty() {
            faults.add(
                Reason::Bypass,
                format!("{field}.capabilities.drop"),
                format!(
                    "container {} keeps {}, which runtimes give by themselves",
                    self.name,
                    kept.join(", ")
                ),
                "drop them, or ALL",
            );
        }
    }

    /// The PIN's Secret is for the sidecar alone, as environment as well.
    fn check_pin(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        let Some(pin) = policy.pin else { return };
        let one = |env: &EnvVar| {
            let source = env.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some(source.name == pin)
        };
        let all = |env: &EnvFromSource| Some(env.secret_ref.as_ref()?.name == pin);
        let env = self.env.iter().position(|env| one(env) == Some(true));
        let env_from = self.env_from.iter().position(|env| all(env) == Some(true));
        let found = env
            .map(|i| format!("{field}.env[{i}].valueFrom.secretKeyRef"))
            .or_else(|| env_from.map(|i| format!("{field}.envFrom[{i}].secretRef")));
        if let Some(field) = found {
            faults.add(
                Reason::Bypass,
                field,
                "takes the token's PIN",
                "take it out: the PIN is for the sidecar alone",
            );
        }
    }
}
