//! Keys and certificates: where the key is by its home's own account, that it was at hand, and
//! what binds it to the workload.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::CertificateDer;
use schemars::JsonSchema;
use sealwire_identity::Credentials;
use sealwire_keys::{PrivateKey, PublicKey, SignError};
use serde::{Deserialize, Serialize};

use super::Boot;
use super::time::Timestamp;

/// What the home of a key says about it. The attributes are its claims, not proof.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Custody {
    /// What gave the occasion.
    pub occasion: CustodyOccasion,
    /// Reference of the key, without secrets.
    pub reference: String,
    /// Kind of home: `pkcs11`, `vault-transit` or `memory`.
    pub provider: String,
    /// Algorithm of the key, such as `ECDSA P-256`.
    pub algorithm: String,
    /// Signature schemes it is used with, by their names in RFC 8446.
    pub schemes: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub public_key_sha256: String,
    /// The SubjectPublicKeyInfo.
    pub public_key: String,
    /// The token, for PKCS#11.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<KeyToken>,
    /// The transit mount's own words, for Vault and OpenBao.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit: Option<KeyTransit>,
    /// CKA_SENSITIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive: Option<bool>,
    /// CKA_ALWAYS_SENSITIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always_sensitive: Option<bool>,
    /// CKA_EXTRACTABLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractable: Option<bool>,
    /// CKA_NEVER_EXTRACTABLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_extractable: Option<bool>,
    /// CKA_LOCAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// A signature made there and then.
    pub proof: CustodyProof,
    /// The vendor's own statement about the key, where the device makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
}

/// When custody is recorded.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CustodyOccasion {
    /// The key came into use at a start.
    Start,
    /// The key followed another.
    Rotation,
    /// Some time has passed.
    Periodic,
}

/// A PKCS#11 token (CK_TOKEN_INFO).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct KeyToken {
    /// Its label.
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

/// A key in a transit mount, as the server describes it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct KeyTransit {
    /// Type of the key, such as `ecdsa-p256`.
    pub key_type: String,
    /// Version that signs here.
    pub version: u64,
    /// Newest version there is.
    pub latest_version: u64,
    /// When the version that signs was made, in the server's words.
    pub created: String,
    /// Whether it can be exported.
    pub exportable: bool,
    /// Whether it can be taken out as a backup in plaintext.
    pub allow_plaintext_backup: bool,
    /// Whether it may be deleted.
    pub deletion_allowed: bool,
    /// Whether it came from outside.
    pub imported: bool,
    /// Whether it is in an HSM that the server uses.
    pub external: bool,
}

/// A signature over something new, which shows that the key was at hand then. What is signed is
/// these five lines, each ended by a newline: `sealwire custody proof v1`, the boot, the nonce,
/// `made`, and `public_key_sha256`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct CustodyProof {
    /// Which run of the proxy asked for it.
    pub boot: Boot,
    /// 128 random bits.
    pub nonce: String,
    /// When it was made.
    pub made: Timestamp,
    /// Scheme of the signature, by its name in RFC 8446.
    pub scheme: String,
    /// The signature, in the form of RFC 8446 section 4.2.3.
    pub signature: String,
}

/// A vendor's statement about a key, as the device gave it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Attestation {
    /// Which format it has.
    pub format: String,
    /// The statement.
    pub data: String,
}

/// What is wrong with a proof of custody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// A field cannot be read.
    #[error("{field} cannot be read: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The digest is another key's.
    #[error("the public key has the SHA-256 {found}, the record says {said}")]
    OtherKey {
        /// Digest of the key in the record.
        found: String,
        /// Digest as the record states it.
        said: String,
    },
    /// The signature is not of this key over this.
    #[error("the signature does not verify: the key was not shown to be at hand")]
    Signature,
}

impl Custody {
    /// Asks the key's home, and has it sign. Blocks for as long as the device takes.
    ///
    /// # Errors
    /// When the home does not answer, or the key does not sign.
    pub fn ask(
        key: &dyn PrivateKey,
        occasion: CustodyOccasion,
        boot: Boot,
        now: Timestamp,
    ) -> Result<Self, SignError> {
        let said = key.custody()?;
        let public = key.public_key();
        let Some(scheme) = key.schemes().first().copied() else {
            return Err(SignError::Scheme { scheme: "any" });
        };
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| SignError::Device("no random numbers are to be had".to_owned()))?;
        let nonce = crate::hex(&nonce);
        let message = proof_message(boot, &nonce, now, public.fingerprint());
        let signature = key.sign(scheme, message.as_bytes())?;
        Ok(Self {
            occasion,
            reference: said.reference,
            provider: said.provider.to_owned(),
            algorithm: said.algorithm,
            schemes: said
                .schemes
                .iter()
                .map(|scheme| scheme.name().to_owned())
                .collect(),
            public_key_sha256: said.public_key_sha256,
            public_key: BASE64.encode(public.spki_der()),
            token: said.token.map(|token| KeyToken {
                label: token.label,
                manufacturer: token.manufacturer,
                model: token.model,
                serial: token.serial,
                hardware: token.hardware,
                firmware: token.firmware,
            }),
            transit: said.transit.map(|transit| KeyTransit {
                key_type: transit.kind,
                version: transit.version,
                latest_version: transit.latest_version,
                created: transit.created,
                exportable: transit.exportable,
                allow_plaintext_backup: transit.allow_plaintext_backup,
                deletion_allowed: transit.deletion_allowed,
                imported: transit.imported,
                external: transit.external,
            }),
            sensitive: said.sensitive,
            always_sensitive: said.always_sensitive,
            extractable: said.extractable,
            never_extractable: said.never_extractable,
            local: said.local,
            proof: CustodyProof {
                boot,
                nonce,
                made: now,
                scheme: scheme.name().to_owned(),
                signature: BASE64.encode(signature),
            },
            attestation: None,
        })
    }

    /// Checks the proof, and that the public key is the one that the record names.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn check(&self) -> Result<PublicKey, ProofError> {
        let field = |field, problem: &dyn std::fmt::Display| ProofError::Field {
            field,
            problem: problem.to_string(),
        };
        let spki = BASE64
            .decode(&self.public_key)
            .map_err(|error| field("public_key", &error))?;
        let public =
            PublicKey::from_spki_der(&spki).map_err(|error| field("public_key", &error))?;
        if public.fingerprint() != self.public_key_sha256 {
            return Err(ProofError::OtherKey {
                found: public.fingerprint().to_owned(),
                said: self.public_key_sha256.clone(),
            });
        }
        let schemes = public.algorithm().schemes();
        let scheme = schemes
            .iter()
            .find(|scheme| scheme.name() == self.proof.scheme)
            .ok_or_else(|| field("proof.scheme", &"not one that such a key signs with"))?;
        let signature = BASE64
            .decode(&self.proof.signature)
            .map_err(|error| field("proof.signature", &error))?;
        let message = proof_message(
            self.proof.boot,
            &self.proof.nonce,
            self.proof.made,
            &self.public_key_sha256,
        );
        if public.verifies(*scheme, message.as_bytes(), &signature) {
            Ok(public)
        } else {
            Err(ProofError::Signature)
        }
    }
}

/// What a proof of custody is a signature over. It begins neither like a checkpoint nor like what
/// TLS has signed (64 spaces), so that none can pass for another.
fn proof_message(boot: Boot, nonce: &str, made: Timestamp, public_key_sha256: &str) -> String {
    format!("sealwire custody proof v1\n{boot}\n{nonce}\n{made}\n{public_key_sha256}\n")
}

/// A certificate of the workload.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Certificate {
    /// What became of it.
    pub event: CertificateEvent,
    /// Serial number.
    pub serial: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// Addresses that the workload may answer for.
    pub ip_addresses: Vec<IpAddr>,
    /// Begin of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// Reference of its key, without secrets.
    pub key: String,
    /// SHA-256 of its key's SubjectPublicKeyInfo.
    pub public_key_sha256: String,
    /// The chain in DER, leaf first, as it is presented to peers.
    pub chain: Vec<String>,
}

/// What became of a certificate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateEvent {
    /// The first of this run came into force.
    Issued,
    /// It came into force after another.
    Renewed,
    /// A revocation list in force names it.
    Revoked,
    /// It ended, and there was none to follow.
    Expired,
}

impl Certificate {
    /// What is to be said of a key and its certificate.
    pub fn of(credentials: &Credentials, event: CertificateEvent) -> Self {
        let facts = credentials.facts();
        Self {
            event,
            serial: facts.serial.clone(),
            issuer: facts.issuer.clone(),
            spiffe_id: facts.spiffe_id.to_string(),
            ip_addresses: facts.ip_addresses.clone(),
            not_before: facts.not_before.into(),
            not_after: facts.not_after.into(),
            key: credentials.key().reference().to_owned(),
            public_key_sha256: facts.public_key_sha256.clone(),
            chain: credentials
                .chain()
                .iter()
                .map(|certificate| BASE64.encode(certificate))
                .collect(),
        }
    }

    /// The chain, leaf first; none when it cannot be read.
    pub fn chain_der(&self) -> Option<Vec<CertificateDer<'static>>> {
        let decoded = self.chain.iter().map(|text| BASE64.decode(text));
        decoded
            .map(|der| der.ok().map(CertificateDer::from))
            .collect()
    }
}
