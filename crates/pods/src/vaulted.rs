//! A mesh whose certificates, and keys where wanted, are in an OpenBao on the node: set up by
//! `sealwire vault setup`, as an operator would, with AppRole for logging in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::bao::{Bao, Storage};
use crate::mesh::{Mesh, PROXY_UID, SOON, Sidecar, TRUST_DOMAIN, module, succeeded};
use crate::world::{Pod, WorldError, run_error};

/// Where a pod's key is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum KeyFrom {
    /// In the transit mount.
    Transit,
    /// In a PKCS#11 token.
    Pkcs11,
}

/// Everything of the mesh may connect, and is known by its identity: certificates from PKI name no
/// addresses.
pub const OPEN_SERVICES: &str = r#"mesh:
  services:
    - { destination: 198.18.0.0/24, identities: ["spiffe://mesh.example/**"] }
    - { destination: "fd00:5ea1::/64", identities: ["spiffe://mesh.example/**"] }
inbound: { allow: [{ from: ["spiffe://mesh.example/**"] }] }"#;

/// A mesh with an OpenBao.
#[derive(Debug)]
pub struct Vaulted<'a> {
    /// The mesh.
    pub mesh: &'a Mesh,
    /// The server.
    pub bao: Bao,
    /// Life of a certificate, such as `1h`.
    ttl: &'static str,
    /// Namespace of the server that all of it is in.
    namespace: Option<&'static str>,
}

impl<'a> Vaulted<'a> {
    /// Starts the server on the mesh's node, and sets it up for these workloads.
    ///
    /// # Errors
    /// When a step fails.
    pub fn new(
        mesh: &'a Mesh,
        storage: Storage,
        ttl: &'static str,
        workloads: &[&str],
    ) -> Result<Self, WorldError> {
        let vaulted = Self {
            mesh,
            bao: Bao::in_world(mesh.world(), storage)?,
            ttl,
            namespace: None,
        };
        vaulted.set_up(workloads)?;
        Ok(vaulted)
    }

    /// The same, all of it in a namespace of the server that is made for it.
    ///
    /// # Errors
    /// When a step fails.
    pub fn in_namespace(
        mesh: &'a Mesh,
        storage: Storage,
        ttl: &'static str,
        workloads: &[&str],
        namespace: &'static str,
    ) -> Result<Self, WorldError> {
        let vaulted = Self {
            mesh,
            bao: Bao::in_world(mesh.world(), storage)?,
            ttl,
            namespace: Some(namespace),
        };
        let path = format!("sys/namespaces/{namespace}");
        vaulted.bao.write(&path, &json!({}))?;
        vaulted.set_up(workloads)?;
        Ok(vaulted)
    }

    /// A path in the server, as who is outside of the namespace says it.
    fn path(&self, path: &str) -> String {
        match self.namespace {
            Some(namespace) => format!("{namespace}/{path}"),
            None => path.to_owned(),
        }
    }

    /// Runs `sealwire vault setup --apply` for these workloads, which log in by AppRole.
    ///
    /// # Errors
    /// When it fails.
    pub fn set_up(&self, workloads: &[&str]) -> Result<String, WorldError> {
        self.set_up_for("approle", workloads)
    }

    /// The same, for another way to log in.
    ///
    /// # Errors
    /// When it fails.
    pub fn set_up_for(&self, login: &str, workloads: &[&str]) -> Result<String, WorldError> {
        self.set_up_as(self.bao.root_token(), login, workloads, &[])
    }

    /// The same, with another token than that of the server's root, and further arguments.
    ///
    /// # Errors
    /// When it fails.
    pub fn set_up_as(
        &self,
        token: &str,
        login: &str,
        workloads: &[&str],
        further: &[&str],
    ) -> Result<String, WorldError> {
        let file = self.mesh.world().directory().join("operator.token");
        self.secret(&file, token, 0)?;
        let (address, ca, token) = (
            self.bao.address(),
            self.bao.ca().display().to_string(),
            file.display().to_string(),
        );
        let given = [
            ("--auth", login),
            ("--trust-domain", TRUST_DOMAIN),
            ("--ttl", self.ttl),
            ("--address", &address),
            ("--ca", &ca),
            ("--token-file", &token),
        ];
        let namespace = self.namespace.map(|namespace| ("--namespace", namespace));
        let given = given.into_iter().chain(namespace);
        let workloads = workloads.iter().map(|workload| ("--workload", *workload));
        let done = self
            .mesh
            .world()
            .command(&self.mesh.programs().cli)
            .args(["vault", "setup", "--apply", "--let-rotate"])
            .args(
                given
                    .chain(workloads)
                    .flat_map(|(name, value)| [name, value]),
            )
            .args(further.iter().copied())
            .run(SOON)?;
        Ok(succeeded("sealwire vault setup", done)?.stdout)
    }

    /// Seals a pod as the workload of the same name, and waits until its sidecar is ready.
    ///
    /// # Errors
    /// When a step fails, or the sidecar is not ready in time.
    pub fn sealed_pod(&self, name: &str, key: KeyFrom) -> Result<(Pod, Sidecar), WorldError> {
        self.sealed_pod_with(name, key, OPEN_SERVICES)
    }

    /// The same, with these sections of its configuration.
    ///
    /// # Errors
    /// When a step fails, or the sidecar is not ready in time.
    pub fn sealed_pod_with(
        &self,
        name: &str,
        key: KeyFrom,
        sections: &str,
    ) -> Result<(Pod, Sidecar), WorldError> {
        let pod = self.mesh.world().pod(name)?;
        let config = self.prepare(&pod, name, key)?;
        let text = self.config_with(&pod, name, key, sections);
        self.mesh.write(&config, &text)?;
        self.mesh.capture(&pod, &config)?;
        let mut sidecar = self.mesh.start(&pod, &config)?;
        sidecar.wait_until_ready()?;
        Ok((pod, sidecar))
    }

    /// Puts what the sidecar needs to log in as `workload` beside its configuration, and writes
    /// that.
    ///
    /// # Errors
    /// When a step fails.
    pub fn prepare(&self, pod: &Pod, workload: &str, key: KeyFrom) -> Result<PathBuf, WorldError> {
        let name = pod.name();
        let directory = self.mesh.world().directory().join(name);
        let failed = |source| run_error("write", source);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o777)))
            .map_err(failed)?;
        self.let_log_in(pod, workload)?;
        fs::copy(self.bao.ca(), directory.join("vault-ca.pem")).map_err(failed)?;
        if key == KeyFrom::Pkcs11 {
            self.mesh.hsm(&["key", "--token", name, "--label", name])?;
        }
        let config = directory.join("proxy.yaml");
        self.mesh.write(&config, &self.config(pod, workload, key))?;
        Ok(config)
    }

    /// Puts the ids that `workload` logs in with by AppRole beside a pod's configuration.
    ///
    /// # Errors
    /// When the server has no such role.
    pub fn let_log_in(&self, pod: &Pod, workload: &str) -> Result<(), WorldError> {
        let directory = self.mesh.world().directory().join(pod.name());
        let role = self.path(&format!("auth/approle/role/{workload}"));
        let id = self.bao.read(&format!("{role}/role-id"))?;
        let secret = self.bao.write(&format!("{role}/secret-id"), &json!({}))?;
        for (file, text) in [
            ("role-id", &id["data"]["role_id"]),
            ("secret-id", &secret["data"]["secret_id"]),
        ] {
            let text = text.as_str().unwrap_or_default();
            self.secret(&directory.join(file), text, PROXY_UID)?;
        }
        Ok(())
    }

    /// Writes a file that one user of the world alone may read; from inside, where that user is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn secret(&self, path: &Path, text: &str, owner: u32) -> Result<(), WorldError> {
        let path = path.display();
        let kept = self.mesh.secrets_directory();
        let script = format!(
            "umask 077; mkdir -p {kept}; cat > '{path}' && cp '{path}' $(mktemp -p {kept}) && chown {owner}:{owner} '{path}'",
            kept = kept.display()
        );
        let written = self
            .mesh
            .world()
            .command("sh")
            .args(["-c", &script])
            .input(text)
            .run(SOON)?;
        succeeded("a secret file", written).map(drop)
    }

    /// The configuration of a pod's sidecar, in an open mesh.
    pub fn config(&self, pod: &Pod, workload: &str, key: KeyFrom) -> String {
        self.config_with(pod, workload, key, OPEN_SERVICES)
    }

    /// The same, with these sections `mesh`, `inbound` and what else differs, as YAML.
    pub fn config_with(&self, pod: &Pod, workload: &str, key: KeyFrom, sections: &str) -> String {
        let name = pod.name();
        let directory = self.mesh.world().directory().join(name);
        let directory = directory.display();
        let hsm = self.mesh.hsm_directory();
        let hsm = hsm.display();
        let (key, confinement) = match key {
            KeyFrom::Transit => (
                format!(
                    "vaultTransit: {{ key: \"vault-transit:transit/{workload}\", lookSeconds: 1 }}"
                ),
                String::new(),
            ),
            KeyFrom::Pkcs11 => (
                format!(
                    "pkcs11: {{ module: {}, uri: \"pkcs11:token={name};object={name}?pin-source=file:{hsm}/pins/{name}\" }}",
                    module()
                ),
                format!("confinement: {{ read: [{hsm}], write: [{hsm}/tokens] }}"),
            ),
        };
        format!(
            "identity:
  trustDomains: [{TRUST_DOMAIN}]
  vaultPki:
    role: sealwire
    spiffeId: spiffe://{TRUST_DOMAIN}/workload/{workload}
    leastSeconds: 10
    bundleSeconds: 1
key:
  {key}
vault:
  address: {address}
  ca: {directory}/vault-ca.pem
{namespace}  auth: {{ appRole: {{ roleId: {directory}/role-id, secretId: {directory}/secret-id }} }}
{sections}
capture: {{ uid: {PROXY_UID}, node: [198.18.255.1/32, \"fd00:5ea1::ffff:1/128\"] }}
log: {{ format: json, level: {log} }}
{confinement}
",
            address = self.bao.address(),
            namespace = (self.namespace).map_or_else(String::new, |namespace| {
                format!("  namespace: {namespace}\n")
            }),
            log = self.mesh.log,
        )
    }

    /// The token that a workload gets by AppRole.
    ///
    /// # Errors
    /// When it cannot log in.
    pub fn token(&self, workload: &str) -> Result<String, WorldError> {
        let role = self.path(&format!("auth/approle/role/{workload}"));
        let id = self.bao.read(&format!("{role}/role-id"))?;
        let secret = self.bao.write(&format!("{role}/secret-id"), &json!({}))?;
        self.bao.login_at(
            &self.path("auth/approle/login"),
            &json!({ "role_id": id["data"]["role_id"], "secret_id": secret["data"]["secret_id"] }),
        )
    }
}
