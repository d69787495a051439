//! What can be said about where a key lives. These are the provider's own claims, not proof:
//! whoever shows them has to say so.

use serde::Serialize;

use crate::scheme::Scheme;

/// A key's home and the attributes that decide whether the key can leave it.
///
/// The attributes are those of PKCS#11 v2.40 section 4.9; `None` where the provider does not say.
#[derive(Clone, Debug, Serialize)]
pub struct Custody {
    /// Kind of provider: `pkcs11`, `vault-transit` or `memory`.
    pub provider: &'static str,
    /// Reference of the key, without secrets.
    pub reference: String,
    /// SHA-256 of the public key's SubjectPublicKeyInfo, in hexadecimal.
    pub public_key_sha256: String,
    /// Algorithm of the key.
    pub algorithm: String,
    /// Schemes that it signs.
    pub schemes: Vec<Scheme>,
    /// The token, for PKCS#11.
    pub token: Option<Token>,
    /// The transit mount's own words, for Vault and OpenBao.
    pub transit: Option<TransitCustody>,
    /// CKA_SENSITIVE: its value cannot be revealed in plaintext.
    pub sensitive: Option<bool>,
    /// CKA_ALWAYS_SENSITIVE: nor could it ever.
    pub always_sensitive: Option<bool>,
    /// CKA_EXTRACTABLE: it can be wrapped and taken out.
    pub extractable: Option<bool>,
    /// CKA_NEVER_EXTRACTABLE: it never could.
    pub never_extractable: Option<bool>,
    /// CKA_LOCAL: it was generated in the token.
    pub local: Option<bool>,
}

/// A PKCS#11 token (CK_TOKEN_INFO).
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    /// Label given when it was initialised.
    pub label: String,
    /// Maker of the device.
    pub manufacturer: String,
    /// Model of the device.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Hardware version.
    pub hardware: String,
    /// Firmware version.
    pub firmware: String,
}

/// A key in a transit mount, as the server describes it (`GET transit/keys/:name`).
#[derive(Clone, Debug, Serialize)]
pub struct TransitCustody {
    /// Type of the key, such as `ecdsa-p256`.
    pub kind: String,
    /// Version that signs here.
    pub version: u64,
    /// Newest version there is.
    pub latest_version: u64,
    /// When the version that signs was made.
    pub created: String,
    /// Whether it can be exported.
    pub exportable: bool,
    /// Whether it can be taken out as a backup in plaintext.
    pub allow_plaintext_backup: bool,
    /// Whether it may be deleted.
    pub deletion_allowed: bool,
    /// Whether it came from outside.
    pub imported: bool,
    /// Whether it is in an HSM that the server uses (OpenBao's external keys, Vault's managed keys).
    pub external: bool,
}
