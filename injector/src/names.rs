//! Every name that the injector, the sidecar, the chart and the command line share: labels,
//! annotations, containers, volumes, mount paths, ports. A name that is written twice drifts.

/// Prefix of all labels and annotations.
pub const PREFIX: &str = "sealwire.io/";

/// Label on a namespace ([`ENABLED`], [`LABELLED`] or [`DISABLED`]) and on a pod ([`ENABLED`] or
/// [`DISABLED`]); on a pod also an annotation, which counts where the label is not set.
pub const INJECT: &str = "sealwire.io/inject";
/// On a namespace: every pod is sealed, but for those that opt out. On a pod: seal it.
pub const ENABLED: &str = "enabled";
/// On a namespace: the pods that carry the label `sealwire.io/inject: enabled` are sealed.
pub const LABELLED: &str = "labelled";
/// No pod is sealed; on a pod in an enabled namespace: it opts out.
pub const DISABLED: &str = "disabled";

/// Annotation on a pod that opts out: why, in one line.
pub const OPT_OUT_REASON: &str = "sealwire.io/opt-out-reason";
/// Annotation that the injector writes: [`SEALED`], or why the pod is not.
pub const STATUS: &str = "sealwire.io/status";
/// The status of a sealed pod.
pub const SEALED: &str = "sealed";
/// The status of a pod that opted out.
pub const OPTED_OUT: &str = "opted-out";
/// The status of a pod that cannot be sealed: it runs on Windows.
pub const WINDOWS: &str = "windows";
/// Annotation that the injector writes: which version of it sealed the pod.
pub const VERSION: &str = "sealwire.io/injector-version";
/// Annotation that the injector writes: the probes as the pod declared them, as JSON
/// `{"CONTAINER": {"startup|readiness|liveness": PROBE}}`, PROBE as in the pod, ports as numbers.
pub const PROBES: &str = "sealwire.io/probes";

/// Annotation on a namespace: who answers behind its Services' addresses. A YAML list of
/// `mesh.services` of the proxy's configuration, of identities in that namespace.
pub const SERVICES: &str = "sealwire.io/services";
/// Annotation on a namespace: who may connect to its pods. A YAML list of `inbound.allow` of the
/// proxy's configuration; it is added to the mesh's own.
pub const INBOUND: &str = "sealwire.io/inbound";

/// The init container that puts the capture rules in place, and is gone.
pub const CAPTURE: &str = "sealwire-capture";
/// The sidecar.
pub const PROXY: &str = "sealwire-proxy";

/// The ConfigMap in every sealed namespace.
pub const CONFIG_MAP: &str = "sealwire";
/// Its key with the sidecars' configuration.
pub const CONFIG_KEY: &str = "proxy.yaml";
/// Its key with the trust bundle, when that is the injector's to hand out.
pub const BUNDLE_KEY: &str = "bundle.pem";
/// Its key with the CA certificates of Vault or OpenBao.
pub const VAULT_CA_KEY: &str = "vault-ca.pem";
/// Label on that ConfigMap, by which it is found again.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sealwire-injector");

/// Prefix of the names of all volumes of the sidecar.
pub const VOLUME_PREFIX: &str = "sealwire-";
/// Volume of the ConfigMap.
pub const CONFIG_VOLUME: &str = "sealwire-config";
/// Volume with what the pod says of itself (downward API): the file [`PROBES_FILE`], and `name`,
/// `namespace`, `uid`.
pub const POD_VOLUME: &str = "sealwire-pod";
/// Volume with the PIN.
pub const PIN_VOLUME: &str = "sealwire-pin";
/// Volume with the token for Vault or OpenBao.
pub const VAULT_VOLUME: &str = "sealwire-vault";
/// Volume with the certificate, when it is in a Secret.
pub const IDENTITY_VOLUME: &str = "sealwire-identity";
/// Volume with the PKCS#11 module.
pub const MODULE_VOLUME: &str = "sealwire-module";
/// Volume that outlives a restart of the sidecar: which PIN was refused.
pub const STATE_VOLUME: &str = "sealwire-state";
/// Volume with evidence.
pub const EVIDENCE_VOLUME: &str = "sealwire-evidence";
/// Empty volume over the place of the service account's token: Kubernetes mounts that token into
/// every container that has nothing there, and the sidecar has no business with it.
pub const NO_TOKEN_VOLUME: &str = "sealwire-no-token";

/// Where the ConfigMap is mounted.
pub const CONFIG_PATH: &str = "/etc/sealwire/config";
/// The sidecars' configuration.
pub const CONFIG_FILE: &str = "/etc/sealwire/config/proxy.yaml";
/// Where the pod's own facts are mounted.
pub const POD_PATH: &str = "/etc/sealwire/pod";
/// The declared probes, which the sidecar forwards and no other.
pub const PROBES_FILE: &str = "/etc/sealwire/pod/probes";
/// Where the certificate is mounted; the file is `tls.pem`.
pub const IDENTITY_PATH: &str = "/etc/sealwire/identity";
/// Where the PKCS#11 module is mounted.
pub const MODULE_PATH: &str = "/etc/sealwire/module";
/// Where the PIN is mounted; the file is `pin`.
pub const PIN_PATH: &str = "/run/secrets/sealwire/pin";
/// Where the token for Vault or OpenBao is mounted; the file is `token`.
pub const VAULT_PATH: &str = "/run/secrets/sealwire/vault";
/// Where the state is mounted.
pub const STATE_PATH: &str = "/var/lib/sealwire/state";
/// Where evidence is mounted.
pub const EVIDENCE_PATH: &str = "/var/lib/sealwire/evidence";
/// Where Kubernetes mounts the service account's token.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Path on the sidecar's health port, before `/CONTAINER/startup|readiness|liveness`.
pub const PROBE_PATH: &str = "/probe";
/// Name of the sidecar's metrics port.
pub const METRICS_PORT: &str = "seal-metrics";

/// Paths of the webhooks. Which one is called says what the namespace's label says, so that no
/// answer depends on a copy of it that may be old.
pub mod paths {
    /// Mutates pods of namespaces with `sealwire.io/inject: enabled`.
    pub const MUTATE_NAMESPACE: &str = "/mutate/namespace";
    /// Mutates labelled pods of namespaces with `sealwire.io/inject: labelled`.
    pub const MUTATE_POD: &str = "/mutate/pod";
    /// Validates pods and ephemeral containers of namespaces with `sealwire.io/inject: enabled`.
    pub const VALIDATE_NAMESPACE: &str = "/validate/namespace";
    /// Validates labelled pods of namespaces with `sealwire.io/inject: labelled`.
    pub const VALIDATE_POD: &str = "/validate/pod";
    /// Refuses labelled pods of namespaces without the label: nothing would seal them.
    pub const VALIDATE_STRAY: &str = "/validate/stray";
    /// Refuses changes of the ConfigMap by anybody but the injector.
    pub const VALIDATE_CONFIG: &str = "/validate/config";
}

/// The MutatingWebhookConfiguration and ValidatingWebhookConfiguration.
pub const WEBHOOKS: &str = "sealwire";
/// The Lease by which replicas agree on who writes.
pub const LEASE: &str = "sealwire-injector";
/// The Secret with the webhooks' serving certificate.
pub const CERTIFICATE_SECRET: &str = "sealwire-injector-tls";
