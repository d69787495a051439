//! Certificates from the PKI mount of Vault or OpenBao: a request signed by the key, the chain and
//! the bundle from the mount. Which names a workload gets is the role's to decide, not ours: see
//! `docs/vault.md`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use sealwire_keys::{Method, PrivateKey, Request, Vault};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Authority, IssueError, Issued, certificates};
use crate::bundle::TrustBundle;
use crate::certificate::Credentials;
use crate::profile::Profile;
use crate::request::certificate_request;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::verify::{Role, Verifier};

/// How long one question may take.
const WAIT: Duration = Duration::from_secs(20);

/// A role of a PKI mount, and what to ask of it.
#[derive(Clone, Debug)]
pub struct VaultPkiConfig {
    /// The session with the server.
    pub vault: Arc<Vault>,
    /// Path of the mount.
    pub mount: String,
    /// Role that signs.
    pub role: String,
    /// The workload's SPIFFE ID.
    pub id: SpiffeId,
    /// Addresses that it may answer for; none where peers go by identities.
    pub addresses: Vec<IpAddr>,
    /// Life to ask for; the role's own when none.
    pub ttl: Option<Duration>,
    /// TLS profile by which the chain has to be good.
    pub profile: &'static Profile,
}

/// An authority in Vault or OpenBao.
#[derive(Debug)]
pub struct VaultPki {
    config: VaultPkiConfig,
    name: String,
}

/// What is needed of `pki/sign/:role`.
#[derive(Deserialize)]
struct Signed {
    certificate: String,
    issuing_ca: String,
    #[serde(default)]
    ca_chain: Vec<String>,
}

/// What is needed of `pki/issuer/:id/json`.
#[derive(Deserialize)]
struct Issuer {
    certificate: String,
}

impl VaultPki {
    /// Asks nothing yet.
    pub fn new(config: VaultPkiConfig) -> Self {
        let (mount, role) = (&config.mount, &config.role);
        let name = format!("{}/v1/{mount}, role {role}", config.vault.address());
        Self { config, name }
    }

    fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, IssueError> {
        let path = format!("{}/{path}", self.config.mount);
        let request = Request {
            method,
            what: match method {
                Method::Get | Method::List => format!("to read {path}"),
                Method::Post => format!("to write to {path}"),
            },
            path,
            body,
        };
        let answer = self.config.vault.ask(request, WAIT)?;
        T::deserialize(answer).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, problem: impl ToString) -> IssueError {
        IssueError::Issued {
            authority: self.name.clone(),
            problem: problem.to_string(),
        }
    }

    /// Leaf, and what is above it up to and without a root.
    fn chain(&self, signed: &Signed) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let mut chain = Vec::new();
        let above = signed.ca_chain.iter().chain([&signed.issuing_ca]);
        for pem in [&signed.certificate].into_iter().chain(above) {
            for certificate in certificates(pem.as_bytes()).map_err(|error| self.unusable(error))? {
                // A root is in the bundle, or not trusted; sending it along helps nobody.
                let is_root = x509_parser::parse_x509_certificate(&certificate)
                    .is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer() && parsed.is_ca());
                if !is_root && !chain.contains(&certificate) {
                    chain.push(certificate);
                }
            }
        }
        Ok(chain)
    }
}

impl Authority for VaultPki {
    fn name(&self) -> &str {
        &self.name
    }

    fn issue(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
        let config = &self.config;
        let csr = certificate_request(key.as_ref(), &config.id, &config.addresses)?;
        let addresses: Vec<_> = config.addresses.iter().map(ToString::to_string).collect();
        let mut body = json!({
            "csr": csr,
            "format": "pem",
            "uri_sans": config.id.as_str(),
            "ip_sans": addresses.join(","),
            "exclude_cn_from_sans": true,
        });
        if let Some(ttl) = config.ttl {
            body["ttl"] = json!(format!("{}s", ttl.as_secs()));
        }
        let path = format!("sign/{}", config.role);
        let signed: Signed = self.ask(Method::Post, &path, Some(body))?;
        let credentials = Credentials::new(key.clone(), self.chain(&signed)?)
            .map_err(|error| self.unusable(error))?;
        let (bundle, bundle_pem) = self.bundle()?;
        let bundle = Arc::new(bundle);
        self.verify(&credentials, &bundle)?;
        Ok(Issued {
            credentials: Arc::new(credentials),
            bundle,
            bundle_pem,
        })
    }

    /// End to end, as a peer would see it.
    fn verify(
        &self,
        credentials: &Credentials,
        bundle: &Arc<TrustBundle>,
    ) -> Result<(), IssueError> {
        let id = &credentials.facts().spiffe_id;
        if *id != self.config.id {
            return Err(self.unusable(format!(
                "it names {id} where {} was asked for: correct the role",
                self.config.id
            )));
        }
        let domain: TrustDomain = id
            .trust_domain()
            .parse()
            .map_err(|error| self.unusable(error))?;
        let verifier = Verifier::new(bundle.clone(), vec![domain], self.config.profile);
        let Some((leaf, intermediates)) = credentials.chain().split_first() else {
            return Err(self.unusable("the chain is empty"));
        };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since_1970.unwrap_or_default());
        for role in [Role::Client, Role::Server] {
            verifier
                .verify(leaf, intermediates, role, now)
                .map_err(|source| IssueError::Untrusted {
                    authority: self.name.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    /// Every issuer of the mount, in the order of their certificates, so that the same ones are
    /// the same text.
    fn bundle(&self) -> Result<(TrustBundle, Vec<u8>), IssueError> {
        #[derive(Deserialize)]
        struct Issuers {
            keys: Vec<String>,
        }
        let issuers: Issuers = self.ask(Method::List, "issuers", None)?;
        let mut roots = Vec::new();
        for id in issuers.keys {
            let issuer: Issuer = self.ask(Method::Get, &format!("issuer/{id}/json"), None)?;
            let certificate = issuer.certificate.trim().to_owned() + "\n";
            roots.push(certificate);
        }
        roots.sort();
        roots.dedup();
        let pem = roots.concat().into_bytes();
        let bundle = TrustBundle::from_pem(&pem).map_err(|error| self.unusable(error))?;
        Ok((bundle, pem))
    }
}
