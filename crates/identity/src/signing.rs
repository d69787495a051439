//! A private key that stays where it is, as rustls wants to see one.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};
use sealwire_keys::{Algorithm, PrivateKey, Scheme, SignError};

use crate::certificate::Credentials;

/// Finds our own key's fault in a failed handshake.
pub fn find_sign_error(error: &rustls::Error) -> Option<&SignError> {
    match error {
        rustls::Error::Other(OtherError(inner)) => inner.downcast_ref(),
        _ => None,
    }
}

/// The one certificate and key, for whichever side we play.
#[derive(Debug)]
pub(crate) struct OwnCertificate(Arc<CertifiedKey>);

impl OwnCertificate {
    /// `allowed` are the profile's schemes.
    pub(crate) fn new(credentials: &Credentials, allowed: &'static [SignatureScheme]) -> Self {
        let key = StayingKey {
            key: credentials.key().clone(),
            allowed,
        };
        Self(Arc::new(CertifiedKey::new(
            credentials.chain().to_vec(),
            Arc::new(key),
        )))
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Without a common scheme there is nothing to prove the certificate with.
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The schemes of a key that a profile allows, best first.
pub(crate) fn usable_schemes(key: &dyn PrivateKey, allowed: &[SignatureScheme]) -> Vec<Scheme> {
    let schemes = key.schemes().iter().copied();
    schemes
        .filter(|scheme| allowed.contains(&tls(*scheme)))
        .collect()
}

#[derive(Debug)]
struct StayingKey {
    key: Arc<dyn PrivateKey>,
    allowed: &'static [SignatureScheme],
}

impl SigningKey for StayingKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let schemes = usable_schemes(self.key.as_ref(), self.allowed);
        let scheme = schemes
            .into_iter()
            .find(|scheme| offered.contains(&tls(*scheme)))?;
        Some(Box::new(StayingSigner {
            key: self.key.clone(),
            scheme,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.key.public_key().spki_der().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key.public_key().algorithm() {
            Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => SignatureAlgorithm::ECDSA,
            Algorithm::Rsa { .. } => SignatureAlgorithm::RSA,
            Algorithm::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

#[derive(Debug)]
struct StayingSigner {
    key: Arc<dyn PrivateKey>,
    scheme: Scheme,
}

impl Signer for StayingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        sealwire_keys::may_sign_here()
            .and_then(|()| self.key.sign(self.scheme, message))
            .map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        tls(self.scheme)
    }
}

fn tls(scheme: Scheme) -> SignatureScheme {
    SignatureScheme::from(scheme.code())
}
