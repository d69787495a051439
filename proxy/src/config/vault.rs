//! The sections about Vault and OpenBao, and where certificates come from, checked.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use ipnet::IpNet;
use sealwire_identity::{FilesIssuer, RenewingConfig, SpiffeId};
use sealwire_keys::{KeyConfig, TransitConfig, TransitReference, Vault, VaultAuth, VaultConfig};

use super::{Config, ConfigError, KeySection, VaultAuthSection, VaultTransitSection, check_net};

/// Where the key is.
#[derive(Clone, Debug)]
pub enum KeyIn {
    /// Where it can be opened without a session with a server.
    Here(KeyConfig),
    /// In a transit mount.
    Transit(TransitSettings),
}

/// A key in a transit mount, still without the session that it is used through.
#[derive(Clone, Debug)]
pub struct TransitSettings {
    /// Which key.
    pub reference: TransitReference,
    /// Which version; the newest when none.
    pub version: Option<u64>,
    /// Whether a key that can be taken out is let pass.
    pub allow_exportable: bool,
    /// Most signatures in one request.
    pub batch: NonZeroUsize,
    /// Requests under way at once.
    pub requests: NonZeroUsize,
    /// Signatures that may wait.
    pub queue: usize,
    /// How long a signature may take.
    pub wait: Duration,
    /// How often to look for a new version.
    pub look: Duration,
    /// How long after a rotation older versions are made unusable; never when none.
    pub trim_after: Option<Duration>,
}

impl TransitSettings {
    /// With the session that the key is used through.
    pub fn with_session(&self, vault: Arc<Vault>) -> TransitConfig {
        TransitConfig {
            vault,
            reference: self.reference.clone(),
            version: self.version,
            allow_exportable: self.allow_exportable,
            batch: self.batch,
            requests: self.requests,
            queue: self.queue,
            wait: self.wait,
            look: self.look,
            trim_after: self.trim_after,
        }
    }
}

/// Where certificate and bundle come from.
#[derive(Clone, Debug)]
pub enum CertificatesFrom {
    /// Files.
    Files(FilesIssuer),
    /// A PKI mount.
    Pki(PkiSettings),
}

/// A PKI mount, still without the session that it is asked through.
#[derive(Clone, Debug)]
pub struct PkiSettings {
    /// Path of the mount.
    pub mount: String,
    /// Role that signs.
    pub role: String,
    /// The workload's SPIFFE ID.
    pub id: SpiffeId,
    /// Addresses to ask for.
    pub addresses: Vec<IpAddr>,
    /// Life to ask for.
    pub ttl: Option<Duration>,
    /// When to renew.
    pub renewing: RenewingConfig,
}

impl Config {
    /// Where Vault or OpenBao is, which has to be said when something is to come from it.
    pub(super) fn vault(&self) -> Result<Option<VaultConfig>, ConfigError> {
        let Some(section) = &self.vault else {
            let needed_by = match (&self.key, &self.identity.vault_pki) {
                (KeySection::VaultTransit(_), _) => "key.vaultTransit",
                (_, Some(_)) => "identity.vaultPki",
                _ => return Ok(None),
            };
            return Err(ConfigError::invalid(
                "vault",
                format!("missing, but {needed_by} needs it"),
                "say where Vault or OpenBao is, and how to log in",
            ));
        };
        let auth = match &section.auth {
            VaultAuthSection::Kubernetes(by) => VaultAuth::Kubernetes {
                mount: path("vault.auth.kubernetes.mount", &by.mount)?,
                role: by.role.clone(),
                token: by.token.clone(),
            },
            VaultAuthSection::Jwt(by) => VaultAuth::Jwt {
                mount: path("vault.auth.jwt.mount", &by.mount)?,
                role: by.role.clone(),
                token: by.token.clone(),
            },
            VaultAuthSection::AppRole(by) => VaultAuth::AppRole {
                mount: path("vault.auth.appRole.mount", &by.mount)?,
                role_id: by.role_id.clone(),
                secret_id: by.secret_id.clone(),
                wrapped: by.wrapped,
            },
            VaultAuthSection::Certificate(by) => VaultAuth::Certificate {
                mount: path("vault.auth.certificate.mount", &by.mount)?,
                role: by.role.clone(),
            },
            VaultAuthSection::TokenFile(by) => VaultAuth::TokenFile {
                path: by.path.clone(),
            },
        };
        let client = section.client.as_ref();
        Ok(Some(VaultConfig {
            address: section.address.trim_end_matches('/').to_owned(),
            ca: section.ca.clone(),
            client: client.map(|client| (client.certificate.clone(), client.key.clone())),
            namespace: section.namespace.clone(),
            auth,
            timeout: positive("vault.requestSeconds", section.request_seconds)?,
        }))
    }

    /// Where the proxy itself has to connect to.
    pub(super) fn vault_ranges(&self) -> Result<Vec<(IpNet, u16)>, ConfigError> {
        let Some(section) = &self.vault else {
            return Ok(Vec::new());
        };
        let wrong = |problem: String| {
            ConfigError::invalid(
                "vault.address",
                problem,
                "write it like https://vault.example:8200, and where that leads as vault.ranges",
            )
        };
        let uri: Uri = section
            .address
            .parse()
            .map_err(|error| wrong(format!("{:?}: {error}", section.address)))?;
        if uri.scheme_str() != Some("https") || !uri.path().trim_matches('/').is_empty() {
            return Err(wrong(format!(
                "{:?} is not https:// with a name or an address, and a port",
                section.address
            )));
        }
        let port = uri.port_u16().unwrap_or(443);
        let host = uri.host().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        for (i, range) in section.ranges.iter().enumerate() {
            check_net(format!("vault.ranges[{i}]"), range)?;
        }
        let ranges: Vec<_> = literal
            .map(IpNet::from)
            .into_iter()
            .chain(section.ranges.iter().copied())
            .map(|range| (range, port))
            .collect();
        if ranges.is_empty() {
            return Err(wrong(format!(
                "{host:?} is a name, and the kernel's rules know addresses"
            )));
        }
        Ok(ranges)
    }

    pub(super) fn transit(
        &self,
        section: &VaultTransitSection,
    ) -> Result<TransitSettings, ConfigError> {
        let reference = section.key.parse().map_err(|error| {
            ConfigError::invalid("key.vaultTransit.key", error, "name the mount and the key")
        })?;
        if section.trim && section.version.is_some() {
            return Err(ConfigError::invalid(
                "key.vaultTransit.trim",
                "the version is pinned, so that nothing tells when another is no longer needed",
                "leave out trim or version",
            ));
        }
        Ok(TransitSettings {
            reference,
            version: section.version,
            allow_exportable: section.allow_exportable,
            batch: section.batch,
            requests: section.requests,
            queue: section.queue,
            wait: positive("key.vaultTransit.waitSeconds", section.wait_seconds)?,
            look: positive("key.vaultTransit.lookSeconds", section.look_seconds)?,
            trim_after: section
                .trim
                .then(|| {
                    positive(
                        "key.vaultTransit.trimAfterSeconds",
                        section.trim_after_seconds,
                    )
                })
                .transpose()?,
        })
    }

    /// From files or from a PKI mount, and not from both.
    pub(super) fn certificates(&self) -> Result<CertificatesFrom, ConfigError> {
        let identity = &self.identity;
        match (&identity.vault_pki, &identity.certificate, &identity.bundle) {
            (None, Some(certificate), Some(bundle)) => Ok(CertificatesFrom::Files(FilesIssuer {
                certificate: certificate.clone(),
                bundle: bundle.clone(),
            })),
            (None, _, _) => Err(ConfigError::invalid(
                "identity",
                "certificate or bundle is missing",
                "name both files, or say vaultPki",
            )),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(ConfigError::invalid(
                "identity.vaultPki",
                "certificate and bundle come from it, and files are named as well",
                "keep the one or the other",
            )),
            (Some(section), None, None) => Ok(CertificatesFrom::Pki(PkiSettings {
                mount: path("identity.vaultPki.mount", &section.mount)?,
                role: path("identity.vaultPki.role", &section.role)?,
                id: section.spiffe_id.parse().map_err(|error| {
                    ConfigError::invalid(
                        "identity.vaultPki.spiffeId",
                        error,
                        "write it like spiffe://mesh.example/ns/shop/sa/web",
                    )
                })?,
                addresses: section.addresses.clone(),
                ttl: section
                    .ttl_seconds
                    .map(|seconds| positive("identity.vaultPki.ttlSeconds", seconds))
                    .transpose()?,
                renewing: RenewingConfig {
                    least: positive("identity.vaultPki.leastSeconds", section.least_seconds)?,
                    bundle_every: positive(
                        "identity.vaultPki.bundleSeconds",
                        section.bundle_seconds,
                    )?,
                },
            })),
        }
    }

    /// The files that certificates and logins are read from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let identity = &self.identity;
        let mut files: Vec<PathBuf> = [&identity.certificate, &identity.bundle]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if let Ok(Some(vault)) = self.vault() {
            files.extend(vault.files().into_iter().cloned());
        }
        files
    }
}

fn positive(field: &str, seconds: u64) -> Result<Duration, ConfigError> {
    if seconds == 0 {
        return Err(ConfigError::invalid(
            field,
            "nothing can be done in no time",
            "use at least 1",
        ));
    }
    Ok(Duration::from_secs(seconds))
}

/// A path in the server, which must not reach beyond itself.
fn path(field: &str, path: &str) -> Result<String, ConfigError> {
    let good = |part: &str| {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        part.bytes().all(allowed) && part.bytes().any(|c| c != b'.')
    };
    if path.split('/').all(good) {
        return Ok(path.to_owned());
    }
    Err(ConfigError::invalid(
        field,
        format!("{path:?} is no path in Vault"),
        "use letters, digits, -, _ and ., with slashes between and none at the ends",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with key and certificate in Vault.
    const VAULT: &str = r#"
identity:
  trustDomains: [mesh.example]
  vaultPki: { role: sealwire, spiffeId: spiffe://mesh.example/workload/web }
key: { vaultTransit: { key: "vault-transit:transit/web" } }
vault:
  address: https://198.18.255.1:8200
  ca: /etc/sealwire/vault/ca.pem
  auth: { kubernetes: { mount: kubernetes, role: sealwire, token: /run/secrets/vault/token } }
"#;

    fn refusal(from: &str, to: &str) -> String {
        assert!(VAULT.contains(from), "{from:?} is not in it");
        let text = VAULT.replacen(from, to, 1);
        let settings = Config::parse(&text).and_then(Config::settings);
        settings
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn key_and_certificate_may_both_come_from_vault_and_the_kernel_lets_the_proxy_there() {
        let settings = Config::parse(VAULT).unwrap().settings().unwrap();
        assert!(matches!(settings.key, KeyIn::Transit(_)));
        assert!(matches!(settings.certificates, CertificatesFrom::Pki(_)));
        let ruleset = settings.capture.ruleset();
        assert!(ruleset.contains("198.18.255.1/32 . 8200"), "{ruleset}");
    }

    #[test]
    fn what_contradicts_itself_is_named_with_the_way_out() {
        for (from, to, expected) in [
            ("https://198.18.255.1", "http://198.18.255.1", "https://"),
            ("198.18.255.1:8200", "vault.example:8200", "vault.ranges"),
            ("transit/web", "transit/../web", "key.vaultTransit.key"),
            ("role: sealwire,", "role: ../x,", "identity.vaultPki.role"),
            ("spiffe://", "https://", "identity.vaultPki.spiffeId"),
            (
                "vaultPki:",
                "bundle: /a\n  vaultPki:",
                "keep the one or the other",
            ),
            (
                "mount: kubernetes,",
                "mount: \"\",",
                "vault.auth.kubernetes.mount",
            ),
        ] {
            let said = refusal(from, to);
            assert!(said.contains(expected), "{to}: {said}");
        }
    }

    #[test]
    fn without_vault_both_files_have_to_be_named() {
        let said = refusal("vaultPki: {", "certificate: /a #");
        assert!(said.contains("certificate or bundle is missing"), "{said}");
    }

    #[test]
    fn what_is_in_vault_needs_to_know_where_that_is() {
        let text = VAULT.split_once("vault:\n").unwrap().0;
        let refused = Config::parse(text).and_then(Config::settings).unwrap_err();
        assert!(
            refused.to_string().contains("key.vaultTransit needs it"),
            "{refused}"
        );
    }
}
