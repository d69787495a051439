//! The configuration checked as a whole. The sidecars' part is checked as a sidecar would, for a
//! pod like any other: what it would refuse is never handed out.

use std::path::{Path, PathBuf};

use sealwire_proxy::config::{Config, KeySection, VaultAuthSection};
use sealwire_proxy::pod::{NAMESPACE, PodFacts, SERVICE_ACCOUNT};

use super::{ConfigError, InjectorConfig, WebhookCertificate};
use crate::names;

/// The shortest life of a projected token that Kubernetes takes, in seconds.
const SHORTEST_TOKEN: u32 = 600;

/// What a pod like any other knows of itself.
pub fn sample_pod(namespace: &str) -> PodFacts {
    PodFacts {
        namespace: Some(namespace.to_owned()),
        service_account: Some("default".to_owned()),
        node_addresses: vec![[192, 0, 2, 1].into()],
        node: Some("node".to_owned()),
        pod_addresses: vec![[192, 0, 2, 2].into()],
    }
}

impl InjectorConfig {
    /// Checks the configuration as a whole.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first field that is wrong, with the fix.
    pub fn checked(self) -> Result<Self, ConfigError> {
        self.check_proxy()?;
        self.check_files()?;
        self.check_sidecar()?;
        self.check_webhook()?;
        Ok(self)
    }

    fn check_proxy(&self) -> Result<(), ConfigError> {
        check_for_pods("proxy", &self.proxy)?;
        if self.proxy.capture.uid != crate::UID {
            return Err(ConfigError::invalid(
                "proxy.capture.uid",
                format!("{} is not {}", self.proxy.capture.uid, crate::UID),
                "leave it out: the injector runs the sidecar as that user, and refuses it to others",
            ));
        }
        for (i, exception) in self.exceptions.iter().enumerate() {
            let field = format!("exceptions[{i}]");
            if exception.namespaces.is_empty() {
                return Err(ConfigError::invalid(
                    format!("{field}.namespaces"),
                    "an exception for no namespace",
                    "name the namespaces, or move it to proxy.exceptions",
                ));
            }
            let mut proxy = self.proxy.clone();
            proxy.exceptions.push(exception.exception.clone());
            check_for_pods(&field, &proxy)?;
        }
        Ok(())
    }

    /// Every file that the sidecar is to read has to be in something that is mounted.
    fn check_files(&self) -> Result<(), ConfigError> {
        let config = Path::new(names::CONFIG_PATH);
        let handed_out = [
            ("bundle", &self.bundle, names::BUNDLE_KEY),
            ("vaultCa", &self.vault_ca, names::VAULT_CA_KEY),
        ];
        for (field, text) in self.named_files() {
            let path = Path::new(&text);
            let source = handed_out
                .iter()
                .find(|(_, _, key)| path == config.join(key));
            let missing = match source {
                Some((source, None, _)) => Some((*source).to_owned()),
                Some(_) => None,
                None => self.missing_volume(path),
            };
            if let Some(missing) = missing {
                return Err(ConfigError::invalid(
                    field,
                    format!(
                        "{} comes from `{missing}`, which is not given",
                        path.display()
                    ),
                    format!("give `{missing}`, or name another file"),
                ));
            }
        }
        if let Some(pin) = &self.volumes.pin {
            let said = [SERVICE_ACCOUNT, NAMESPACE];
            let said = said
                .iter()
                .fold(pin.secret.clone(), |name, place| name.replace(place, ""));
            if said.is_empty() {
                return Err(ConfigError::invalid(
                    "volumes.pin.secret",
                    format!(
                        "{:?} stands for every Secret, and no pod may take the PIN's",
                        pin.secret
                    ),
                    format!("put something before it, such as sealwire-pin-{SERVICE_ACCOUNT}"),
                ));
            }
        }
        if let Some(token) = &self.volumes.vault_token
            && (token.audience.is_empty() || token.expiration_seconds < SHORTEST_TOKEN)
        {
            return Err(ConfigError::invalid(
                "volumes.vaultToken",
                "no audience, or a life that Kubernetes refuses",
                format!("name an audience, and at least {SHORTEST_TOKEN} seconds"),
            ));
        }
        Ok(())
    }

    /// Files that the sidecars' configuration names, each with its field.
    fn named_files(&self) -> Vec<(&'static str, PathBuf)> {
        let identity = &self.proxy.identity;
        let mut files = vec![
            ("proxy.identity.certificate", identity.certificate.clone()),
            ("proxy.identity.bundle", identity.bundle.clone()),
        ];
        if let Some(vault) = &self.proxy.vault {
            files.push(("proxy.vault.ca", Some(vault.ca.clone())));
            let token = match &vault.auth {
                VaultAuthSection::Kubernetes(by) | VaultAuthSection::Jwt(by) => Some(&by.token),
                _ => None,
            };
            files.push(("proxy.vault.auth", token.cloned()));
        }
        if let KeySection::Pkcs11(key) = &self.proxy.key {
            files.push(("proxy.key.pkcs11.module", Some(key.module.clone())));
            let pin = key.uri.split_once("pin-source=file:").map(|(_, pin)| pin);
            let pin = pin.and_then(|pin| pin.split('&').next()).map(PathBuf::from);
            files.push(("proxy.key.pkcs11.uri", pin));
        }
        let named = |(field, file): (_, Option<PathBuf>)| file.map(|file| (field, file));
        files.into_iter().filter_map(named).collect()
    }

    /// The volume that a file would be in, when that is one of ours and not given.
    fn missing_volume(&self, file: &Path) -> Option<String> {
        let volumes = &self.volumes;
        let ours = [
            (names::PIN_PATH, "volumes.pin", volumes.pin.is_some()),
            (
                names::VAULT_PATH,
                "volumes.vaultToken",
                volumes.vault_token.is_some(),
            ),
            (
                names::IDENTITY_PATH,
                "volumes.certificate",
                volumes.certificate.is_some(),
            ),
            (
                names::MODULE_PATH,
                "volumes.module",
                volumes.module.is_some(),
            ),
        ];
        ours.into_iter()
            .find(|(path, _, given)| file.starts_with(path) && !given)
            .map(|(_, field, _)| field.to_owned())
    }

    fn check_sidecar(&self) -> Result<(), ConfigError> {
        if self.image.name.is_empty() {
            return Err(ConfigError::invalid(
                "image.name",
                "empty",
                "name the image of sealwire-proxy",
            ));
        }
        let own = |name: &&String| name.is_empty() || name.starts_with("SEALWIRE_");
        if let Some(name) = self.sidecar.environment.keys().find(own) {
            return Err(ConfigError::invalid(
                format!("sidecar.environment.{name}"),
                "names that begin with SEALWIRE_ are the injector's",
                "use the name that the module looks for",
            ));
        }
        if self.sidecar.startup_seconds == 0 {
            return Err(ConfigError::invalid(
                "sidecar.startupSeconds",
                "nothing starts in no time",
                "use more than proxy.limits.startSeconds",
            ));
        }
        Ok(())
    }

    fn check_webhook(&self) -> Result<(), ConfigError> {
        let webhook = &self.webhook;
        let positive = [
            ("maxBytes", webhook.max_bytes),
            ("connections", webhook.connections),
            (
                "deadlineSeconds",
                usize::from(webhook.deadline_seconds != 0),
            ),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(
                format!("webhook.{name}"),
                "with none nothing can be answered",
                "use at least 1",
            ));
        }
        if webhook.total_bytes < webhook.max_bytes {
            return Err(ConfigError::invalid(
                "webhook.totalBytes",
                format!("{} is less than maxBytes", webhook.total_bytes),
                "let at least one request of the largest size in",
            ));
        }
        if let WebhookCertificate::SelfMade {
            lifetime_seconds,
            settle_seconds,
            ..
        } = webhook.certificate
            && (settle_seconds == 0 || lifetime_seconds / 6 < settle_seconds)
        {
            return Err(ConfigError::invalid(
                "webhook.certificate.selfMade",
                format!(
                    "in a life of {lifetime_seconds} s a new one cannot settle for {settle_seconds} s in peace"
                ),
                "let lifetimeSeconds be at least six times settleSeconds",
            ));
        }
        Ok(())
    }
}

/// Checks a configuration of sidecars as one of them would.
fn check_for_pods(field: &str, proxy: &Config) -> Result<(), ConfigError> {
    proxy
        .clone()
        .for_pod(&sample_pod("default"))
        .and_then(Config::settings)
        .map(drop)
        .map_err(|error| ConfigError::invalid(field, error, "see docs/configuration.md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("example.yaml");

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the example has no {from:?}");
        let text = GOOD.replacen(from, to, 1);
        let refused = InjectorConfig::parse(&text).and_then(InjectorConfig::checked);
        refused
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn what_contradicts_itself_is_named_with_its_field_and_the_way_out() {
        for (from, to, expected) in [
            ("image:\n", "images: {}\nimage:\n", "images"),
            (
                "registry.example/sealwire/proxy:0.1.0",
                "\"\"",
                "image.name",
            ),
            (
                "role: sealwire\n",
                "role: ../sealwire\n",
                "proxy: identity.vaultPki.role",
            ),
            (
                "{serviceAccount}\"\n  key",
                "{account}\"\n  key",
                "spiffeId",
            ),
            ("vaultToken:", "unknown:", "unknown"),
            (
                "volumes:\n  vaultToken: { audience: sealwire-vault }",
                "volumes: {}",
                "give `volumes.vaultToken`",
            ),
            (
                "vaultCa: |\n  -----BEGIN CERTIFICATE-----\n  MIIB…\n  -----END CERTIFICATE-----\n",
                "",
                "give `vaultCa`",
            ),
            (
                "{ audience: sealwire-vault }",
                "{ audience: a, expirationSeconds: 60 }",
                "volumes.vaultToken",
            ),
            (
                "namespaces: [billing]",
                "namespaces: []",
                "exceptions[0].namespaces",
            ),
            (
                "owner: data-team",
                "owner: \"\"",
                "exceptions[0]: exceptions[1].owner",
            ),
            (
                "volumes:",
                "sidecar: { environment: { SEALWIRE_POD: a } }\nvolumes:",
                "sidecar.environment.SEALWIRE_POD",
            ),
            (
                "volumes:",
                "webhook: { totalBytes: 1 }\nvolumes:",
                "webhook.totalBytes",
            ),
            (
                "volumes:",
                "webhook: { certificate: { selfMade: { lifetimeSeconds: 300 } } }\nvolumes:",
                "six times",
            ),
            (
                "  exceptions:\n",
                "  capture: { uid: 1338 }\n  exceptions:\n",
                "proxy.capture.uid",
            ),
        ] {
            let said = refusal(from, to);
            assert!(said.contains(expected), "{to}: {said:?}");
        }
    }
}
