//! Containers: users, capabilities, ports and mounts that get past the seal.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, Pod, PodSpec, SecurityContext, VolumeMount,
};

use crate::config::{Capabilities, InjectorConfig, Users};
use crate::inject::{IMPLICIT, capability};
use crate::names;
use crate::refusal::{Faults, Reason};
use crate::validate::volumes::is_named_by;

/// Capabilities by which a process gets past capture, or at the sidecar.
pub(super) const FORBIDDEN: [&str; 14] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "NET_ADMIN",
    "NET_RAW",
    "PERFMON",
    "SETGID",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_TIME",
];

/// What containers are held to.
pub(super) struct Policy<'a> {
    /// What becomes of privileges that runtimes give by themselves: dropped by the injector, to be
    /// dropped by the pod, or left.
    privileges: Capabilities,
    /// Whether a container has to name its user, and its pod does not name one for all.
    names_users: bool,
    ports: [(&'static str, u16); 5],
    pin: Option<&'a str>,
}

impl<'a> Policy<'a> {
    pub(super) fn new(config: &'a InjectorConfig, spec: &PodSpec) -> Self {
        let for_all = spec.security_context.as_ref();
        let for_all = for_all.and_then(|context| context.run_as_user);
        Self {
            privileges: config.policy.capabilities,
            names_users: config.policy.users == Users::Given && for_all.is_none(),
            ports: config.proxy.ports.named(),
            pin: config.volumes.pin.as_ref().map(|pin| pin.secret.as_str()),
        }
    }

    /// Ephemeral containers are not changed by the injector, so that they drop them themselves.
    fn for_ephemeral(mut self) -> Self {
        if self.privileges == Capabilities::Drop {
            self.privileges = Capabilities::Refuse;
        }
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
pub(super) fn check_ephemeral(pod: &Pod, config: &InjectorConfig, faults: &mut Faults) {
    let Some(spec) = &pod.spec else { return };
    let policy = Policy::new(config, spec).for_ephemeral();
    for (i, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
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
        self.check_files(field, faults);
        self.check_pin(field, policy, faults);
    }

    /// A file of a volume can become environment without a mount.
    fn check_files(&self, field: &str, faults: &mut Faults) {
        for (i, env) in self.env.iter().enumerate() {
            let source = env.value_from.as_ref();
            let file = source.and_then(|source| source.file_key_ref.as_ref());
            if let Some(file) =
                file.filter(|file| file.volume_name.starts_with(names::VOLUME_PREFIX))
            {
                faults.add(
                    Reason::Reserved,
                    format!("{field}.env[{i}].valueFrom.fileKeyRef"),
                    format!("{} is for the sidecar alone", file.volume_name),
                    "take it out",
                );
            }
        }
    }

    fn check_context(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        let context = self.context.cloned().unwrap_or_default();
        let field = format!("{field}.securityContext");
        if context.run_as_user == Some(crate::UID.into()) {
            own_uid(&format!("{field}.runAsUser"), faults);
        }
        if policy.names_users && context.run_as_user.is_none() {
            faults.add(
                Reason::Bypass,
                format!("{field}.runAsUser"),
                format!(
                    "container {} runs as whatever user its image names, and that may be the sidecar's",
                    self.name
                ),
                "give the container or the pod a runAsUser",
            );
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
            // Runtimes know more upper case letters than Kubernetes' names have: of a long s they
            // make an S.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !name.chars().all(plain) {
                faults.add(
                    Reason::Bypass,
                    format!("{field}.capabilities.add[{i}]"),
                    format!("{name:?} is no capability, and a runtime may take it for one"),
                    "take it out",
                );
            } else if FORBIDDEN.contains(&capability(name).as_str()) {
                faults.add(
                    Reason::Bypass,
                    format!("{field}.capabilities.add[{i}]"),
                    format!("with {name} a process gets past the capture, or at the sidecar"),
                    "take it out",
                );
            }
        }
        self.check_escalation(&field, policy, faults);
        if policy.privileges != Capabilities::Refuse {
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

    /// A file with the set-user-ID bit makes a process its owner's, and needs no capability for it:
    /// whoever owns files, as root does, could make one of the sidecar's user.
    fn check_escalation(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        let said = self
            .context
            .and_then(|context| context.allow_privilege_escalation);
        let refused = match policy.privileges {
            Capabilities::Drop => said == Some(true),
            Capabilities::Refuse => said != Some(false),
            Capabilities::Leave => false,
        };
        if refused {
            faults.add(
                Reason::Bypass,
                format!("{field}.allowPrivilegeEscalation"),
                format!(
                    "container {} may become the sidecar's user by a file with the set-user-ID bit",
                    self.name
                ),
                "set it to false",
            );
        }
    }

    /// The PIN's Secret is for the sidecar alone, as environment as well.
    fn check_pin(&self, field: &str, policy: &Policy<'_>, faults: &mut Faults) {
        let Some(pin) = policy.pin else { return };
        let one = |env: &EnvVar| {
            let source = env.value_from.as_ref()?.secret_key_ref.as_ref()?;
            Some(is_named_by(&source.name, pin))
        };
        let all = |env: &EnvFromSource| Some(is_named_by(&env.secret_ref.as_ref()?.name, pin));
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
