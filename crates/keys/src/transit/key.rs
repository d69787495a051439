//! What the server says of a key (`GET transit/keys/:name`).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

use super::TransitReference;
use crate::custody::TransitCustody;
use crate::pem::pem_problem;
use crate::public_key::PublicKey;
use crate::vault::{Method, Request, Vault, VaultError};

/// The largest file with public keys that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// A key as the server describes it.
#[derive(Debug, Deserialize)]
pub(super) struct Described {
    #[serde(rename = "type")]
    kind: String,
    /// By version. Of symmetric keys it is a number, when the version was made.
    keys: BTreeMap<String, Value>,
    pub(super) latest_version: u64,
    #[serde(default)]
    min_encryption_version: u64,
    #[serde(default)]
    min_decryption_version: u64,
    #[serde(default)]
    pub(super) exportable: bool,
    #[serde(default)]
    pub(super) allow_plaintext_backup: bool,
    #[serde(default)]
    deletion_allowed: bool,
    #[serde(default)]
    pub(super) imported_key: bool,
    #[serde(default)]
    supports_signing: bool,
}

/// Reads what the server says of a key. Blocks.
pub(super) fn read(
    vault: &Vault,
    reference: &TransitReference,
    within: Duration,
) -> Result<Described, VaultError> {
    let request = question(reference);
    let what = request.what.clone();
    described(vault.ask(request, within)?, what)
}

pub(super) fn question(reference: &TransitReference) -> Request {
    Request {
        method: Method::Get,
        path: format!("{}/keys/{}", reference.mount(), reference.key()),
        body: None,
        what: format!("to read {reference}"),
    }
}

pub(super) fn described(answer: Value, what: String) -> Result<Described, VaultError> {
    serde_json::from_value(answer).map_err(|error| VaultError::Answer {
        what,
        problem: error.to_string(),
    })
}

/// The public keys of a file, for keys whose home does not tell them. Blocks.
pub(super) fn public_keys(path: &Path) -> Result<Vec<PublicKey>, String> {
    let named = |problem: &dyn fmt::Display| format!("{}: {problem}", path.display());
    let file = File::open(path).map_err(|error| named(&error))?;
    let mut pem = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut pem)
        .map_err(|error| named(&error))?;
    let keys = SubjectPublicKeyInfoDer::pem_slice_iter(&pem)
        .map(|der| {
            PublicKey::from_spki_der(&der.map_err(|error| named(&pem_problem(&error)))?)
                .map_err(|error| named(&error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(named(
            &"holds no PUBLIC KEY block: put the public half of the key in the HSM there",
        ));
    }
    Ok(keys)
}

impl Described {
    /// Refuses a key that is not one to use, with the fix.
    pub(super) fn check(&self, version: u64, allow_exportable: bool) -> Result<(), String> {
        if !self.supports_signing {
            return Err(format!(
                "a key of type {} does not sign: make one of type ecdsa-p256",
                self.kind
            ));
        }
        self.check_custody(allow_exportable)?;
        if version < self.min_encryption_version {
            return Err(format!(
                "version {version} is below min_encryption_version {}: use a newer version",
                self.min_encryption_version
            ));
        }
        Ok(())
    }

    /// Refuses a key that can leave the server, unless that is allowed.
    pub(super) fn check_custody(&self, allow_exportable: bool) -> Result<(), String> {
        if !allow_exportable {
            for (property, granted) in [
                ("exportable", self.exportable),
                ("allow_plaintext_backup", self.allow_plaintext_backup),
            ] {
                if granted {
                    return Err(format!(
                        "{property} is true, so the key can be taken out of the server: make a new key without it, or say \
                         allowExportable: true"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether it is in an HSM that the server uses.
    pub(super) fn is_external(&self) -> bool {
        matches!(self.kind.as_str(), "external-key" | "managed_key")
    }

    /// Whether a version before this one could still be used. The first is 1; a minimum of 0 is none.
    pub(super) fn has_usable_before(&self, version: u64) -> bool {
        let oldest = self.min_encryption_version.min(self.min_decryption_version);
        oldest.max(1) < version
    }

    /// The public half of one version.
    pub(super) fn public_key(&self, version: u64) -> Result<PublicKey, String> {
        let has = self.keys.get(&version.to_string()).ok_or_else(|| {
            let there: Vec<_> = self.keys.keys().map(String::as_str).collect();
            format!(
                "there is no version {version}, only {}: correct the version",
                there.join(", ")
            )
        })?;
        let text = has["public_key"].as_str().unwrap_or_default();
        if text.is_empty() && self.is_external() {
            return Err(
                "it is in an HSM, of which the server does not tell the public half: put that into a PEM file, and name it as \
                 key.vaultTransit.publicKey"
                    .to_owned(),
            );
        }
        let read = match self.kind.as_str() {
            // 32 bytes, where every other kind is a SubjectPublicKeyInfo.
            "ed25519" if !text.starts_with("-----") => STANDARD
                .decode(text)
                .map_err(|error| error.to_string())
                .and_then(|raw| PublicKey::from_ed25519(&raw).map_err(|error| error.to_string())),
            _ => SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
                .map_err(|error| pem_problem(&error).to_owned())
                .and_then(|der| PublicKey::from_spki_der(&der).map_err(|error| error.to_string())),
        };
        read.map_err(|problem| {
            format!(
                "public key of version {version}, type {}: {problem}: use ecdsa-p256, ecdsa-p384, rsa-2048 or larger, or \
                 ed25519",
                self.kind
            )
        })
    }

    pub(super) fn custody(&self, version: u64) -> TransitCustody {
        let of_version = self.keys.get(&version.to_string());
        let created = of_version.and_then(|has| has["creation_time"].as_str());
        TransitCustody {
            version,
            latest_version: self.latest_version,
            created: created.unwrap_or_default().to_owned(),
            exportable: self.exportable,
            allow_plaintext_backup: self.allow_plaintext_backup,
            deletion_allowed: self.deletion_allowed,
            imported: self.imported_key,
            external: self.is_external(),
            kind: self.kind.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(changed: &Value) -> Described {
        let mut answer = json!({
            "type": "ecdsa-p256", "latest_version": 2, "min_encryption_version": 2, "supports_signing": true,
            "exportable": false, "allow_plaintext_backup": false, "deletion_allowed": false, "imported_key": false,
            "keys": { "2": { "creation_time": "2026-01-01T00:00:00Z", "public_key": "nonsense" } },
        });
        for (name, value) in changed.as_object().unwrap() {
            answer[name] = value.clone();
        }
        described(answer, String::new()).unwrap()
    }

    #[test]
    fn a_key_that_can_be_taken_out_is_refused_unless_that_is_configured() {
        for property in ["exportable", "allow_plaintext_backup"] {
            let key = key(&json!({ property: true }));
            assert!(key.check(2, false).unwrap_err().contains(property));
            key.check(2, true).unwrap();
        }
    }

    #[test]
    fn a_key_that_does_not_sign_and_a_version_that_may_not_are_refused() {
        let symmetric = key(&json!({ "type": "aes256-gcm96", "supports_signing": false }));
        assert!(
            symmetric
                .check(2, false)
                .unwrap_err()
                .contains("aes256-gcm96")
        );
        let problem = key(&json!({})).check(1, false).unwrap_err();
        assert!(problem.contains("min_encryption_version 2"), "{problem}");
    }

    #[test]
    fn a_version_that_is_not_there_and_a_key_that_cannot_be_read_are_named() {
        let problem = key(&json!({})).public_key(7).unwrap_err();
        assert!(problem.contains("no version 7, only 2"), "{problem}");
        let problem = key(&json!({})).public_key(2).unwrap_err();
        assert!(problem.contains("ecdsa-p256"), "{problem}");
    }
}
