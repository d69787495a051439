//! One certificate revocation list (RFC 5280 section 5): what it says about itself, and whether a
//! root of the bundle has signed it. What it says about certificates is read by webpki, which
//! verifies its signature again whenever it does.

use std::cmp::Ordering;
use std::sync::Arc;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Reader, SliceReader};
use rustls_pki_types::TrustAnchor;
use rustls_pki_types::pem::{PemObject, SectionKind};
use sealwire_keys::pem_problem;
use serde::Serialize;
use time::OffsetDateTime;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::bundle::TrustBundle;
use crate::certificate::{authority_key, bounded_name};
use crate::profile::Profile;

/// Most lists in one file.
const MAX_LISTS: usize = 100;

/// A revocation list.
#[derive(Debug)]
pub struct Crl {
    pub(super) list: CertRevocationList<'static>,
    pub(super) scope: Scope,
    facts: CrlFacts,
}

/// What a list says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct CrlFacts {
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// CRL number, in hexadecimal; the lists of an issuer count up.
    pub number: Option<String>,
    /// When it was issued.
    #[serde(with = "time::serde::rfc3339")]
    pub this_update: OffsetDateTime,
    /// When the next is due.
    #[serde(with = "time::serde::rfc3339")]
    pub next_update: OffsetDateTime,
    /// How many certificates it revokes.
    pub entries: usize,
}

/// What a list speaks for. Of lists that speak for the same, the newest counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Scope {
    /// The issuer's name in DER.
    pub(super) issuer: Vec<u8>,
    /// Identifier of its key, to tell keys of one name apart.
    pub(super) authority: Option<Vec<u8>>,
    distribution_point: Option<Vec<u8>>,
}

/// Why a list is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CrlError {
    /// No list in it.
    #[error("no CRL in it: put X509 CRL blocks in PEM there, or one CRL in DER")]
    Empty,
    /// Not PEM.
    #[error("not PEM: {0}: put X509 CRL blocks into it, or one CRL in DER")]
    Pem(&'static str),
    /// More lists than any mesh has issuers.
    #[error("more than {MAX_LISTS} CRLs: keep one for each issuer in force")]
    TooMany,
    /// It cannot be read, or holds what webpki does not support, such as a delta CRL.
    #[error(
        "CRL {number}: {problem}: have a complete CRL issued (version 2, with CRL number and nextUpdate, neither delta nor indirect)"
    )]
    Malformed {
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// It names a root of the bundle as its issuer, whose key did not sign it.
    #[error(
        "the CRL of {issuer:?} is not signed by that CA in identity.bundle with an algorithm that the TLS profile allows: fetch it anew, or correct the bundle"
    )]
    Signature {
        /// Issuer named by the list.
        issuer: String,
    },
    /// One that is in force is newer.
    #[error(
        "the CRL of {issuer:?} has number {number} of {this_update}, but number {newer} is in force: somebody has put back an old one, or issues with an old counter"
    )]
    Older {
        /// Issuer of both.
        issuer: String,
        /// Number of the one that is refused.
        number: String,
        /// When that was issued.
        this_update: OffsetDateTime,
        /// Number of the one that stays in force.
        newer: String,
    },
}

impl Crl {
    /// Reads all lists of a file: PEM with one or several, or one in DER. A list whose issuer is a
    /// root of the bundle has to be signed by it. That of a CA below is verified when a chain has
    /// shown that CA's key, as every list is.
    ///
    /// # Errors
    /// See [`CrlError`]. One bad list refuses them all.
    pub fn read_all(
        content: &[u8],
        bundle: &TrustBundle,
        profile: &Profile,
    ) -> Result<Vec<Arc<Self>>, CrlError> {
        let mut lists = Vec::new();
        let mut add = |der: &[u8]| {
            let number = lists.len() + 1;
            if number > MAX_LISTS {
                return Err(CrlError::TooMany);
            }
            let list =
                Self::read(der).map_err(|problem| CrlError::Malformed { number, problem })?;
            list.check_signature(der, bundle, profile)?;
            lists.push(Arc::new(list));
            Ok(())
        };
        // A SEQUENCE with its length in bytes of its own, as no text begins.
        if matches!(content, [0x30, 0x81..=0x84, ..]) {
            add(content)?;
        } else {
            for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(content) {
                let (kind, der) = section.map_err(|error| CrlError::Pem(pem_problem(&error)))?;
                if kind == SectionKind::Crl {
                    add(&der)?;
                }
            }
        }
        if lists.is_empty() {
            return Err(CrlError::Empty);
        }
        Ok(lists)
    }

    /// What it says about itself.
    pub fn facts(&self) -> &CrlFacts {
        &self.facts
    }

    /// Checks that it is older than none of `others` that speaks for the same.
    ///
    /// # Errors
    /// [`CrlError::Older`].
    pub fn check_order(&self, others: &[Arc<Self>]) -> Result<(), CrlError> {
        let newer = others
            .iter()
            .find(|other| other.scope == self.scope && self.order(other).is_lt());
        let text = |facts: &CrlFacts| facts.number.clone().unwrap_or_else(|| "none".to_owned());
        newer.map_or(Ok(()), |newer| {
            Err(CrlError::Older {
                issuer: self.facts.issuer.clone(),
                number: text(&self.facts),
                this_update: self.facts.this_update,
                newer: text(&newer.facts),
            })
        })
    }

    /// By number (RFC 5280 section 5.2.3), and by time where that decides nothing.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let number = |list: &Self| {
            list.facts
                .number
                .as_ref()
                .map(|text| (text.len(), text.clone()))
        };
        let by_number = match (number(self), number(other)) {
            (Some(ours), Some(theirs)) => ours.cmp(&theirs),
            _ => Ordering::Equal,
        };
        by_number.then(self.facts.this_update.cmp(&other.facts.this_update))
    }

    fn read(der: &[u8]) -> Result<Self, String> {
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let next_update = parsed.next_update().ok_or("it has no nextUpdate")?;
        let list = CertRevocationList::Owned(list);
        Ok(Self {
            scope: Scope {
                issuer: parsed.issuer().as_raw().to_vec(),
                authority: authority_key(parsed.extensions()),
                distribution_point: list.issuing_distribution_point().map(<[u8]>::to_vec),
            },
            facts: CrlFacts {
                issuer: bounded_name(parsed.issuer()),
                number: parsed.crl_number().map(|number| format!("{number:x}")),
                this_update: parsed.last_update().to_datetime(),
                next_update: next_update.to_datetime(),
                entries: parsed.iter_revoked_certificates().count(),
            },
            list,
        })
    }

    fn check_signature(
        &self,
        der: &[u8],
        bundle: &TrustBundle,
        profile: &Profile,
    ) -> Result<(), CrlError> {
        let named: Vec<_> = bundle
            .anchors()
            .filter(|anchor| anchor.subject.as_ref() == self.list.issuer())
            .collect();
        if named.is_empty() {
            return Ok(());
        }
        let parts = Signed::read(der).map_err(|error| CrlError::Malformed {
            number: 1,
            problem: error.to_string(),
        })?;
        if named.iter().any(|anchor| parts.is_by(anchor, profile)) {
            return Ok(());
        }
        Err(CrlError::Signature {
            issuer: self.facts.issuer.clone(),
        })
    }
}

/// What is signed, how, and the signature (RFC 5280 section 5.1.1).
struct Signed<'a> {
    content: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> der::Result<Self> {
        AnyRef::from_der(der)?.sequence(|reader| {
            Ok(Self {
                content: reader.tlv_bytes()?,
                algorithm: AnyRef::decode(reader)?.value(),
                signature: BitStringRef::decode(reader)?.raw_bytes(),
            })
        })
    }

    fn is_by(&self, anchor: &TrustAnchor<'_>, profile: &Profile) -> bool {
        let Ok((key_algorithm, key)) = public_key(anchor) else {
            return false;
        };
        let algorithms = profile.provider().signature_verification_algorithms.all;
        algorithms.iter().any(|algorithm| {
            algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm
                    .verify_signature(key, self.content, self.signature)
                    .is_ok()
        })
    }
}

/// Algorithm and bits of an anchor's key.
fn public_key<'a>(anchor: &'a TrustAnchor<'_>) -> der::Result<(&'a [u8], &'a [u8])> {
    let mut reader = SliceReader::new(&anchor.subject_public_key_info)?;
    let algorithm = AnyRef::decode(&mut reader)?.value();
    let key = BitStringRef::decode(&mut reader)?.raw_bytes();
    Ok((algorithm, key))
}
