//! Certificate requests (RFC 2986) signed by a key that stays where it is.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType, SignatureAlgorithm, SigningKey};
use sealwire_keys::{Algorithm, PrivateKey, Scheme};

use crate::spiffe::SpiffeId;

/// A private key that stays where it is, as rcgen wants to see one. For whoever signs requests or
/// certificates.
#[derive(Debug)]
pub struct RemoteKey<'a> {
    key: &'a dyn PrivateKey,
    algorithm: &'static SignatureAlgorithm,
    scheme: Scheme,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Certificates and requests are signed with RSA as PKCS#1 v1.5 there, which keys here do not
    /// do.
    #[error("{0} keys cannot sign requests here: use a P-256, P-384 or Ed25519 key, or issue for the public key")]
    Algorithm(String),
    /// The key did not sign, or a name cannot be encoded.
    #[error("certificate request: {0}")]
    Failed(#[from] rcgen::Error),
}

impl<'a> RemoteKey<'a> {
    /// Wraps a key.
    ///
    /// # Errors
    /// For RSA keys.
    pub fn new(key: &'a dyn PrivateKey) -> Result<Self, RequestError> {
        let (algorithm, scheme) = match key.public_key().algorithm() {
            Algorithm::EcdsaP256 => (&rcgen::PKCS_ECDSA_P256_SHA256, Scheme::EcdsaP256Sha256),
            Algorithm::EcdsaP384 => (&rcgen::PKCS_ECDSA_P384_SHA384, Scheme::EcdsaP384Sha384),
            Algorithm::Ed25519 => (&rcgen::PKCS_ED25519, Scheme::Ed25519),
            rsa @ Algorithm::Rsa { .. } => return Err(RequestError::Algorithm(rsa.to_string())),
        };
        Ok(Self { key, algorithm, scheme })
    }
}

impl PublicKeyData for RemoteKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.public_key().bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for RemoteKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(self.scheme, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Makes a request for a workload's certificate, in PEM. Blocks while the key signs.
///
/// # Errors
/// See [`RequestError`].
pub fn certificate_request(key: &dyn PrivateKey, id: &SpiffeId, addresses: &[IpAddr]) -> Result<String, RequestError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(rcgen::Error::from)?)];
    params
        .subject_alt_names
        .extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(params.serialize_request(&RemoteKey::new(key)?)?.pem()?)
}
