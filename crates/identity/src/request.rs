//! Certificate requests (RFC 2986) signed by a key that stays where it is.

use std::net::IpAddr;
use std::sync::OnceLock;

use der::asn1::{Any, SequenceOf};
use der::{Decode, Encode, Tag};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyUsagePurpose, PublicKeyData,
    SanType, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::alg_id;
use sealwire_keys::{Algorithm, PrivateKey, Scheme, SignError};

use crate::spiffe::SpiffeId;

/// A private key that stays where it is, as rcgen wants to see one. For whoever signs requests or
/// certificates.
#[derive(Debug)]
pub struct RemoteKey<'a> {
    key: &'a dyn PrivateKey,
    algorithm: &'static SignatureAlgorithm,
    scheme: Scheme,
    /// What the key said when it did not sign; rcgen has no room for it.
    failure: OnceLock<SignError>,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// rcgen knows RSA signatures as PKCS#1 v1.5 alone, which keys here do not make.
    #[error("{0} keys cannot sign certificates here: use a P-256, P-384 or Ed25519 key")]
    Algorithm(String),
    /// The key did not sign.
    #[error("certificate request for {reference}: {source}")]
    Sign {
        /// Reference of the key.
        reference: String,
        /// What it said.
        source: SignError,
    },
    /// A name cannot be encoded.
    #[error("certificate request: {0}")]
    Encode(String),
}

impl<'a> RemoteKey<'a> {
    /// Wraps a key.
    ///
    /// # Errors
    /// For RSA keys.
    pub fn new(key: &'a dyn PrivateKey) -> Result<Self, RequestError> {
        match key.public_key().algorithm() {
            rsa @ Algorithm::Rsa { .. } => Err(RequestError::Algorithm(rsa.to_string())),
            _ => Ok(Self::wrap(key)),
        }
    }

    /// Why the key did not sign, when it did not.
    pub fn failure(&self) -> Option<&SignError> {
        self.failure.get()
    }

    /// What is signed with an RSA key says that it is PKCS#1 v1.5, but is PSS.
    fn wrap(key: &'a dyn PrivateKey) -> Self {
        let (algorithm, scheme) = match key.public_key().algorithm() {
            Algorithm::EcdsaP256 => (&rcgen::PKCS_ECDSA_P256_SHA256, Scheme::EcdsaP256Sha256),
            Algorithm::EcdsaP384 => (&rcgen::PKCS_ECDSA_P384_SHA384, Scheme::EcdsaP384Sha384),
            Algorithm::Ed25519 => (&rcgen::PKCS_ED25519, Scheme::Ed25519),
            Algorithm::Rsa { .. } => (&rcgen::PKCS_RSA_SHA256, Scheme::RsaPssSha256),
        };
        Self {
            key,
            algorithm,
            scheme,
            failure: OnceLock::new(),
        }
    }

    fn error(&self, error: &rcgen::Error) -> RequestError {
        match self.failure() {
            Some(source) => RequestError::Sign {
                reference: self.key.reference().to_owned(),
                source: source.clone(),
            },
            None => RequestError::Encode(error.to_string()),
        }
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
        self.key.sign(self.scheme, message).map_err(|error| {
            // The first failure is the one that ended the attempt.
            let _ = self.failure.set(error);
            rcgen::Error::RemoteKeyError
        })
    }
}

/// Makes a request for a workload's certificate, in PEM. Blocks while the key signs.
///
/// # Errors
/// See [`RequestError`].
pub fn certificate_request(
    key: &dyn PrivateKey,
    id: &SpiffeId,
    addresses: &[IpAddr],
) -> Result<String, RequestError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = id.as_str().try_into().map_err(encode)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let addresses = addresses.iter().map(IpAddr::to_canonical);
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let remote = RemoteKey::wrap(key);
    let request = params
        .serialize_request(&remote)
        .map_err(|error| remote.error(&error))?;
    let der = match key.public_key().algorithm() {
        Algorithm::Rsa { .. } => signed_with_pss(request.der()).map_err(encode)?,
        _ => request.der().to_vec(),
    };
    der::pem::encode_string("CERTIFICATE REQUEST", der::pem::LineEnding::LF, &der).map_err(encode)
}

/// Puts the true algorithm, RSASSA-PSS with SHA-256 (RFC 4055 section 3.1), beside the signature.
/// It is not among what is signed.
fn signed_with_pss(request: &[u8]) -> Result<Vec<u8>, der::Error> {
    let parts = SequenceOf::<Any, 3>::from_der(request)?;
    let mut signed = SequenceOf::<Any, 3>::new();
    for (place, part) in parts.iter().enumerate() {
        signed.add(match place {
            1 => Any::new(Tag::Sequence, alg_id::RSA_PSS_SHA256.as_ref())?,
            _ => part.clone(),
        })?;
    }
    signed.to_der()
}

fn encode(error: impl std::fmt::Display) -> RequestError {
    RequestError::Encode(error.to_string())
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::testing::{Failing, Kind, V4, V6, WEB, open};

    #[test]
    fn a_request_names_the_workload_and_is_signed_by_every_kind_of_key() {
        for kind in [Kind::P256, Kind::P384, Kind::Ed25519, Kind::Rsa2048] {
            let key = open(&kind.generate());
            let addresses = [V4, V6, "::ffff:198.18.0.9"].map(|address| address.parse().unwrap());
            let pem = certificate_request(key.as_ref(), &WEB.parse().unwrap(), &addresses).unwrap();
            let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
            let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
            assert!(rest.is_empty());
            let info = &request.certification_request_info;
            assert_eq!(
                info.subject_pki.raw,
                key.public_key().spki_der(),
                "{kind:?}"
            );
            let scheme = RemoteKey::wrap(key.as_ref()).scheme;
            let signature = &request.signature_value.data;
            assert!(
                key.public_key().verifies(scheme, info.raw, signature),
                "{kind:?}"
            );

            let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
            let names = extensions.iter().find_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
            let address = |text: &str| match text.parse().unwrap() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let (v4, v6, mapped) = (address(V4), address(V6), address("198.18.0.9"));
            assert_eq!(
                *names.unwrap(),
                [
                    GeneralName::URI(WEB),
                    GeneralName::IPAddress(&v4),
                    GeneralName::IPAddress(&v6),
                    GeneralName::IPAddress(&mapped),
                ]
            );
            assert!(extensions.iter().any(|extension| matches!(
                extension,
                ParsedExtension::KeyUsage(usage) if usage.digital_signature() && !usage.key_cert_sign()
            )));
            assert!(extensions.iter().any(|extension| matches!(
                extension,
                ParsedExtension::ExtendedKeyUsage(usage) if usage.client_auth && usage.server_auth
            )));
        }
    }

    #[test]
    fn a_request_by_rsa_says_that_its_signature_is_pss() {
        let key = open(&Kind::Rsa2048.generate());
        let pem = certificate_request(key.as_ref(), &WEB.parse().unwrap(), &[]).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert_eq!(
            request.signature_algorithm.algorithm.to_id_string(),
            "1.2.840.113549.1.1.10"
        );
    }

    #[test]
    fn a_key_that_does_not_sign_says_why() {
        let key = Failing::new(open(&Kind::P256.generate()));
        let error = certificate_request(&*key, &WEB.parse().unwrap(), &[]).unwrap_err();
        assert!(error.to_string().contains("CKR_DEVICE_REMOVED"), "{error}");
    }
}
