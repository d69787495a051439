//! The sections about Vault and OpenBao, and where certificates come from, checked.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use sealwire_identity::{FilesIssuer, RenewingConfig, SpiffeId};
use sealwire_keys::{KeyConfig, TransitReference, VaultAuth, VaultConfig};

use super::{Config, ConfigError, KeySection, VaultAuthSection, VaultTransitSection};

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

    pub(super) fn transit(
        &self,
        section: &VaultTransitSection,
    ) -> Result<TransitSettings, ConfigError> {
        let reference = section.key.parse().map_err(|error| {
            ConfigError::invalid("key.vaultTransit.key", error, "name the mount and the key")
        })?;
        Ok(TransitSettings {
            reference,
            version: section.version,
            allow_exportable: section.allow_exportable,
            batch: section.batch,
            requests: section.requests,
            queue: section.queue,
            wait: positive("key.vaultTransit.waitSeconds", section.wait_seconds)?,
            look: positive("key.vaultTransit.lookSeconds", section.look_seconds)?,
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
