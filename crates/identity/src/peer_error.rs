//! Why a peer is refused: which check failed, with both values.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use time::OffsetDateTime;

/// A check that a peer failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// It presented no certificate.
    #[error("it presented no certificate: only workloads of the mesh may connect")]
    NoCertificate,
    /// Its certificate cannot be read.
    #[error("its certificate is malformed: {0}")]
    Malformed(String),
    /// Its chain does not end in the trust bundle.
    #[error(
        "its certificate, issued by {issuer:?}, does not chain to the trust bundle: add the issuer to identity.bundle if it is to be trusted"
    )]
    UnknownIssuer {
        /// Issuer named by the certificate.
        issuer: String,
    },
    /// The chain breaks another rule of RFC 5280.
    #[error("its certificate chain is not valid: {0}")]
    Chain(String),
    /// The certificate is over.
    #[error("its certificate expired at {not_after}, now is {now}: renew it, or correct the clock")]
    Expired {
        /// End of its validity.
        not_after: OffsetDateTime,
        /// The time here.
        now: OffsetDateTime,
    },
    /// The certificate has not begun.
    #[error("its certificate begins at {not_before}, now is {now}: correct the clock")]
    NotYetValid {
        /// Begin of its validity.
        not_before: OffsetDateTime,
        /// The time here.
        now: OffsetDateTime,
    },
    /// A certificate of its chain was revoked.
    #[error(
        "the certificate with serial number {serial} was revoked by {issuer:?} at {at}: find out why, and have another issued for a new key"
    )]
    Revoked {
        /// Serial number of the certificate, in hexadecimal.
        serial: String,
        /// Issuer of the list that says so.
        issuer: String,
        /// When it was revoked.
        at: OffsetDateTime,
    },
    /// No revocation list speaks for a certificate of its chain.
    #[error(
        "no revocation list in identity.revocation.crls, signed by its issuer {issuer:?}, says whether its certificate was revoked: add that issuer's list"
    )]
    RevocationUnknown {
        /// Issuer named by the certificate.
        issuer: String,
    },
    /// The revocation list that speaks for a certificate of its chain is too old.
    #[error(
        "the revocation list of {issuer:?} should have been replaced by {next_update}, now is {now}: put a newer one in place, or raise identity.revocation.graceSeconds"
    )]
    CrlStale {
        /// Issuer of the list.
        issuer: String,
        /// When the next was due.
        next_update: OffsetDateTime,
        /// The time here.
        now: OffsetDateTime,
    },
    /// It is not meant for this use.
    #[error("its certificate is not meant for this: {0}")]
    KeyUsage(String),
    /// Not exactly one URI among its names.
    #[error(
        "its certificate has {found} URI names, an X.509-SVID has exactly one: issue it with its SPIFFE ID alone"
    )]
    UriNames {
        /// How many there are.
        found: usize,
    },
    /// The URI is no SPIFFE ID of a workload.
    #[error(
        "its URI name {found:?} is no SPIFFE ID of a workload: {problem}: issue it with one such as spiffe://mesh.example/ns/shop/sa/web"
    )]
    NotSpiffeId {
        /// The name.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It belongs to a trust domain that is not accepted.
    #[error(
        "it is {found}, and its trust domain is not among the accepted: {accepted}: add it to identity.trustDomains if it is to be"
    )]
    TrustDomain {
        /// Its SPIFFE ID.
        found: String,
        /// The accepted trust domains.
        accepted: String,
    },
    /// It may not answer for the address that was dialled.
    #[error(
        "{peer} answered at {dialled}, but its certificate names {named}: the address belongs to another workload, or it needs a mesh.services rule"
    )]
    Address {
        /// Its SPIFFE ID.
        peer: String,
        /// The address that was dialled.
        dialled: IpAddr,
        /// The addresses in its certificate.
        named: String,
    },
    /// It is not who is expected there.
    #[error(
        "{peer} answered, expected is {expected}: correct mesh.services, or find out who has taken the address"
    )]
    Identity {
        /// Its SPIFFE ID.
        peer: String,
        /// Who is expected.
        expected: String,
    },
    /// No rule lets it in.
    #[error("{peer} may not connect to port {port}: allow it under inbound.allow, if it is to")]
    NotAllowed {
        /// Its SPIFFE ID.
        peer: String,
        /// The port it wanted.
        port: u16,
    },
}

impl PeerError {
    /// A short, bounded name for metrics and records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed_certificate",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::Chain(_) => "invalid_chain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked { .. } => "revoked",
            Self::RevocationUnknown { .. } => "revocation_unknown",
            Self::CrlStale { .. } => "crl_stale",
            Self::KeyUsage(_) => "key_usage",
            Self::UriNames { .. } => "uri_names",
            Self::NotSpiffeId { .. } => "not_spiffe_id",
            Self::TrustDomain { .. } => "trust_domain",
            Self::Address { .. } => "address",
            Self::Identity { .. } => "identity",
            Self::NotAllowed { .. } => "not_allowed",
        }
    }

    /// Finds the peer's fault in a failed handshake.
    pub fn find(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(&Self::NoCertificate),
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        // As an invalid certificate, so that the peer gets the alert for one.
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}
