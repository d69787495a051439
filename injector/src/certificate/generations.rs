//! Generations of the serving certificate. Each has a CA of its own, whose key is thrown away when
//! it has signed: nobody can issue another certificate that the API server would take for ours.
//!
//! A generation is made, told to the API server (its CA joins the bundle), and used only once that
//! has settled; the one before leaves the bundle later still. So at any time every API server
//! trusts whatever any replica serves. All of it is a function of the list and the time.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sealwire_keys::pem_problem;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::CertificateError;

/// By how much a certificate begins before it is made: for clocks that differ.
const BACKDATED: Duration = Duration::from_secs(300);

/// How certificates are made and kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Making {
    /// Names and addresses by which the API server calls.
    pub names: Vec<String>,
    /// For how long a certificate is good.
    pub lifetime: Duration,
    /// From when the API server is told of a CA until a certificate of it is used.
    pub settle: Duration,
}

/// All generations that count, oldest first; as they stand in the Secret.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
#[allow(missing_debug_implementations, reason = "it holds private keys")]
pub struct Generations(Vec<Generation>);

/// One certificate with its CA.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
// Not closed to unknown fields: during an upgrade an older replica reads what a newer one writes.
#[serde(rename_all = "camelCase")]
#[allow(missing_debug_implementations, reason = "it holds a private key")]
pub struct Generation {
    names: Vec<String>,
    ca: String,
    certificate: String,
    key: String,
    #[serde(with = "time::serde::rfc3339")]
    made: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    ends: OffsetDateTime,
    /// Since when the CA is in the API server's bundle.
    #[serde(with = "time::serde::rfc3339::option")]
    trusted: Option<OffsetDateTime>,
}

impl Generations {
    /// What they are to become: with a successor where the newest is to be renewed, without those
    /// that nobody serves any more. None when nothing changes.
    ///
    /// # Errors
    /// [`CertificateError::Make`] when a successor cannot be made.
    pub fn tended(
        &self,
        making: &Making,
        now: OffsetDateTime,
    ) -> Result<Option<Self>, CertificateError> {
        let mut next = self.clone();
        let last = next.0.last();
        if last.is_none_or(|last| last.is_due(now) || last.names != making.names) {
            next.0.push(Generation::make(making, now)?);
        }
        // Replicas have looked again by then.
        let long_settled = |generation: &Generation| generation.is_settled(making.settle * 3, now);
        if let Some(oldest) = next.0.iter().rposition(long_settled) {
            next.0.drain(..oldest);
        }
        Ok((next != *self).then_some(next))
    }

    /// The one to serve: the newest that has settled; without any that is good, the newest.
    pub fn serving(&self, settle: Duration, now: OffsetDateTime) -> Option<&Generation> {
        let usable =
            |generation: &&Generation| generation.is_settled(settle, now) && generation.ends > now;
        self.0.iter().rev().find(usable).or(self.0.last())
    }

    /// The CAs that the API server is to trust, in PEM.
    pub fn bundle(&self) -> String {
        self.0
            .iter()
            .map(|generation| generation.ca.as_str())
            .collect()
    }

    /// As they are once that bundle has been written. None when nothing changes.
    pub fn trusted(&self, now: OffsetDateTime) -> Option<Self> {
        let mut next = self.clone();
        for generation in &mut next.0 {
            generation.trusted.get_or_insert(now);
        }
        (next != *self).then_some(next)
    }
}

impl Generation {
    fn make(making: &Making, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let begins = now - BACKDATED;
        let ends = now + making.lifetime;
        let params = |names: &[String], who: &str| -> Result<CertificateParams, rcgen::Error> {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, who);
            params.not_before = begins;
            params.not_after = ends;
            Ok(params)
        };
        let mut ca = params(&[], "Sealwire injector CA")?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let mut own = params(&making.names, "Sealwire injector")?;
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        own.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Self {
            names: making.names.clone(),
            certificate: own.signed_by(&key, &ca)?.pem(),
            ca: ca.pem(),
            key: key.serialize_pem(),
            made: now,
            ends,
            trusted: None,
        })
    }

    /// What tells it from any other, and is no secret.
    pub fn id(&self) -> &str {
        &self.certificate
    }

    /// When it ends.
    pub fn ends(&self) -> OffsetDateTime {
        self.ends
    }

    /// Its chain and key, for the TLS library.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`] when the Secret holds something else.
    pub fn parsed(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
        parsed(self.certificate.as_bytes(), self.key.as_bytes())
    }

    /// Whether two thirds of its life are over.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.made + (self.ends - self.made) * 2 / 3
    }

    fn is_settled(&self, settle: Duration, now: OffsetDateTime) -> bool {
        self.trusted.is_some_and(|since| since + settle <= now)
    }
}

/// A chain and a key in PEM, for the TLS library.
pub(super) fn parsed(
    chain: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let unusable = |error| CertificateError::Unusable(pem_problem(&error).to_owned());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn making() -> Making {
        Making {
            names: vec!["injector.system.svc".to_owned(), "127.0.0.1".to_owned()],
            lifetime: 30 * DAY,
            settle: SETTLE,
        }
    }

    fn start() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    /// The leader's work at a time: tending, then the bundle.
    fn lead(generations: &mut Generations, now: OffsetDateTime) {
        if let Some(next) = generations.tended(&making(), now).unwrap() {
            *generations = next;
        }
        if let Some(next) = generations.trusted(now) {
            *generations = next;
        }
    }

    fn served(generations: &Generations, now: OffsetDateTime) -> String {
        generations.serving(SETTLE, now).unwrap().ca.clone()
    }

    #[test]
    fn over_a_year_every_certificate_served_has_been_trusted_for_long_enough_and_none_has_ended() {
        let mut generations = Generations::default();
        let mut seen = Vec::new();
        lead(&mut generations, start());
        // Each bundle that was written, with its time.
        let mut bundles = vec![(start(), generations.bundle())];
        for step in 1..365 * 24 * 20_u32 {
            let now = start() + Duration::from_secs(180) * step;
            let before = generations.clone();
            lead(&mut generations, now);
            if bundles.last().unwrap().1 != generations.bundle() {
                bundles.push((now, generations.bundle()));
            }
            // A replica may still go by what it saw last.
            for list in [&before, &generations] {
                let ca = served(list, now);
                assert!(list.serving(SETTLE, now).unwrap().ends > now);
                let since = now - SETTLE;
                let old = bundles.iter().rev().find(|(at, _)| *at <= since);
                let in_bundles = old.is_none_or(|(_, bundle)| bundle.contains(&ca));
                assert!(in_bundles && generations.bundle().contains(&ca), "at {now}");
                if !seen.contains(&ca) {
                    seen.push(ca);
                }
            }
            assert!(generations.0.len() <= 2);
        }
        assert!(
            (17..=20).contains(&seen.len()),
            "{} were served",
            seen.len()
        );
    }

    #[test]
    fn what_the_api_server_was_not_told_of_is_not_served() {
        let mut generations = Generations::default();
        lead(&mut generations, start());
        let first = served(&generations, start());
        let due = start() + 21 * DAY;
        // Made, and the leader ends before it has written the bundle.
        generations = generations.tended(&making(), due).unwrap().unwrap();
        assert_eq!(served(&generations, due + 5 * DAY), first);
        // Another leader goes on.
        lead(&mut generations, due + 5 * DAY);
        assert_eq!(served(&generations, due + 5 * DAY), first);
        assert_ne!(served(&generations, due + 5 * DAY + SETTLE), first);
    }

    #[test]
    fn another_name_makes_another_certificate() {
        let mut generations = Generations::default();
        lead(&mut generations, start());
        let other = Making {
            names: vec!["other.system.svc".to_owned()],
            ..making()
        };
        assert!(generations.tended(&making(), start()).unwrap().is_none());
        assert!(generations.tended(&other, start()).unwrap().is_some());
    }

    #[test]
    fn after_a_long_pause_the_newest_is_served_at_once() {
        let mut generations = Generations::default();
        lead(&mut generations, start());
        let first = served(&generations, start());
        let later = start() + 400 * DAY;
        lead(&mut generations, later);
        assert_ne!(served(&generations, later), first);
    }

    #[test]
    fn what_is_made_serves_and_goes_through_the_secret() {
        let mut generations = Generations::default();
        lead(&mut generations, start());
        let text = serde_json::to_string(&generations).unwrap();
        let again: Generations = serde_json::from_str(&text).unwrap();
        assert!(again == generations);
        let (chain, key) = again.0[0].parsed().unwrap();
        std::sync::Arc::new(super::super::Serving::default())
            .put(chain, key)
            .unwrap();
    }
}
