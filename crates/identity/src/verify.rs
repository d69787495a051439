//! The check of a peer, the same for both TLS roles. It runs inside the handshake, before any
//! application byte: chain, validity, key usage, exactly one SPIFFE ID of an accepted trust
//! domain, and, for the side that dialled, whether that is who should answer there.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::TrustBundle;
use crate::certificate::{CertificateError, CertificateFacts};
use crate::peer_error::PeerError;
use crate::profile::Profile;
use crate::spiffe::{SpiffeIdPattern, TrustDomain};

/// What the side that dialled demands of the peer beside membership in the mesh.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Naming {
    /// An IP name of its certificate is the address that was dialled.
    Address,
    /// Its SPIFFE ID is one of these.
    Identity(Vec<SpiffeIdPattern>),
    /// Nothing more.
    TrustDomain,
}

/// Which side of the handshake the peer is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// Checks peers against one trust bundle.
#[derive(Debug)]
pub struct Verifier {
    bundle: Arc<TrustBundle>,
    trust_domains: Vec<TrustDomain>,
    algorithms: WebPkiSupportedAlgorithms,
    schemes: &'static [SignatureScheme],
}

impl Verifier {
    /// A verifier for peers of `trust_domains` whose chains end in `bundle`.
    pub fn new(bundle: Arc<TrustBundle>, trust_domains: Vec<TrustDomain>, profile: &'static Profile) -> Self {
        Self {
            bundle,
            trust_domains,
            algorithms: profile.provider().signature_verification_algorithms,
            schemes: profile.signature_schemes,
        }
    }

    /// Checks a chain, leaf first, at the time `now`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<CertificateFacts, PeerError> {
        let facts = CertificateFacts::of(leaf);
        self.verify_chain(leaf, intermediates, role, now, facts.as_ref().ok())?;
        let facts = facts?;
        let domain = facts.spiffe_id.trust_domain();
        if !self.trust_domains.iter().any(|accepted| accepted.as_str() == domain) {
            return Err(PeerError::TrustDomain {
                found: facts.spiffe_id.to_string(),
                accepted: join(&self.trust_domains),
            });
        }
        Ok(facts)
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
        facts: Option<&CertificateFacts>,
    ) -> Result<(), PeerError> {
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| PeerError::Malformed(error.to_string()))?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let anchors = self.bundle.anchors_for(facts.map(|facts| facts.spiffe_id.trust_domain()));
        end_entity
            .verify_for_usage(self.algorithms.all, &anchors, intermediates, now, usage, None, None)
            .map(|_| ())
            .map_err(|error| chain_error(&error, facts))
    }
}

/// The dialling side's check of who answered.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) naming: Naming,
}

impl ServerVerifier {
    fn check_naming(&self, facts: &CertificateFacts, dialled: &ServerName<'_>) -> Result<(), PeerError> {
        let peer = || facts.spiffe_id.to_string();
        match &self.naming {
            Naming::TrustDomain => Ok(()),
            Naming::Identity(expected) if expected.iter().any(|pattern| pattern.matches(&facts.spiffe_id)) => Ok(()),
            Naming::Identity(expected) => Err(PeerError::Identity {
                peer: peer(),
                expected: join(expected),
            }),
            Naming::Address => {
                let ServerName::IpAddress(dialled) = dialled else {
                    return Err(PeerError::Malformed("no address was dialled".to_owned()));
                };
                let dialled = IpAddr::from(*dialled).to_canonical();
                if facts.ip_addresses.contains(&dialled) {
                    return Ok(());
                }
                Err(PeerError::Address {
                    peer: peer(),
                    dialled,
                    named: if facts.ip_addresses.is_empty() {
                        "no address".to_owned()
                    } else {
                        join(&facts.ip_addresses)
                    },
                })
            }
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let facts = self.verifier.verify(leaf, intermediates, Role::Server, now)?;
        self.check_naming(&facts, dialled)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.verifier.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.schemes.to_vec()
    }
}

/// The accepting side's check of who dialled.
#[derive(Debug)]
pub(crate) struct ClientVerifier(pub(crate) Arc<Verifier>);

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever may connect knows which certificate to use; others need not learn our CAs.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.verify(leaf, intermediates, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes.to_vec()
    }
}

impl From<CertificateError> for PeerError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Malformed(problem) => Self::Malformed(problem),
            CertificateError::UriNames { found } => Self::UriNames { found },
            CertificateError::NotSpiffeId { found, problem } => Self::NotSpiffeId { found, problem },
            CertificateError::KeyUsage(problem) => Self::KeyUsage(problem.to_owned()),
        }
    }
}

fn chain_error(error: &webpki::Error, facts: Option<&CertificateFacts>) -> PeerError {
    match error {
        webpki::Error::CertExpired { time, not_after } => PeerError::Expired {
            not_after: instant(*not_after),
            now: instant(*time),
        },
        webpki::Error::CertNotValidYet { time, not_before } => PeerError::NotYetValid {
            not_before: instant(*not_before),
            now: instant(*time),
        },
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => PeerError::UnknownIssuer {
            issuer: facts.map_or_else(|| "unknown".to_owned(), |facts| facts.issuer.clone()),
        },
        webpki::Error::CaUsedAsEndEntity => PeerError::KeyUsage("it is a CA certificate, not a workload's".to_owned()),
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            PeerError::KeyUsage("its extended key usage lacks clientAuth or serverAuth".to_owned())
        }
        other => PeerError::Chain(other.to_string()),
    }
}

fn instant(time: UnixTime) -> OffsetDateTime {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn only_tls13() -> rustls::Error {
    rustls::Error::InvalidCertificate(TlsCertificateError::BadSignature)
}

fn join<T: fmt::Display>(values: &[T]) -> String {
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
