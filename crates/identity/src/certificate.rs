//! What a certificate says, and a private key together with its certificate.

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sealwire_keys::{Algorithm, PrivateKey, PublicKey};
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};
use x509_parser::x509::X509Name;

use crate::spiffe::{SpiffeId, SpiffeIdError};

/// What a workload's certificate says (X.509-SVID).
#[derive(Clone, Debug, Serialize)]
pub struct CertificateFacts {
    /// The one SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Begin of the validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// End of the validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Addresses that the workload may answer for.
    pub ip_addresses: Vec<IpAddr>,
    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
    pub public_key_sha256: String,
    /// Kind of the key.
    #[serde(skip)]
    pub(crate) algorithm: Algorithm,
}

/// What is wrong with a certificate as an X.509-SVID.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Not exactly one URI name.
    #[error("{found} URI names instead of exactly one")]
    UriNames {
        /// How many there are.
        found: usize,
    },
    /// The URI name is no SPIFFE ID of a workload.
    #[error("URI name {found:?} is no SPIFFE ID of a workload: {problem}")]
    NotSpiffeId {
        /// The name.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It may not be used by a workload.
    #[error("{0}")]
    KeyUsage(&'static str),
}

impl CertificateFacts {
    /// Reads a workload's certificate.
    ///
    /// # Errors
    /// When it is no X.509-SVID leaf. Its chain and validity are not looked at.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let malformed =
            |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| malformed(&error))?;
        let names = uri_names(&parsed)?;
        let [name] = names.as_slice() else {
            return Err(CertificateError::UriNames { found: names.len() });
        };
        let not_spiffe = |problem: &dyn std::fmt::Display| CertificateError::NotSpiffeId {
            found: (*name).to_owned(),
            problem: problem.to_string(),
        };
        let spiffe_id: SpiffeId = name
            .parse()
            .map_err(|error: SpiffeIdError| not_spiffe(&error))?;
        if spiffe_id.path().is_empty() {
            return Err(not_spiffe(&"it names a whole trust domain"));
        }
        check_usage(&parsed)?;
        let public =
            PublicKey::from_spki_der(parsed.public_key().raw).map_err(|error| malformed(&error))?;
        Ok(Self {
            spiffe_id,
            serial: parsed
                .raw_serial()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            issuer: parsed.issuer().to_string(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            ip_addresses: ip_addresses(&parsed)?,
            public_key_sha256: public.fingerprint().to_owned(),
            algorithm: public.algorithm(),
        })
    }
}

/// A private key and the certificate chain that belongs to it.
#[derive(Clone, Debug)]
pub struct Credentials {
    key: Arc<dyn PrivateKey>,
    chain: Vec<CertificateDer<'static>>,
    facts: CertificateFacts,
}

/// Why key and certificate cannot be used together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The chain is empty.
    #[error("no certificate: put the chain there as PEM, leaf first")]
    Empty,
    /// The leaf is no X.509-SVID.
    #[error("own certificate: {0}: have it issued anew")]
    Certificate(#[from] CertificateError),
    /// The certificate is for another key.
    #[error(
        "own certificate is for the public key {certificate}, the private key {reference} has {key}: issue a certificate \
         for this key, or name the other one"
    )]
    OtherKey {
        /// SHA-256 of the certificate's public key.
        certificate: String,
        /// SHA-256 of the private key's public half.
        key: String,
        /// Reference of the private key.
        reference: String,
    },
}

impl Credentials {
    /// Brings a key and its chain, leaf first, together.
    ///
    /// # Errors
    /// See [`CredentialsError`]. Validity and chain are checked where an
    /// [`Epoch`](crate::Epoch) is made.
    pub fn new(
        key: Arc<dyn PrivateKey>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CredentialsError> {
        let facts = CertificateFacts::of(chain.first().ok_or(CredentialsError::Empty)?)?;
        if facts.public_key_sha256 != key.public_key().fingerprint() {
            return Err(CredentialsError::OtherKey {
                certificate: facts.public_key_sha256,
                key: key.public_key().fingerprint().to_owned(),
                reference: key.reference().to_owned(),
            });
        }
        Ok(Self { key, chain, facts })
    }

    /// The private key.
    pub fn key(&self) -> &Arc<dyn PrivateKey> {
        &self.key
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What the leaf says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

/// A name, which is whatever somebody unknown wrote there, in bounds.
pub(crate) fn bounded_name(name: &X509Name<'_>) -> String {
    const LONGEST: usize = 200;
    let mut name = name.to_string();
    if let Some((cut, _)) = name.char_indices().nth(LONGEST) {
        name.truncate(cut);
        name.push('…');
    }
    name
}

/// All URI names of a certificate.
pub(crate) fn uri_names<'a>(
    certificate: &X509Certificate<'a>,
) -> Result<Vec<&'a str>, CertificateError> {
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(alternatives) => {
                for name in &alternatives.general_names {
                    match name {
                        GeneralName::URI(uri) => names.push(*uri),
                        // A name that cannot be read might be a second identity.
                        GeneralName::Invalid(tag, _) => {
                            return Err(CertificateError::Malformed(format!(
                                "a subject alternative name with tag {} cannot be read",
                                tag.0
                            )));
                        }
                        _ => {}
                    }
                }
            }
            // So might one in an extension that cannot be read.
            ParsedExtension::ParseError { error } => {
                return Err(CertificateError::Malformed(error.to_string()));
            }
            _ => {}
        }
    }
    Ok(names)
}

/// Identifier of the key that signed, of a certificate's or a revocation list's extensions.
pub(crate) fn authority_key(extensions: &[X509Extension<'_>]) -> Option<Vec<u8>> {
    let mut extensions = extensions.iter();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            authority.key_identifier.as_ref().map(|id| id.0.to_vec())
        }
        _ => None,
    })
}

/// All IP names of a certificate, IPv4-mapped ones as the IPv4 addresses they are.
fn ip_addresses(certificate: &X509Certificate<'_>) -> Result<Vec<IpAddr>, CertificateError> {
    let malformed = |problem: String| CertificateError::Malformed(problem);
    let Some(alternatives) = certificate
        .subject_alternative_name()
        .map_err(|error| malformed(error.to_string()))?
    else {
        return Ok(Vec::new());
    };
    let names = alternatives.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => Some(*bytes),
            _ => None,
        })
        .map(|bytes| {
            <[u8; 4]>::try_from(bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
                .map(|address| address.to_canonical())
                .map_err(|_| malformed(format!("an IP name of {} bytes", bytes.len())))
        })
        .collect()
}

/// X.509-SVID sections 4.1 to 4.3: a leaf is no CA, signs digitally, and signs no certificates.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    if certificate.is_ca() {
        return Err(CertificateError::KeyUsage(
            "it is a CA certificate, not a workload's",
        ));
    }
    let usage = certificate
        .key_usage()
        .map_err(|error| CertificateError::Malformed(error.to_string()))?
        .ok_or(CertificateError::KeyUsage(
            "it has no key usage; digitalSignature is needed",
        ))?
        .value;
    if !usage.digital_signature() {
        return Err(CertificateError::KeyUsage(
            "its key usage lacks digitalSignature",
        ));
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(CertificateError::KeyUsage(
            "its key usage lets it sign certificates or CRLs",
        ));
    }
    Ok(())
}
