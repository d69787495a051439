//! The check of a peer, the same for both TLS roles. It runs inside the handshake, before any
//! application byte: chain, validity, key usage, exactly one SPIFFE ID of an accepted trust
//! domain, and, for the side that dialled, whether that is who should answer there.

mod known;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName,
    PeerMisbehaved, SignatureScheme,
};
use sealwire_keys::Algorithm;
use webpki::{EndEntityCert, KeyUsage, RevocationOptions};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::bundle::TrustBundle;
use crate::certificate::{CertificateError, CertificateFacts, bounded_name};
use crate::peer_error::PeerError;
use crate::profile::Profile;
use crate::revocation::{Lists, Revocation, instant};
use crate::spiffe::{SpiffeIdPattern, TrustDomain};
use known::KnownSignatures;

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

impl Naming {
    /// Checks whether a peer that was verified is who should answer at the address `dialled`.
    ///
    /// # Errors
    /// When somebody else has answered.
    pub fn check(&self, facts: &CertificateFacts, dialled: IpAddr) -> Result<(), PeerError> {
        let peer = || facts.spiffe_id.to_string();
        match self {
            Self::TrustDomain => Ok(()),
            Self::Identity(expected)
                if expected
                    .iter()
                    .any(|pattern| pattern.matches(&facts.spiffe_id)) =>
            {
                Ok(())
            }
            Self::Identity(expected) => Err(PeerError::Identity {
                peer: peer(),
                expected: join(expected),
            }),
            Self::Address => {
                let dialled = dialled.to_canonical();
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

/// Which side of the handshake the peer is.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
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
    profile: &'static Profile,
    revocation: Option<Arc<Revocation>>,
    known: KnownSignatures,
}

impl Verifier {
    /// A verifier for peers of `trust_domains` whose chains end in `bundle`.
    pub fn new(
        bundle: Arc<TrustBundle>,
        trust_domains: Vec<TrustDomain>,
        profile: &'static Profile,
    ) -> Self {
        Self {
            bundle,
            trust_domains,
            algorithms: profile.provider().signature_verification_algorithms,
            profile,
            revocation: None,
            known: KnownSignatures::default(),
        }
    }

    /// The same, refusing what was revoked; and, where no list in force says, what may have been.
    pub fn with_revocation(self, revocation: Option<Arc<Revocation>>) -> Self {
        Self { revocation, ..self }
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
        // Whoever is of no accepted trust domain is refused below, whichever root vouches for it.
        let domain = facts.as_ref().ok().and_then(|facts| self.accepted(facts));
        Chain {
            verifier: self,
            leaf,
            intermediates,
            role,
        }
        .verify(domain.map(TrustDomain::as_str), now)?;
        let facts = facts?;
        if domain.is_none() {
            return Err(PeerError::TrustDomain {
                found: facts.spiffe_id.to_string(),
                accepted: join(&self.trust_domains),
            });
        }
        match facts.algorithm {
            Algorithm::Rsa { bits } if bits < self.profile.rsa_bits() => {
                Err(PeerError::KeyUsage(format!(
                    "its key is {}, which the TLS profile {:?} does not allow: give it another key",
                    facts.algorithm, self.profile.name
                )))
            }
            _ => Ok(facts),
        }
    }

    fn accepted(&self, facts: &CertificateFacts) -> Option<&TrustDomain> {
        let domain = facts.spiffe_id.trust_domain();
        self.trust_domains
            .iter()
            .find(|accepted| accepted.as_str() == domain)
    }

    /// rustls offers the schemes but leaves it to us to check that the peer kept to the offer.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.profile.signature_schemes().contains(&signature.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// A chain under verification.
struct Chain<'a> {
    verifier: &'a Verifier,
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    role: Role,
}

impl Chain<'_> {
    /// Checks it against the roots that may vouch for `domain`.
    fn verify(&self, domain: Option<&str>, now: UnixTime) -> Result<(), PeerError> {
        self.run(domain, now, self.lists(Some(now)))
            .map_err(|error| self.explain(&error, domain, now))
    }

    fn lists(&self, now: Option<UnixTime>) -> Option<Lists<'_>> {
        let revocation = self.verifier.revocation.as_ref()?;
        Some(revocation.lists(now))
    }

    fn run(
        &self,
        domain: Option<&str>,
        now: UnixTime,
        lists: Option<Lists<'_>>,
    ) -> Result<(), webpki::Error> {
        let usage = match self.role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let anchors = self.verifier.bundle.anchors_for(domain);
        let remembering = self.verifier.known.around(self.verifier.algorithms.all);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = (remembering.iter())
            .map(|algorithm| algorithm as _)
            .collect();
        let leaf = EndEntityCert::try_from(self.leaf)?;
        let verify = |revocation: Option<RevocationOptions<'_>>| {
            let intermediates = self.intermediates;
            leaf.verify_for_usage(
                &algorithms,
                &anchors,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map(|_| ())
        };
        match lists {
            Some(lists) => lists.run(self.presented(), verify),
            None => verify(None),
        }
    }

    fn presented(&self) -> impl Iterator<Item = &CertificateDer<'_>> {
        std::iter::once(self.leaf).chain(self.intermediates)
    }

    /// Says what an operator has to do about a failure. Nothing here lets a chain pass.
    fn explain(&self, error: &webpki::Error, domain: Option<&str>, now: UnixTime) -> PeerError {
        use webpki::Error;
        match error {
            // webpki looks at the time first, but to renew a stranger's certificate would not help.
            Error::CertExpired { .. } | Error::CertNotValidYet { .. }
                if self.is_strange(domain, now) =>
            {
                PeerError::UnknownIssuer {
                    issuer: self.issuer(),
                }
            }
            Error::CertExpired { time, not_after } => PeerError::Expired {
                not_after: instant(*not_after),
                now: instant(*time),
            },
            Error::CertNotValidYet { time, not_before } => PeerError::NotYetValid {
                not_before: instant(*not_before),
                now: instant(*time),
            },
            Error::UnknownIssuer if domain.is_some() && self.run(None, now, None).is_ok() => {
                PeerError::Chain(format!(
                    "the root it chains to names another trust domain than {} as its own: issue it by a CA of that domain",
                    domain.unwrap_or_default()
                ))
            }
            Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {
                PeerError::UnknownIssuer {
                    issuer: self.issuer(),
                }
            }
            Error::CertRevoked => self.revoked(),
            Error::UnknownRevocationStatus
            | Error::InvalidCrlSignatureForPublicKey
            | Error::UnsupportedCrlSignatureAlgorithmContext(_)
            | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
                self.explain_unknown(domain, now)
            }
            Error::IssuerNotCrlSigner => PeerError::Chain(
                "a CA in it may not sign revocation lists: have that issued anew with cRLSign, or use depth: leaf"
                    .to_owned(),
            ),
            Error::CaUsedAsEndEntity => PeerError::KeyUsage(
                "it is a CA certificate, not a workload's: issue it as an X.509-SVID leaf"
                    .to_owned(),
            ),
            Error::RequiredEkuNotFoundContext(_) => PeerError::KeyUsage(format!(
                "it came from a TLS {}, and its extended key usage lacks {}: issue it with clientAuth and serverAuth",
                if self.role == Role::Client {
                    "client"
                } else {
                    "server"
                },
                if self.role == Role::Client {
                    "clientAuth"
                } else {
                    "serverAuth"
                },
            )),
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                PeerError::Chain(format!(
                    "a CA signed with an algorithm that the TLS profile {:?} does not allow: use another CA, or profile",
                    self.verifier.profile.name
                ))
            }
            Error::BadDer
            | Error::BadDerTime
            | Error::ExtensionValueInvalid
            | Error::MalformedExtensions
            | Error::TrailingData(_)
            | Error::UnsupportedCertVersion => PeerError::Malformed(error.to_string()),
            other => PeerError::Chain(format!("{other}: have it issued anew")),
        }
    }

    /// No list in force says that it is good. One that is not may say that it is not.
    fn explain_unknown(&self, domain: Option<&str>, now: UnixTime) -> PeerError {
        match self.run(domain, now, self.lists(None)) {
            Err(webpki::Error::CertRevoked) => self.revoked(),
            Ok(()) => {
                let revocation = self.verifier.revocation.as_ref();
                let stale = revocation.and_then(|all| all.stale(self.presented(), now));
                stale.unwrap_or_else(|| self.unknown())
            }
            Err(_) => self.unknown(),
        }
    }

    fn revoked(&self) -> PeerError {
        let revocation = self.verifier.revocation.as_ref();
        let entry = revocation.and_then(|revocation| revocation.entry(self.presented()));
        entry.unwrap_or_else(|| PeerError::Chain("a certificate of it was revoked".to_owned()))
    }

    fn unknown(&self) -> PeerError {
        PeerError::RevocationUnknown {
            issuer: self.issuer(),
        }
    }

    /// Whether it would chain to nothing we know even within its own validity.
    fn is_strange(&self, domain: Option<&str>, now: UnixTime) -> bool {
        let Ok((_, leaf)) = X509Certificate::from_der(self.leaf) else {
            return true;
        };
        let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
        let (begin, end) = (
            seconds(leaf.validity().not_before),
            seconds(leaf.validity().not_after),
        );
        let nearest =
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().min(end).max(begin)));
        matches!(
            self.run(domain, nearest, None),
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey)
        )
    }

    /// The issuer that the leaf names.
    fn issuer(&self) -> String {
        match X509Certificate::from_der(self.leaf) {
            Ok((_, leaf)) => bounded_name(leaf.issuer()),
            Err(_) => "unknown".to_owned(),
        }
    }
}

/// The dialling side's check of who answered.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) naming: Naming,
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
        let facts = self
            .verifier
            .verify(leaf, intermediates, Role::Server, now)?;
        let ServerName::IpAddress(dialled) = dialled else {
            return Err(PeerError::Malformed("no address was dialled".to_owned()).into());
        };
        self.naming.check(&facts, (*dialled).into())?;
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
        self.verifier
            .verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.profile.signature_schemes().to_vec()
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
        self.0.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.profile.signature_schemes().to_vec()
    }
}

impl From<CertificateError> for PeerError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Malformed(problem) => Self::Malformed(problem),
            CertificateError::UriNames { found } => Self::UriNames { found },
            CertificateError::NotSpiffeId { found, problem } => {
                Self::NotSpiffeId { found, problem }
            }
            CertificateError::KeyUsage(problem) => {
                Self::KeyUsage(format!("{problem}: issue it as an X.509-SVID leaf"))
            }
        }
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::InvalidCertificate(TlsCertificateError::BadSignature)
}

fn join<T: fmt::Display>(values: &[T]) -> String {
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
