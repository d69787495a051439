//! Volumes: directories of the node, and what is for the sidecar alone.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use serde_json::Value;

use crate::config::InjectorConfig;
use crate::names;
use crate::refusal::{Fault, Faults, Reason};

/// Checks the pod's own volumes, but for where claims lead.
pub(super) fn check_volumes(spec: &PodSpec, config: &InjectorConfig, faults: &mut Faults) {
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let field = format!("spec.volumes[{i}]");
        if let Some(host) = &volume.host_path
            && let Err(fault) = check_host_path(
                &format!("{field}.hostPath"),
                &host.path,
                &config.policy.host_paths,
            )
        {
            faults.add(fault.reason, fault.field, fault.problem, fault.fix);
        }
        check_reserved(&field, volume, config, faults);
    }
}

/// Whether a directory of the node may be mounted: it has sockets and files of other pods.
///
/// # Errors
/// [`Fault`] when it may not.
pub fn check_host_path(field: &str, path: &str, allowed: &[PathBuf]) -> Result<(), Fault> {
    let path = Path::new(path);
    let plain = path.components().all(|part| part != Component::ParentDir);
    if plain && allowed.iter().any(|allowed| path.starts_with(allowed)) {
        return Ok(());
    }
    Err(Fault::new(
        Reason::Bypass,
        field,
        format!(
            "{}, a directory of the node, can be shared with what is not sealed",
            path.display()
        ),
        "use another kind of volume, or have it listed under policy.hostPaths",
    ))
}

/// Names of the claims that a pod mounts itself, with their fields. Where the sidecar's own module
/// lies is the operator's choice.
pub fn claims(pod: &Value) -> Vec<(String, String)> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let claim = |(i, volume): (usize, &Value)| {
        let claim = volume
            .pointer("/persistentVolumeClaim/claimName")?
            .as_str()?;
        let own = volume
            .get("name")?
            .as_str()?
            .starts_with(names::VOLUME_PREFIX);
        let field = format!("spec.volumes[{i}].persistentVolumeClaim");
        (!own).then(|| (field, claim.to_owned()))
    };
    volumes
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(claim)
        .collect()
}

/// The PIN and tokens for Vault are for the sidecar alone.
fn check_reserved(field: &str, volume: &Volume, config: &InjectorConfig, faults: &mut Faults) {
    let pin = config.volumes.pin.as_ref().map(|pin| pin.secret.as_str());
    let audience = config
        .volumes
        .vault_token
        .as_ref()
        .map(|token| token.audience.as_str());
    let own = volume
        .secret
        .as_ref()
        .and_then(|secret| secret.secret_name.as_deref());
    if own.is_some() && own == pin {
        faults.add(
            Reason::Bypass,
            format!("{field}.secret"),
            "has the token's PIN",
            "take it out: the PIN is for the sidecar alone",
        );
    }
    let sources = volume
        .projected
        .as_ref()
        .and_then(|projected| projected.sources.as_ref());
    for (i, source) in sources.into_iter().flatten().enumerate() {
        let field = format!("{field}.projected.sources[{i}]");
        if pin.is_some() && source.secret.as_ref().map(|secret| secret.name.as_str()) == pin {
            faults.add(
                Reason::Bypass,
                format!("{field}.secret"),
                "has the token's PIN",
                "take it out: the PIN is for the sidecar alone",
            );
        }
        let token = source.service_account_token.as_ref();
        let for_vault = token.and_then(|token| token.audience.as_deref());
        if for_vault.is_some() && for_vault == audience {
            faults.add(
                Reason::Bypass,
                format!("{field}.serviceAccountToken.audience"),
                "with such a token the application could sign as the sidecar does",
                "use an audience of the application's own",
            );
        }
    }
}
