//! The configuration as it is written. Doc comments here become the reference
//! (`docs/configuration.md`) and the descriptions in the JSON Schema.

mod evidence;
mod vault;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::evidence::{EvidenceSection, PodSection, RetentionSection};
pub use self::vault::{
    VaultAppRoleSection, VaultAuthSection, VaultCertificateSection, VaultClientSection,
    VaultJwtSection, VaultPkiSection, VaultSection, VaultTokenFileSection, VaultTransitSection,
};

/// The configuration of `sealwire-proxy`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// SHA-256 of the file as it was read, in hexadecimal.
    #[serde(skip)]
    pub digest: String,
    /// Allows what must never run in production, such as a key in memory. Shown in health,
    /// metrics and logs.
    #[serde(default)]
    pub development: bool,
    /// Who this workload is, and whom it trusts.
    pub identity: IdentitySection,
    /// Where the private key lives. Changing it needs a restart.
    pub key: KeySection,
    /// Where Vault or OpenBao is, for a key in its transit mount and certificates from its PKI
    /// mount. Changing it needs a restart.
    #[serde(default)]
    pub vault: Option<VaultSection>,
    /// What is inside the mesh, and so sealed.
    #[serde(default)]
    pub mesh: MeshSection,
    /// Who may connect to this pod. Nobody, unless allowed here.
    #[serde(default)]
    pub inbound: InboundSection,
    /// What may pass unsealed, each with a reason, an owner and an end.
    #[serde(default)]
    pub exceptions: Vec<ExceptionRule>,
    /// How the kernel's capture rules are made. Changing it needs `sealwire-proxy capture`.
    #[serde(default)]
    pub capture: CaptureSection,
    /// Ports that the proxy itself listens on. Changing them needs a restart.
    #[serde(default)]
    pub ports: Ports,
    /// Bounds of everything that can grow. Changing them needs a restart.
    #[serde(default)]
    pub limits: LimitsSection,
    /// Evidence for auditors: what was sealed, by whose key, and what else moved. None is written
    /// without this section. Changing it needs a restart.
    #[serde(default)]
    pub evidence: Option<EvidenceSection>,
    /// How the proxy ends.
    #[serde(default)]
    pub drain: DrainSection,
    /// File with the probes of the pod's containers, as the injector declares them: the health port
    /// does those checks at `/probe/<container>/<probe>`, for the node. Read once, at the start.
    #[serde(default)]
    pub probes: Option<PathBuf>,
    /// How the proxy locks itself in. Changing it needs a restart.
    #[serde(default)]
    pub confinement: Confinement,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogSection,
}

/// Who this workload is, and whom it trusts.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IdentitySection {
    /// Accepted SPIFFE trust domains; the first is this workload's own.
    pub trust_domains: Vec<String>,
    /// PEM file with the certificate chain, leaf first. Read again when it changes. Needed unless
    /// `vaultPki` is there.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file with the trust bundle: the CA certificates that peers' chains must end in. Read
    /// again when it changes. Needed unless `vaultPki` is there.
    #[serde(default)]
    pub bundle: Option<PathBuf>,
    /// Certificate and trust bundle from a PKI mount of Vault or OpenBao, instead of files.
    /// Changing it needs a restart.
    #[serde(default)]
    pub vault_pki: Option<VaultPkiSection>,
    /// TLS profile: `default`, `bsi-tr-02102-2` or `cnsa-2.0`.
    #[serde(default = "default_profile")]
    pub profile: String,
    /// Resuming TLS sessions, which spares both sides the signatures of a full handshake.
    #[serde(default)]
    pub resumption: ResumptionSection,
    /// Which certificates were revoked. When this section is there, a certificate of which no list
    /// in force says that it is good is refused; without it, nothing asks.
    #[serde(default)]
    pub revocation: Option<RevocationSection>,
}

/// Which certificates were revoked.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RevocationSection {
    /// Where certificate revocation lists (CRL, RFC 5280) come from, in PEM or DER, 10 MiB
    /// altogether: `file: /path`, read again when it changes, or `url: http://…` or `https://…`.
    /// Each issuer needs one. An older list never replaces a newer one. The server of a URL has to
    /// be declared under `exceptions`: the kernel lets the proxy go nowhere else.
    pub crls: Vec<CrlSource>,
    /// PEM file with the CA certificates that servers of `https` URLs must chain to; needed for
    /// those, and for nothing else.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Seconds that a list still counts after its nextUpdate. Then its issuer's certificates are
    /// refused until there is a newer one.
    #[serde(default)]
    pub grace_seconds: u64,
    /// Which certificates have to be covered.
    #[serde(default)]
    pub depth: Depth,
    /// Seconds between two fetches of a URL, give or take a tenth.
    #[serde(default = "default_refresh")]
    pub refresh_seconds: u64,
}

/// Where a revocation list comes from.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum CrlSource {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(String),
}

/// Which certificates have to be covered by revocation lists.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every one below the root.
    #[default]
    Chain,
    /// The workload's own alone.
    Leaf,
}

/// Resuming TLS sessions. Any change of certificate, bundle, revocation lists or configuration
/// ends all sessions, and a peer is verified again whenever it resumes one.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ResumptionSection {
    /// Whether to.
    pub enabled: bool,
    /// Seconds after which a session needs a full handshake again, at most 21600.
    pub lifetime_seconds: u64,
}

/// Where the private key lives.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum KeySection {
    /// A key in a PKCS#11 token.
    Pkcs11(Pkcs11Section),
    /// A key in a transit mount of Vault or OpenBao.
    VaultTransit(VaultTransitSection),
    /// A key in this process's memory, for development only.
    Memory(MemorySection),
}

/// A key in a PKCS#11 token.
#[derive(Clone, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pkcs11Section {
    /// The vendor's PKCS#11 library.
    pub module: PathBuf,
    /// RFC 7512 URI of the key. The PIN is named by `pin-source=file:…`, never given inline.
    pub uri: String,
    /// Addresses of the HSM, where the module connects to it over the network: the kernel lets the
    /// proxy, and it alone, connect there. With `ports`.
    // An older sidecar, which knows neither, takes a configuration without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub ranges: Vec<IpNet>,
    /// TCP ports of the HSM at these addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Sessions used at most, which is also how many signatures run at once.
    #[serde(default = "default_sessions")]
    pub max_sessions: NonZeroUsize,
    /// Signatures that may wait for a session; the next is refused as overload.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// Seconds that a signature may wait for a session.
    #[serde(default = "default_wait")]
    pub wait_seconds: u64,
    /// Makes a key in the token at the start, on curve `p256` or `p384`, instead of finding one: a
    /// session object, which dies with the process and leaves nothing in the token. The default is
    /// `p256` where `identity.vaultPki` issues certificates and the URI has no `id=`, else `none`.
    #[serde(default)]
    pub generate: Option<GenerateKey>,
    /// Seconds after which another key is made and follows; never when none. For keys made here.
    #[serde(default)]
    pub max_age_seconds: Option<u64>,
    /// Directory that outlives a restart of the container (an `emptyDir`). In it is remembered
    /// which PIN file the token has refused, so that restarts do not spend the PIN's tries; never
    /// a PIN. Without it only the running process remembers.
    #[serde(default)]
    pub state: Option<PathBuf>,
}

/// Whether a key is made in the token.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerateKey {
    /// On P-256.
    P256,
    /// On P-384.
    P384,
    /// Not: one is there.
    None,
}

/// A key in memory.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MemorySection {
    /// PKCS#8 PEM file, mode 0600.
    pub file: PathBuf,
}

/// What is inside the mesh.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshSection {
    /// Ranges of workloads' own addresses: sealed, and the peer's certificate must name the
    /// address that was dialled (naming `address`).
    #[schemars(with = "Vec<String>")]
    pub ranges: Vec<IpNet>,
    /// Shared addresses, such as ClusterIPs: sealed, and the peer must be one of the identities
    /// named (naming `identity`).
    pub services: Vec<ServiceRule>,
}

/// A destination behind which one of several identities answers.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceRule {
    /// Address or range.
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Ports; all when empty.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// SPIFFE IDs expected there. `*` stands for one path segment, a last `**` for any rest.
    /// `spiffe://DOMAIN/**` accepts the whole trust domain, and has to be written out.
    pub identities: Vec<String>,
}

/// Who may connect to this pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct InboundSection {
    /// A connection that no rule allows is refused.
    pub allow: Vec<InboundRule>,
}

/// Peers that may connect.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InboundRule {
    /// SPIFFE ID patterns.
    pub from: Vec<String>,
    /// Ports of this pod; all when empty.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Something that may pass unsealed.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExceptionRule {
    /// A name for logs, metrics and reports.
    pub name: String,
    /// What is let through.
    pub kind: ExceptionKind,
    /// Address or range.
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Ports; at least one.
    pub ports: Vec<u16>,
    /// Why it is needed.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// When it ends (RFC 3339). From then on it refuses.
    #[schemars(with = "String")]
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
}

/// What an exception lets through.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionKind {
    /// Name lookups to a resolver, over UDP and TCP.
    Dns,
    /// TCP as it is.
    Passthrough,
    /// TCP whose first bytes are a TLS 1.2 or newer handshake, which is recorded.
    RequireTls,
}

/// How the kernel's capture rules are made.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CaptureSection {
    /// The proxy's own UID: its connections are not captured again, and no other process may
    /// have it.
    pub uid: u32,
    /// Addresses of the node, which alone reach the health and metrics ports.
    #[schemars(with = "Vec<String>")]
    pub node: Vec<IpNet>,
    /// Whether the pod's default gateways count as addresses of the node: where pods hang on a
    /// bridge, the kubelet asks from there.
    pub gateways: bool,
    /// Seconds between two proofs that capture still works.
    pub prove_every_seconds: u64,
    /// Seconds after the start in which capture must have been proven.
    pub prove_within_seconds: u64,
}

/// Ports that the proxy itself listens on.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Ports {
    /// Where captured outbound connections arrive.
    pub outbound: u16,
    /// Where captured inbound connections arrive.
    pub inbound: u16,
    /// Admin, on loopback only.
    pub admin: u16,
    /// Prometheus metrics.
    pub metrics: u16,
    /// Health.
    pub health: u16,
}

/// Bounds of everything that can grow.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LimitsSection {
    /// Application connections at once, both directions together.
    pub connections: usize,
    /// Handshakes under way at once.
    pub handshakes: usize,
    /// Handshakes that may wait for a place.
    pub handshakes_waiting: usize,
    /// Seconds from an application's connect to a sealed link.
    pub handshake_seconds: u64,
    /// Seconds that a half-closed connection may go without a byte.
    pub half_closed_idle_seconds: u64,
    /// Seconds before its certificate's end in which a link looks for a quiet moment to close.
    pub expiry_drain_seconds: u64,
    /// Seconds in which key and certificate must be usable after the start.
    pub start_seconds: u64,
    /// Threads that move bytes.
    pub workers: usize,
}

/// How the proxy ends.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DrainSection {
    /// Seconds from SIGTERM to the end of what is still open. Keep it under the pod's
    /// `terminationGracePeriodSeconds`.
    pub seconds: u64,
    /// Seconds without any connection after which draining ends early.
    pub quiet_seconds: u64,
}

/// How the proxy locks itself in.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Confinement {
    /// Restrict files and ports by landlock.
    pub landlock: bool,
    /// Restrict system calls by seccomp.
    pub seccomp: bool,
    /// Files and directories that a vendor's module reads beside the system's.
    pub read: Vec<PathBuf>,
    /// Files and directories that a vendor's module writes, such as a software token.
    pub write: Vec<PathBuf>,
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogSection {
    /// Form of a line. Changing it needs a restart.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,sealwire_link=debug`.
    pub level: String,
}

/// Form of a log line.
#[derive(Copy, Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl fmt::Debug for Pkcs11Section {
    /// Leaves the URI out: until it is parsed it may hold a PIN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Section")
            .field("module", &self.module)
            .field("max_sessions", &self.max_sessions)
            .finish_non_exhaustive()
    }
}

impl Default for ResumptionSection {
    fn default() -> Self {
        Self {
            enabled: true,
            lifetime_seconds: 3600,
        }
    }
}

impl Default for CaptureSection {
    fn default() -> Self {
        Self {
            uid: 1337,
            node: Vec::new(),
            gateways: true,
            prove_every_seconds: 30,
            prove_within_seconds: 60,
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: 15001,
            inbound: 15006,
            admin: 15000,
            metrics: 15020,
            health: 15021,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 256,
            handshakes_waiting: 4096,
            handshake_seconds: 10,
            half_closed_idle_seconds: 300,
            expiry_drain_seconds: 30,
            start_seconds: 120,
            workers: 2,
        }
    }
}

impl Default for DrainSection {
    fn default() -> Self {
        Self {
            seconds: 25,
            quiet_seconds: 2,
        }
    }
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            landlock: true,
            seccomp: true,
            read: Vec::new(),
            write: Vec::new(),
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            level: "info".to_owned(),
        }
    }
}

fn default_profile() -> String {
    "default".to_owned()
}

fn default_refresh() -> u64 {
    300
}

fn default_sessions() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(7)
}

fn default_queue() -> usize {
    1024
}

fn default_wait() -> u64 {
    2
}
