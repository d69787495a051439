//! The configuration as it is written. Doc comments here become the reference (`docs/injector.md`)
//! and the descriptions in the JSON Schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use sealwire_proxy::config::{Config, ExceptionRule, LogSection};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The configuration of `sealwire-injector`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InjectorConfig {
    /// What the sidecars are configured with, as in `docs/configuration.md`. `{namespace}` and
    /// `{serviceAccount}` in `identity.vaultPki.spiffeId`, `key.pkcs11.uri` and
    /// `key.vaultTransit.key` stand for those of each pod. It reaches running sidecars.
    #[schemars(with = "BTreeMap<String, Value>")]
    pub proxy: Config,
    /// Exceptions for some namespaces only, beside `proxy.exceptions`, which are for all.
    #[serde(default)]
    pub exceptions: Vec<MeshException>,
    /// PEM with the trust bundle, for `proxy.identity.bundle: /etc/sealwire/config/bundle.pem`.
    #[serde(default)]
    pub bundle: Option<String>,
    /// PEM with the CA certificates of Vault or OpenBao, for
    /// `proxy.vault.ca: /etc/sealwire/config/vault-ca.pem`.
    #[serde(default)]
    pub vault_ca: Option<String>,
    /// The image of capture and sidecar.
    pub image: ImageSection,
    /// What is mounted into the sidecar, and into no other container.
    #[serde(default)]
    pub volumes: VolumesSection,
    /// How the sidecar runs.
    #[serde(default)]
    pub sidecar: SidecarSection,
    /// What pods may do.
    #[serde(default)]
    pub policy: PolicySection,
    /// How the webhooks are served.
    #[serde(default)]
    pub webhook: WebhookSection,
    /// How the injector itself stands in the cluster.
    #[serde(default)]
    pub controller: ControllerSection,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogSection,
}

/// An exception for some namespaces.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshException {
    /// Namespaces whose pods it is for.
    pub namespaces: Vec<String>,
    /// The exception, as in `exceptions` of `docs/configuration.md`.
    #[schemars(with = "BTreeMap<String, Value>")]
    pub exception: ExceptionRule,
}

/// The image of capture and sidecar.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageSection {
    /// Its name, best with a digest.
    pub name: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[serde(default = "default_pull_policy")]
    pub pull_policy: String,
}

/// What is mounted into the sidecar, and into no other container.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct VolumesSection {
    /// The PIN of the token, as the file `/run/secrets/sealwire/pin/pin`.
    pub pin: Option<SecretKey>,
    /// A token of the pod's service account for Vault or OpenBao, as the file
    /// `/run/secrets/sealwire/vault/token`.
    pub vault_token: Option<TokenSource>,
    /// The workload's certificate chain, as the file `/etc/sealwire/identity/tls.pem`.
    pub certificate: Option<CertificateSource>,
    /// The vendor's PKCS#11 module, mounted at `/etc/sealwire/module`.
    pub module: Option<ModuleSource>,
    /// Size of an `emptyDir` for evidence at `/var/lib/sealwire/evidence`, such as `256Mi`; none
    /// when not given.
    pub evidence: Option<String>,
}

/// One key of a Secret in the pod's namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret. `{serviceAccount}` stands for the pod's.
    pub secret: String,
    /// Which of its keys.
    pub key: String,
}

/// A token of the pod's service account.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenSource {
    /// Audience of the token; pods must not have tokens for it in other containers.
    pub audience: String,
    /// Seconds after which it is replaced, at least 600.
    pub expiration_seconds: u32,
}

/// Where the certificate comes from when no authority is asked online.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateSource {
    /// Name of the Secret in the pod's namespace. `{serviceAccount}` stands for the pod's.
    pub secret: String,
    /// Which of its keys has the chain, leaf first.
    #[serde(default = "default_certificate_key")]
    pub key: String,
}

/// Where the PKCS#11 module comes from, when it is not in the sidecar's own image.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum ModuleSource {
    /// An image whose files are mounted (Kubernetes' image volumes).
    Image(ImageSection),
    /// Any other source of a volume, as in a pod: `persistentVolumeClaim`, `csi`, …
    Volume(BTreeMap<String, Value>),
}

/// How the sidecar runs.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SidecarSection {
    /// Whether it is a native sidecar (an init container that goes on).
    pub native: Native,
    /// Its resources. Whatever is not given has no bound, or that of the namespace.
    pub resources: ResourcesSection,
    /// Environment that the vendor's PKCS#11 module wants, such as where its own configuration is.
    /// No secrets: whoever may read pods sees it.
    pub environment: BTreeMap<String, String>,
    /// Seconds after which a sidecar that is not ready is started again.
    pub startup_seconds: u32,
}

/// Whether the sidecar is a native one.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Native {
    /// Where the cluster has them (Kubernetes 1.29), as it says itself.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Not: it is the first of the containers.
    Never,
}

/// Requests and limits.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourcesSection {
    /// What is set aside.
    pub requests: ResourceList,
    /// What is the most.
    pub limits: ResourceList,
}

/// Quantities by name, such as `memory: 64Mi`.
pub type ResourceList = BTreeMap<String, String>;

/// What pods may do.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicySection {
    /// Whether a pod may opt out in a namespace where all are sealed.
    pub opt_out: OptOut,
    /// What becomes of NET_RAW, SETUID and SETGID, which container runtimes give to every container
    /// that does not drop them, and of `allowPrivilegeEscalation`: with either it gets past capture.
    pub capabilities: Capabilities,
    /// Whether a container has to say which user it runs as.
    pub users: Users,
    /// Directories of the node that pods may mount (`hostPath`), with all below them.
    pub host_paths: Vec<PathBuf>,
    /// Whether it is looked up where claims of volumes lead.
    pub claims: Claims,
}

/// Whether a pod may opt out.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptOut {
    /// Not.
    #[default]
    Forbidden,
    /// With the annotation `sealwire.io/opt-out-reason`.
    Allowed,
}

/// What becomes of capabilities that nobody asked for.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capabilities {
    /// They are dropped, for every container of a sealed pod.
    #[default]
    Drop,
    /// A pod that does not drop them is refused.
    Refuse,
    /// They are left. A process of root in such a container can get past capture.
    Leave,
}

/// Whether a container has to say which user it runs as.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Users {
    /// Not: the image may. One whose own user is 1337, the sidecar's, gets past capture.
    #[default]
    Any,
    /// A container without `runAsUser`, in a pod without one, is refused.
    Given,
}

/// Whether it is looked up where claims lead.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claims {
    /// A claim that is bound to a directory of the node is refused like one. It needs the right to
    /// read claims and volumes.
    #[default]
    Follow,
    /// Not.
    Ignore,
}

/// How the webhooks are served.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookSection {
    /// Port of the webhooks (HTTPS).
    pub port: u16,
    /// Port of health and metrics (HTTP): `/livez`, `/readyz`, `/metrics`.
    pub health_port: u16,
    /// Where the serving certificate comes from.
    pub certificate: WebhookCertificate,
    /// The largest request, in bytes.
    pub max_bytes: usize,
    /// Bytes of all requests being read or answered; others wait.
    pub total_bytes: usize,
    /// Connections at once; for others the one that has been idle longest is closed.
    pub connections: usize,
    /// Seconds in which a request has to be read and answered.
    pub deadline_seconds: u64,
}

/// Where the serving certificate comes from.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum WebhookCertificate {
    /// The injector makes it, shares it among its replicas in the Secret `sealwire-injector-tls`,
    /// renews it, and writes its CA into the webhooks' configuration.
    SelfMade {
        /// Names and addresses by which the API server calls; the Service's own when empty.
        #[serde(default)]
        names: Vec<String>,
        /// Seconds for which a certificate is good. It is renewed after two thirds of that.
        #[serde(default = "default_lifetime", rename = "lifetimeSeconds")]
        lifetime_seconds: u64,
        /// Seconds from when the API server is told of a new CA until a certificate of it is used.
        #[serde(default = "default_settle", rename = "settleSeconds")]
        settle_seconds: u64,
    },
    /// Files, such as cert-manager keeps them; read again when they change. The CA in the
    /// webhooks' configuration is whoever's who keeps them.
    Files {
        /// PEM file with the chain, leaf first.
        certificate: PathBuf,
        /// PEM file with the key.
        key: PathBuf,
    },
}

/// How the injector itself stands in the cluster.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ControllerSection {
    /// Its namespace.
    pub namespace: String,
    /// Its service account, which alone may change the ConfigMaps.
    pub service_account: String,
    /// Its Service, whose name the serving certificate carries.
    pub service: String,
    /// Seconds between two looks at everything, beside every change that is noticed at once.
    pub resync_seconds: u64,
}

impl Default for TokenSource {
    fn default() -> Self {
        Self {
            audience: "sealwire-vault".to_owned(),
            expiration_seconds: 3600,
        }
    }
}

impl Default for SidecarSection {
    fn default() -> Self {
        Self {
            native: Native::Auto,
            resources: ResourcesSection::default(),
            environment: BTreeMap::new(),
            startup_seconds: 150,
        }
    }
}

impl Default for ResourcesSection {
    fn default() -> Self {
        let list = |pairs: &[(&str, &str)]| {
            let owned = |(name, amount): &(&str, &str)| ((*name).to_owned(), (*amount).to_owned());
            pairs.iter().map(owned).collect()
        };
        Self {
            requests: list(&[("cpu", "10m"), ("memory", "32Mi")]),
            limits: list(&[("memory", "256Mi")]),
        }
    }
}

impl Default for WebhookSection {
    fn default() -> Self {
        Self {
            port: 8443,
            health_port: 8080,
            certificate: WebhookCertificate::SelfMade {
                names: Vec::new(),
                lifetime_seconds: default_lifetime(),
                settle_seconds: default_settle(),
            },
            max_bytes: 3 * 1024 * 1024,
            total_bytes: 32 * 1024 * 1024,
            connections: 256,
            deadline_seconds: 8,
        }
    }
}

impl Default for ControllerSection {
    fn default() -> Self {
        Self {
            namespace: "sealwire-system".to_owned(),
            service_account: "sealwire-injector".to_owned(),
            service: "sealwire-injector".to_owned(),
            resync_seconds: 300,
        }
    }
}

fn default_pull_policy() -> String {
    "IfNotPresent".to_owned()
}

fn default_certificate_key() -> String {
    "tls.crt".to_owned()
}

/// 30 days.
fn default_lifetime() -> u64 {
    30 * 24 * 60 * 60
}

fn default_settle() -> u64 {
    60
}
