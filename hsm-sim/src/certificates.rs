//! The CA and the certificates it issues (X.509-SVID), its key in the token like the others.

use std::net::IpAddr;
use std::path::PathBuf;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use sealwire_identity::RemoteKey;
use serde::Serialize;
use time::{Duration, OffsetDateTime};

use crate::store::{CA, Error, Store};
use crate::tokens::{KeyAlgorithm, NewKey};

/// How long the CA lives.
const CA_LIFETIME: Duration = Duration::days(3650);

/// Clocks differ: certificates begin a little before they are issued.
const BACKDATED: Duration = Duration::minutes(1);

/// Whose public key is certified.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A key in a token.
    Key {
        /// Label of the token.
        token: String,
        /// CKA_LABEL of the key.
        label: String,
        /// CKA_ID of the key, where the label alone is that of several.
        id: Option<Vec<u8>>,
    },
    /// The key of a request (RFC 2986) in PEM. Only its key is taken, not its names.
    Request(String),
}

/// A certificate that is to be issued.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Whose key.
    pub subject: Subject,
    /// URI names. An X.509-SVID has exactly one; tests need others.
    pub uris: Vec<String>,
    /// Addresses that the workload may answer for.
    pub addresses: Vec<IpAddr>,
    /// Begin; a minute ago where none is given.
    pub not_before: Option<OffsetDateTime>,
    /// End.
    pub not_after: OffsetDateTime,
}

/// A certificate that was issued.
#[derive(Debug, Serialize)]
pub struct Certified {
    /// Where it was written.
    pub certificate: Option<PathBuf>,
    /// The certificate in PEM.
    #[serde(skip)]
    pub pem: String,
    /// Its URI names.
    pub spiffe_id: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Its begin.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Its end.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Its addresses.
    pub ip_addresses: Vec<IpAddr>,
}

impl Store {
    /// Issues a certificate, signed by the CA's key in its token.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn issue(&self, issue: &Issue) -> Result<Certified, Error> {
        let mut serial = [0; 16];
        rustix::rand::getrandom(&mut serial, rustix::rand::GetRandomFlags::empty())
            .map_err(failed)?;
        // Positive and of full length (RFC 5280 section 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        let not_before = issue
            .not_before
            .unwrap_or_else(|| OffsetDateTime::now_utc() - BACKDATED);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = not_before;
        params.not_after = issue.not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = names(issue)?;

        let ca_key = self.open_key(CA, CA)?;
        let ca_pem = std::fs::read_to_string(self.ca_certificate()).map_err(failed)?;
        let remote = RemoteKey::new(ca_key.as_ref()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, remote).map_err(failed)?;
        let certificate = match &issue.subject {
            Subject::Key { token, label, id } => {
                let key = self.open_key_with(token, label, id.as_deref())?;
                let public =
                    SubjectPublicKeyInfo::from_der(key.public_key().spki_der()).map_err(failed)?;
                params.signed_by(&public, &issuer)
            }
            Subject::Request(pem) => {
                let mut request = CertificateSigningRequestParams::from_pem(pem).map_err(failed)?;
                request.params = params;
                request.signed_by(&issuer)
            }
        }
        .map_err(failed)?;
        Ok(Certified {
            certificate: None,
            pem: certificate.pem(),
            spiffe_id: issue.uris.join(" "),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before,
            not_after: issue.not_after,
            ip_addresses: issue.addresses.clone(),
        })
    }

    /// Makes the CA's key in its token and certifies it by itself. PEM.
    pub(crate) fn make_ca(&self, trust_domain: &str) -> Result<String, Error> {
        self.make_key(&NewKey {
            token: CA.to_owned(),
            label: CA.to_owned(),
            id: None,
            algorithm: KeyAlgorithm::P256,
            allow_duplicate: false,
        })?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{trust_domain} CA"));
        params.not_before = now - BACKDATED;
        params.not_after = now + CA_LIFETIME;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The CA vouches for this trust domain alone (X.509-SVID section 3.1).
        params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{trust_domain}"))?)];
        let key = self.open_key(CA, CA)?;
        let remote = RemoteKey::new(key.as_ref()).map_err(failed)?;
        Ok(params.self_signed(&remote).map_err(failed)?.pem())
    }
}

fn names(issue: &Issue) -> Result<Vec<SanType>, Error> {
    let uris = issue.uris.iter().map(|uri| Ok(SanType::URI(ia5(uri)?)));
    let addresses = issue
        .addresses
        .iter()
        .map(|address| Ok(SanType::IpAddress(*address)));
    uris.chain(addresses).collect()
}

fn ia5(text: &str) -> Result<Ia5String, Error> {
    text.try_into().map_err(failed)
}

fn failed(error: impl ToString) -> Error {
    Error::Certificate(error.to_string())
}
