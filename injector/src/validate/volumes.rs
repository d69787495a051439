//! Volumes: directories of the node, and what is for the sidecar alone.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use sealwire_proxy::pod::{NAMESPACE, SERVICE_ACCOUNT};
use serde_json::Value;

use crate::config::{Claims, InjectorConfig, ModuleSource};
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
        if config.policy.claims == Claims::Follow {
            check_template(&field, volume, faults);
        }
        check_module(&field, volume, config, faults);
        check_reserved(&field, volume, config, faults);
    }
}

/// A claim that is made with the pod cannot be followed before, so it may not choose its volume.
fn check_template(field: &str, volume: &Volume, faults: &mut Faults) {
    let template = volume
        .ephemeral
        .as_ref()
        .and_then(|ephemeral| ephemeral.volume_claim_template.as_ref());
    let chosen = template.and_then(|template| template.spec.volume_name.as_deref());
    if let Some(chosen) = chosen.filter(|name| !name.is_empty()) {
        faults.add(
            Reason::Bypass,
            format!("{field}.ephemeral.volumeClaimTemplate.spec.volumeName"),
            format!(
                "{chosen} may be a directory of the node, and the claim is not there to be followed"
            ),
            "leave it out, or make the claim beforehand and use persistentVolumeClaim",
        );
    }
}

/// Whoever writes into the module's volume writes what sidecars run.
fn check_module(field: &str, volume: &Volume, config: &InjectorConfig, faults: &mut Faults) {
    let Some(ModuleSource::Volume(module)) = &config.volumes.module else {
        return;
    };
    let Ok(volume) = serde_json::to_value(volume) else {
        return;
    };
    let writable = |source: &Value| {
        let mut source = source.clone();
        if let Some(source) = source.as_object_mut() {
            source.remove("readOnly");
        }
        source
    };
    let same = |(kind, source): (&String, &Value)| {
        volume.get(kind).map(writable) == Some(writable(source))
    };
    if let Some((kind, _)) = module.iter().find(|source| same(*source)) {
        faults.add(
            Reason::Bypass,
            format!("{field}.{kind}"),
            "has the PKCS#11 module that the sidecars run",
            "take it out: the module is for the sidecar alone",
        );
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

/// Whether a name is one of those that a name in the configuration stands for: that of the pod's own
/// service account or of any other's.
pub(super) fn is_named_by(name: &str, configured: &str) -> bool {
    let pieces = configured.replace(NAMESPACE, SERVICE_ACCOUNT);
    let mut pieces = pieces.split(SERVICE_ACCOUNT);
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            let Some((_, after)) = rest.split_once(piece) else {
                return false;
            };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// The PIN and tokens for Vault are for the sidecar alone.
fn check_reserved(field: &str, volume: &Volume, config: &InjectorConfig, faults: &mut Faults) {
    let pin = config.volumes.pin.as_ref().map(|pin| pin.secret.as_str());
    let audience = config
        .volumes
        .vault_token
        .as_ref()
        .map(|token| token.audience.as_str());
    let is_pin = |name: &str| pin.is_some_and(|pin| is_named_by(name, pin));
    let own = volume
        .secret
        .as_ref()
        .and_then(|secret| secret.secret_name.as_deref());
    if own.is_some_and(is_pin) {
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
        if source
            .secret
            .as_ref()
            .is_some_and(|secret| is_pin(&secret.name))
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_place_for_the_account_stands_for_that_of_every_account() {
        for (name, configured, stands) in [
            ("pin", "pin", true),
            ("pins", "pin", false),
            ("pin-web", "pin-{serviceAccount}", true),
            ("pin-web", "{serviceAccount}-pin", false),
            ("web-pin", "{serviceAccount}-pin", true),
            ("shop-web-pin", "{namespace}-{serviceAccount}-pin", true),
            ("shop-pin", "{namespace}-{serviceAccount}-pin", false),
            ("settings", "pin-{serviceAccount}", false),
        ] {
            assert_eq!(
                is_named_by(name, configured),
                stands,
                "{name} by {configured}"
            );
        }
    }
}
