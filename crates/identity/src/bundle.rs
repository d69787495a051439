//! The trust bundle: the CA certificates that a peer's chain may end in.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use sealwire_keys::pem_problem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::uri_names;
use crate::spiffe::SpiffeId;

/// Most CA certificates that a bundle may hold.
const MAX_ROOTS: usize = 100;

/// Several roots, so that an old and a new CA overlap while one follows the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    roots: Vec<Root>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Root {
    anchor: TrustAnchor<'static>,
    /// The trust domain that the root names as its own; such a root vouches for no other.
    domain: Option<String>,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("not PEM: {0}: put CERTIFICATE blocks into it")]
    Pem(&'static str),
    /// No certificate in it.
    #[error("no CERTIFICATE block in it: a bundle without roots trusts nobody")]
    Empty,
    /// More than any mesh needs.
    #[error("more than {MAX_ROOTS} certificates: keep the CAs in force")]
    TooMany,
    /// One of the certificates cannot be a root.
    #[error("certificate {number}: {problem}: keep CA certificates alone in the bundle")]
    Root {
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
}

impl TrustBundle {
    /// Reads PEM.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let mut roots = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| BundleError::Pem(pem_problem(&error)))?;
            let number = roots.len() + 1;
            if number > MAX_ROOTS {
                return Err(BundleError::TooMany);
            }
            roots.push(
                Root::read(&certificate)
                    .map_err(|problem| BundleError::Root { number, problem })?,
            );
        }
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self { roots })
    }

    /// How many roots there are.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether there are none, which a bundle from [`TrustBundle::from_pem`] never is.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Every root.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = &TrustAnchor<'static>> {
        self.roots.iter().map(|root| &root.anchor)
    }

    /// The roots that may vouch for workloads of `domain`: a root that names a trust domain as
    /// its own (X.509-SVID section 3.1) vouches for that one alone. All of them without a domain.
    /// A root's own validity is not looked at (RFC 5280 section 6.1.1): take it out of the file.
    pub(crate) fn anchors_for(&self, domain: Option<&str>) -> Vec<TrustAnchor<'static>> {
        self.roots
            .iter()
            .filter(|root| match (&root.domain, domain) {
                (Some(own), Some(asked)) => own == asked,
                _ => true,
            })
            .map(|root| root.anchor.clone())
            .collect()
    }
}

impl Root {
    fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !certificate.is_ca() {
            return Err("not a CA certificate".to_owned());
        }
        let names = uri_names(&certificate).map_err(|error| error.to_string())?;
        // A root whose own trust domain is unclear must not end up vouching for all of them.
        let domain = match names.as_slice() {
            [] => None,
            [name] => {
                let id: SpiffeId = name
                    .parse()
                    .map_err(|error| format!("URI name {name:?}: {error}"))?;
                Some(id.trust_domain().to_owned())
            }
            several => {
                return Err(format!(
                    "{} URI names instead of at most one",
                    several.len()
                ));
            }
        };
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| error.to_string())?;
        Ok(Self {
            anchor: anchor.to_owned(),
            domain,
        })
    }
}
