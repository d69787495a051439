//! Which certificates were taken back: the revocation lists (RFC 5280) that count in an
//! [`Epoch`](crate::Epoch), and how strictly. The [`Verifier`](crate::Verifier) asks here; programs
//! obtain the lists and put them together.
//!
//! It fails closed: a certificate of which no list in force says that it is good is refused, and a
//! list past its time is no list.

mod crl;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use webpki::{
    CertRevocationList, ExpirationPolicy, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::crl::{Crl, CrlError, CrlFacts};
use crate::certificate::authority_key;
use crate::peer_error::PeerError;

/// Which certificates of a chain have to be covered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RevocationDepth {
    /// All but the root.
    Chain,
    /// The workload's own.
    Leaf,
}

/// The revocation lists in force.
#[derive(Debug)]
pub struct Revocation {
    made_of: Vec<Arc<Crl>>,
    /// The newest of each scope.
    lists: Vec<Arc<Crl>>,
    depth: RevocationDepth,
    grace: Duration,
}

impl Revocation {
    /// Takes the lists up, of those that speak for the same the newest alone. A list counts until
    /// its nextUpdate and for `grace` longer.
    pub fn new(made_of: Vec<Arc<Crl>>, depth: RevocationDepth, grace: Duration) -> Self {
        let mut sorted = made_of.clone();
        sorted.sort_by(|a, b| b.order(a));
        let mut lists: Vec<Arc<Crl>> = Vec::new();
        for list in sorted {
            if lists.iter().all(|newer| newer.scope != list.scope) {
                lists.push(list);
            }
        }
        Self {
            made_of,
            lists,
            depth,
            grace,
        }
    }

    /// What the lists in force say about themselves.
    pub fn facts(&self) -> impl Iterator<Item = &CrlFacts> {
        self.lists.iter().map(|list| list.facts())
    }

    /// Whether it was made of these lists.
    pub fn is_of(&self, lists: &[Arc<Crl>]) -> bool {
        self.made_of.len() == lists.len()
            && self
                .made_of
                .iter()
                .zip(lists)
                .all(|(ours, other)| Arc::ptr_eq(ours, other))
    }

    /// When a list stops to count.
    pub fn ends(&self, list: &CrlFacts) -> OffsetDateTime {
        let end = time::Duration::try_from(self.grace)
            .ok()
            .and_then(|grace| list.next_update.checked_add(grace));
        end.unwrap_or(list.next_update)
    }

    /// The lists that count at a time; all of them when none is given.
    pub(crate) fn lists(&self, now: Option<UnixTime>) -> Lists<'_> {
        let now = now.map(instant);
        let fresh = |list: &&Arc<Crl>| now.is_none_or(|now| now < self.ends(list.facts()));
        Lists {
            lists: self.lists.iter().filter(fresh).map(Arc::as_ref).collect(),
            depth: self.depth,
        }
    }

    /// Of the lists that speak for a chain, the one whose successor is due first.
    pub(crate) fn first_due<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
    ) -> Option<&CrlFacts> {
        let covered = match self.depth {
            RevocationDepth::Chain => usize::MAX,
            RevocationDepth::Leaf => 1,
        };
        presented(chain.take(covered))
            .flat_map(|one| self.lists.iter().filter(move |list| one.is_judged_by(list)))
            .map(|list| list.facts())
            .min_by_key(|facts| facts.next_update)
    }

    /// The list that a chain waits for a successor of, if there is one.
    pub(crate) fn stale<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
        now: UnixTime,
    ) -> Option<PeerError> {
        let facts = self.first_due(chain)?;
        let now = instant(now);
        (now >= self.ends(facts)).then(|| PeerError::CrlStale {
            issuer: facts.issuer.clone(),
            next_update: facts.next_update,
            now,
        })
    }

    /// Which of a chain's certificates was revoked, by what the lists say.
    pub(crate) fn entry<'a>(
        &self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
    ) -> Option<PeerError> {
        presented(chain).find_map(|one| {
            let mut lists = self.lists.iter().filter(|list| one.is_judged_by(list));
            lists.find_map(|list| {
                let entry = list.list.find_serial(&one.serial).ok()??;
                Some(PeerError::Revoked {
                    serial: hex(&one.serial),
                    issuer: list.facts().issuer.clone(),
                    at: instant(entry.revocation_date),
                })
            })
        })
    }
}

/// Lists that count for one verification.
pub(crate) struct Lists<'a> {
    lists: Vec<&'a Crl>,
    depth: RevocationDepth,
}

impl Lists<'_> {
    /// Runs a verification with them.
    pub(crate) fn run<'a, T>(
        mut self,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
        verify: impl Fn(Option<webpki::RevocationOptions<'_>>) -> Result<T, webpki::Error>,
    ) -> Result<T, webpki::Error> {
        self.prefer_keys_of(chain);
        let lists: Vec<&CertRevocationList<'_>> =
            self.lists.iter().map(|list| &list.list).collect();
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else {
            // None at all: a chain that is good otherwise is of unknown status.
            return verify(None).and(Err(webpki::Error::UnknownRevocationStatus));
        };
        let options = options
            .with_depth(match self.depth {
                RevocationDepth::Chain => RevocationCheckDepth::Chain,
                RevocationDepth::Leaf => RevocationCheckDepth::EndEntity,
            })
            .with_status_policy(UnknownStatusPolicy::Deny)
            // What has expired has been left out, with grace.
            .with_expiration_policy(ExpirationPolicy::Ignore);
        verify(Some(options.build()))
    }

    /// webpki takes the first list of an issuer's name. While a CA goes from one key to the next
    /// there are two: the one that the chain names by its key comes first.
    fn prefer_keys_of<'a>(&mut self, chain: impl Iterator<Item = &'a CertificateDer<'a>>) {
        if self.lists.len() < 2 {
            return;
        }
        let keys: Vec<_> = presented(chain).filter_map(|one| one.authority).collect();
        self.lists.sort_by_key(|list| {
            let authority = list.scope.authority.as_ref();
            Reverse(authority.is_some_and(|key| keys.contains(key)))
        });
    }
}

/// What a certificate says that lists are looked up by.
struct Presented {
    issuer: Vec<u8>,
    serial: Vec<u8>,
    authority: Option<Vec<u8>>,
}

impl Presented {
    /// Whether a list is of its issuer, and of the same key of it as far as both tell.
    fn is_judged_by(&self, list: &Crl) -> bool {
        let keys = self.authority.as_ref().zip(list.scope.authority.as_ref());
        self.issuer == list.scope.issuer && keys.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

fn presented<'a>(
    chain: impl Iterator<Item = &'a CertificateDer<'a>>,
) -> impl Iterator<Item = Presented> {
    chain.filter_map(|der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Presented {
            issuer: certificate.issuer().as_raw().to_vec(),
            serial: certificate.raw_serial().to_vec(),
            authority: authority_key(certificate.extensions()),
        })
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn instant(time: UnixTime) -> OffsetDateTime {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
