//! What may not be in a sealed pod. `check` looks at the pod's own parts: whatever could get past
//! the seal. [`Injector::validate`] and its like look at what the API server is about to store:
//! the injector's parts have to be there, whole, and to stay.

mod compare;
mod containers;
mod volumes;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::Value;

use self::compare::{same_parts, same_pod};
use self::containers::{Policy, check_containers, check_ephemeral};
use self::volumes::check_volumes;
pub use self::volumes::{check_host_path, claims};
use crate::config::{InjectorConfig, ModuleSource};
use crate::inject::{Injector, Scope, Status, parse};
use crate::names;
use crate::refusal::{Fault, Faults, Reason, Refusal};

/// Refuses what could get past the seal.
pub(crate) fn check(own: &Pod, config: &InjectorConfig) -> Result<(), Refusal> {
    let Some(spec) = &own.spec else {
        return Ok(());
    };
    let mut faults = Faults::default();
    check_namespaces(spec, &mut faults);
    if spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user)
        == Some(crate::UID.into())
    {
        containers::own_uid("spec.securityContext.runAsUser", &mut faults);
    }
    check_containers(spec, &Policy::new(config, spec), &mut faults);
    check_volumes(spec, config, &mut faults);
    faults.none_or_refuse()
}

/// Namespaces that a sealed pod does not share.
fn check_namespaces(spec: &PodSpec, faults: &mut Faults) {
    let shared = [
        (
            "hostNetwork",
            spec.host_network,
            "the node's network has no capture: its traffic would not be sealed",
        ),
        (
            "hostPID",
            spec.host_pid,
            "the processes of the node could be traced, the sidecars of other pods among them",
        ),
        (
            "hostIPC",
            spec.host_ipc,
            "memory shared with the node is a way out of the pod",
        ),
        (
            "shareProcessNamespace",
            spec.share_process_namespace,
            "the sidecar's process and files could be reached",
        ),
    ];
    for (field, value, why) in shared {
        if value == Some(true) {
            faults.add(
                Reason::Bypass,
                format!("spec.{field}"),
                why,
                "leave it out, or run the pod in a namespace that is not sealed",
            );
        }
    }
}

impl Injector {
    /// Whether a pod that is about to be created is what the injector makes of it.
    ///
    /// # Errors
    /// [`Refusal`] when it is not.
    pub fn validate(&self, pod: &Value, namespace: &str, scope: Scope) -> Result<Status, Refusal> {
        let wanted = self.inject(pod, namespace, scope)?;
        match same_pod(pod, &wanted.pod) {
            None => Ok(wanted.status),
            Some(_) if self.lost_its_module(pod) => Err(Fault::new(
                Reason::NotSealed,
                "spec.volumes",
                "the API server has left out the image with the PKCS#11 module: it has no image volumes",
                "switch them on (feature gate ImageVolume), or bring the module by volumes.module.volume",
            )
            .into()),
            Some(field) => Err(Fault::new(
                Reason::NotSealed,
                field,
                "is not as the injector makes it",
                "let no other webhook change the sidecar; while the injector itself is being replaced, try again",
            )
            .into()),
        }
    }

    /// Whether the module was to come from an image, and does not.
    fn lost_its_module(&self, pod: &Value) -> bool {
        let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
        let named = |volume: &Value| {
            volume.get("name").and_then(Value::as_str) == Some(names::MODULE_VOLUME)
        };
        matches!(self.config.volumes.module, Some(ModuleSource::Image(_)))
            && !volumes.into_iter().flatten().any(named)
    }

    /// Whether a change leaves the injector's parts as they are.
    ///
    /// # Errors
    /// [`Refusal`] when it does not.
    pub fn validate_update(&self, old: &Value, new: &Value) -> Result<(), Refusal> {
        parse(new)?;
        match same_parts(old, new) {
            None => Ok(()),
            Some(field) => Err(Fault::new(
                Reason::Reserved,
                field,
                "is the injector's, and cannot be changed",
                "create the pod anew: the injector seals it as it is configured now",
            )
            .into()),
        }
    }

    /// Whether the ephemeral containers of a sealed pod leave the seal whole.
    ///
    /// # Errors
    /// [`Refusal`] when one does not.
    pub fn validate_ephemeral(&self, old: &Value, new: &Value) -> Result<(), Refusal> {
        let (old, new) = (parse(old)?, parse(new)?);
        let annotations = old.metadata.annotations.as_ref();
        let status = annotations.and_then(|map| map.get(names::STATUS));
        if status.is_none_or(|status| status != names::SEALED) {
            return Ok(());
        }
        let mut faults = Faults::default();
        check_ephemeral(&new, &self.config, &mut faults);
        faults.none_or_refuse()
    }
}
