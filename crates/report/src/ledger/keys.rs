//! Whose keys and certificates were in use, and what the keys' homes said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealwire_evidence::record::{Certificate, CertificateEvent, Custody};
use time::OffsetDateTime;

use super::Names;
use crate::account::{CertificateAccount, Claims, Home, KeyAccount};
use crate::period::Period;

/// See the module. Grows with certificates: their lifetimes bound it.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By the SHA-256 of their public halves.
    keys: BTreeMap<Arc<str>, KeyAccount>,
    /// Keys that some custody record speaks of, at whatever time.
    known: BTreeSet<Arc<str>>,
    certificates: BTreeMap<Serial, (CertificateAccount, BTreeSet<u32>)>,
}

/// Issuer and serial number.
type Serial = (Arc<str>, Arc<str>);

/// What they come to.
#[derive(Debug)]
pub(crate) struct KeysTotal {
    pub(crate) keys: Vec<KeyAccount>,
    pub(crate) keys_unknown: BTreeSet<Arc<str>>,
    pub(crate) certificates: Vec<CertificateAccount>,
    pub(crate) certificates_unknown: BTreeSet<Arc<str>>,
}

impl Keys {
    /// Somebody spoke of a key, in the period or before. Gives its name.
    pub(crate) fn known(&mut self, custody: &Custody, names: &mut Names) -> Arc<str> {
        let key = names.get(&custody.public_key_sha256);
        self.known.insert(key.clone());
        key
    }

    /// A custody record, of the period or from before it: what a home said last before counts for
    /// the period as well.
    pub(crate) fn custody(
        &mut self,
        custody: &Custody,
        at: OffsetDateTime,
        within: bool,
        identity: &Arc<str>,
        names: &mut Names,
    ) {
        let claims = Claims::of(custody);
        let sha256 = names.get(&custody.public_key_sha256);
        let new = || KeyAccount {
            public_key_sha256: sha256.clone(),
            reference: custody.reference.clone(),
            provider: custody.provider.clone(),
            algorithm: custody.algorithm.clone(),
            token: custody.token.clone(),
            transit: custody.transit.clone(),
            claims,
            identities: BTreeSet::new(),
            proofs: 0,
            proofs_failed: 0,
            attestations: 0,
            first: at,
            last: at,
        };
        let key = self.keys.entry(sha256.clone()).or_insert_with(new);
        if !within {
            if at >= key.last && key.proofs + key.proofs_failed == 0 {
                let identities = std::mem::take(&mut key.identities);
                *key = KeyAccount {
                    identities,
                    ..new()
                };
            }
            if !identity.is_empty() {
                key.identities.insert(identity.clone());
            }
            return;
        }
        // The same key in two homes is as safe as in the weaker one.
        if Home::stated(custody) < key.home() {
            key.provider.clone_from(&custody.provider);
            key.reference.clone_from(&custody.reference);
            key.token.clone_from(&custody.token);
            if key.transit.is_none() || custody.transit.is_none() {
                key.transit.clone_from(&custody.transit);
            }
        }
        key.claims = key.claims.worst(claims);
        if let (Some(known), Some(now)) = (&mut key.transit, &custody.transit) {
            known.exportable |= now.exportable;
            known.allow_plaintext_backup |= now.allow_plaintext_backup;
            known.latest_version = known.latest_version.max(now.latest_version);
        }
        if !identity.is_empty() {
            key.identities.insert(identity.clone());
        }
        if custody.check().is_ok() {
            key.proofs += 1;
        } else {
            key.proofs_failed += 1;
        }
        key.attestations += u64::from(custody.attestation.is_some());
        key.first = key.first.min(at);
        key.last = key.last.max(at);
    }

    /// A certificate record; `at` is none where it comes from records that were dropped.
    pub(crate) fn certificate(
        &mut self,
        pod: u32,
        certificate: &Certificate,
        at: Option<OffsetDateTime>,
        names: &mut Names,
    ) {
        let issued = at.unwrap_or_else(|| certificate.not_before.get());
        let serial = names.get(&certificate.serial);
        let id = (names.get(&certificate.issuer), serial.clone());
        let (known, pods) = self.certificates.entry(id).or_insert_with(|| {
            let account = CertificateAccount {
                serial,
                issuer: certificate.issuer.clone(),
                spiffe_id: names.get(&certificate.spiffe_id),
                addresses: certificate
                    .ip_addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                not_before: certificate.not_before.get(),
                not_after: certificate.not_after.get(),
                key: certificate.key.clone(),
                public_key_sha256: names.get(&certificate.public_key_sha256),
                issued,
                revoked: None,
                pods: 0,
            };
            (account, BTreeSet::new())
        });
        pods.insert(pod);
        known.issued = known.issued.min(issued);
        if certificate.event == CertificateEvent::Revoked {
            known.revoked = Some(known.revoked.map_or(issued, |before| before.min(issued)));
        }
    }

    /// Everything has come; `used` are the serial numbers that connections were made with.
    pub(crate) fn finish(
        self,
        period: Period,
        as_of: OffsetDateTime,
        used: &BTreeSet<Arc<str>>,
    ) -> KeysTotal {
        let serials: BTreeSet<&Arc<str>> =
            self.certificates.keys().map(|(_, serial)| serial).collect();
        let certificates_unknown = used
            .iter()
            .filter(|serial| !serials.contains(serial))
            .cloned()
            .collect();
        let certificates: Vec<_> = self
            .certificates
            .into_values()
            .map(|(account, pods)| CertificateAccount {
                pods: u64::try_from(pods.len()).unwrap_or(u64::MAX),
                ..account
            })
            .filter(|certificate| {
                let valid = certificate.not_after > period.from() && certificate.not_before < as_of;
                valid || used.contains(&certificate.serial)
            })
            .collect();
        let certified: BTreeSet<Arc<str>> = certificates
            .iter()
            .map(|certificate| certificate.public_key_sha256.clone())
            .collect();
        let keys_unknown = certified
            .iter()
            .filter(|key| !self.known.contains(*key))
            .cloned()
            .collect();
        let keys = self.keys.into_values().filter(|key| {
            let spoken_of = key.proofs + key.proofs_failed > 0;
            spoken_of || certified.contains(&key.public_key_sha256)
        });
        KeysTotal {
            keys: keys.collect(),
            keys_unknown,
            certificates,
            certificates_unknown,
        }
    }
}
