//! The sections about Vault and OpenBao, as they are written.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{default_queue, default_wait};

/// A key in a transit mount of Vault or OpenBao.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultTransitSection {
    /// The key, as `vault-transit:mount/key`.
    pub key: String,
    /// Version of the key; the newest when none, and then a newer one is moved to when it is made.
    #[serde(default)]
    pub version: Option<u64>,
    /// PEM file with the public half of a key that the server has in an HSM (OpenBao's external keys):
    /// the server does not tell it. One block for each version in use.
    #[serde(default)]
    pub public_key: Option<PathBuf>,
    /// Lets a key be used that can be taken out of the server.
    #[serde(default)]
    pub allow_exportable: bool,
    /// Signatures asked for in one request at most.
    #[serde(default = "default_batch")]
    pub batch: NonZeroUsize,
    /// Requests for signatures under way at once.
    #[serde(default = "default_requests")]
    pub requests: NonZeroUsize,
    /// Signatures that may wait for a request; the next is refused as overload.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// Seconds that a signature may take, all attempts together.
    #[serde(default = "default_wait")]
    pub wait_seconds: u64,
    /// Seconds between two looks whether the key has a new version.
    #[serde(default = "default_look")]
    pub look_seconds: u64,
    /// After a rotation, makes older versions unusable in the server once nothing needs them: see
    /// `docs/vault.md`. The policy `sealwire-trim` has to allow it.
    #[serde(default)]
    pub trim: bool,
    /// Seconds that a version is in use before older ones are trimmed. It is never sooner than a
    /// certificate's whole life, since another replica may have one for an older version.
    #[serde(default = "default_trim_after")]
    pub trim_after_seconds: u64,
}

/// Certificate and trust bundle from a PKI mount of Vault or OpenBao.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultPkiSection {
    /// Path of the mount.
    #[serde(default = "default_pki_mount")]
    pub mount: String,
    /// Role that signs.
    pub role: String,
    /// This workload's SPIFFE ID. The role has to bind it to the login: see `docs/vault.md`.
    pub spiffe_id: String,
    /// Addresses to ask for, for peers that go by addresses (`mesh.ranges`). No role can bind them
    /// to one workload, so whoever may ask for them may claim another's: prefer `mesh.services`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    /// Asks for the pod's own addresses as well, which `--pod-addresses` gives.
    #[serde(default)]
    pub pod_addresses: bool,
    /// Seconds of life to ask for; the role's own when none.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// The shortest life, in seconds, that is accepted of a certificate.
    #[serde(default = "default_least")]
    pub least_seconds: u64,
    /// Seconds between two looks at the mount's issuers, which are the trust bundle. A certificate
    /// of an issuer that is new in the mount is held back for as long, so that every peer knows that
    /// one first.
    #[serde(default = "default_bundle")]
    pub bundle_seconds: u64,
}

/// Where Vault or OpenBao is.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultSection {
    /// Such as `https://vault.example:8200`. TLS 1.3 only.
    pub address: String,
    /// PEM file with the CA certificates that the server's certificate may end in. Read again at
    /// every login.
    pub ca: PathBuf,
    /// Client certificate, for servers that ask for one, and for login by certificate.
    #[serde(default)]
    pub client: Option<VaultClientSection>,
    /// Where the name in `address` leads: the kernel lets the proxy, and it alone, connect there.
    /// Not needed where `address` has an IP address.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub ranges: Vec<IpNet>,
    /// Namespace that all paths are in, such as `team` or `team/shop`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// How to log in.
    pub auth: VaultAuthSection,
    /// Seconds that one request may take.
    #[serde(default = "default_request")]
    pub request_seconds: u64,
}

/// Client certificate for Vault or OpenBao.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultClientSection {
    /// PEM file with the chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the key, mode 0600.
    pub key: PathBuf,
}

/// How to log in to Vault or OpenBao. Files with secrets have mode 0600 (0440 with the pod's
/// `fsGroup`) and are read again for every login.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum VaultAuthSection {
    /// By a service account's token, which Vault has Kubernetes check.
    Kubernetes(VaultJwtSection),
    /// By a JWT, which Vault checks itself.
    Jwt(VaultJwtSection),
    /// By AppRole.
    AppRole(VaultAppRoleSection),
    /// By the client certificate.
    Certificate(VaultCertificateSection),
    /// By a token that somebody else keeps in a file, such as an agent.
    TokenFile(VaultTokenFileSection),
}

/// Login by a JWT or a service account's token.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultJwtSection {
    /// Where the method is mounted, such as `kubernetes`.
    pub mount: String,
    /// Role to log in to.
    pub role: String,
    /// File with the token, projected with Vault's own audience.
    pub token: PathBuf,
}

/// Login by AppRole.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultAppRoleSection {
    /// Where the method is mounted.
    #[serde(default = "default_approle_mount")]
    pub mount: String,
    /// File with the role id.
    pub role_id: PathBuf,
    /// File with the secret id, or with the token that it is wrapped in.
    pub secret_id: PathBuf,
    /// Whether the secret id is wrapped (response wrapping): it can be opened once, by whoever
    /// comes first, and somebody else having been first is noticed.
    #[serde(default)]
    pub wrapped: bool,
}

/// Login by the client certificate.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultCertificateSection {
    /// Where the method is mounted.
    #[serde(default = "default_cert_mount")]
    pub mount: String,
    /// Name of the role.
    pub role: String,
}

/// Login by a token in a file.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VaultTokenFileSection {
    /// The file.
    pub path: PathBuf,
}

fn default_pki_mount() -> String {
    "pki".to_owned()
}

fn default_approle_mount() -> String {
    "approle".to_owned()
}

fn default_cert_mount() -> String {
    "cert".to_owned()
}

fn default_least() -> u64 {
    60
}

fn default_bundle() -> u64 {
    60
}

fn default_request() -> u64 {
    5
}

fn default_batch() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(31)
}

fn default_requests() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(3)
}

fn default_look() -> u64 {
    30
}

/// Longer than the certificates of `sealwire vault setup` live.
fn default_trim_after() -> u64 {
    25 * 60 * 60
}
