//! Certificates and keys of a Kubernetes API, made anew for each: its root, what it shows, what its
//! administrator shows, and the key that it issues tokens with.

use std::fs::{self, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, RsaKeySize, SanType, SigningKey,
};
use serde_json::{Value, json};

use crate::world::WorldError;

/// All of it, in PEM but for the issuer's key.
pub(super) struct Credentials {
    pub(super) ca: String,
    issuer: KeyPair,
    pub(super) issuer_public: String,
    server: Leaf,
    administrator: Leaf,
}

struct Leaf {
    certificate: String,
    key: String,
}

impl Credentials {
    pub(super) fn make() -> Result<Self, WorldError> {
        Self::generate().map_err(failed)
    }

    /// A JWT by the issuer's key.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, WorldError> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "RS256", "typ": "JWT" });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.issuer.sign(signed.as_bytes()).map_err(failed)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// A client's configuration for the directory that all of it was written to.
    pub(super) fn kubeconfig_with(address: &str, token: &str) -> String {
        kubeconfig(address, &format!("token: {token}"))
    }

    fn generate() -> Result<Self, rcgen::Error> {
        let mut root = named("kubernetes root", None);
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let ca = root.self_signed(&key)?.pem();
        let root = Issuer::new(root, key);

        let mut server = named("kube-apiserver", None);
        server.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // RBAC lets this group do everything.
        let mut administrator = named("administrator", Some("system:masters"));
        administrator.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        // RSA, as most clusters have it.
        let issuer = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        Ok(Self {
            ca,
            issuer_public: issuer.public_key_pem(),
            issuer,
            server: Leaf::new(server, &root)?,
            administrator: Leaf::new(administrator, &root)?,
        })
    }

    /// Writes what the server and kubectl read, the latter with a configuration that names
    /// `address`.
    pub(super) fn write(&self, directory: &Path, address: &str) -> io::Result<()> {
        let kubeconfig = kubeconfig(
            address,
            "client-certificate: admin.pem, client-key: admin.key",
        );
        for (name, text) in [
            ("ca.pem", &self.ca),
            ("server.pem", &self.server.certificate),
            ("server.key", &self.server.key),
            ("admin.pem", &self.administrator.certificate),
            ("admin.key", &self.administrator.key),
            ("issuer.key", &self.issuer.serialize_pem()),
            ("issuer.pub", &self.issuer_public),
            ("kubeconfig", &kubeconfig),
        ] {
            let path = directory.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
        Ok(())
    }
}

impl Leaf {
    fn new(params: CertificateParams, root: &Issuer<'_, KeyPair>) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        Ok(Self {
            certificate: params.signed_by(&key, root)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn kubeconfig(address: &str, user: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
current-context: test
contexts: [{{ name: test, context: {{ cluster: test, user: test }} }}]
clusters: [{{ name: test, cluster: {{ server: \"{address}\", certificate-authority: ca.pem }} }}]
users: [{{ name: test, user: {{ {user} }} }}]
"
    )
}

fn failed(error: rcgen::Error) -> WorldError {
    WorldError::Step {
        step: "credentials of kube-apiserver".to_owned(),
        message: error.to_string(),
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    params
}
