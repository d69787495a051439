//! For how long the records of a pod attest where its key was. A custody record speaks for its key
//! from the moment that the key signed until the next one, and for no more than [`FRESH`]. A key
//! that no record speaks of, or no longer does, or that is in a weaker home than the pod's keys were
//! before, is not attested, from the moment that it is in use.

use std::collections::VecDeque;
use std::sync::Arc;

use sealwire_evidence::record::Custody;
use time::{Duration, OffsetDateTime};

use super::losses::Losses;
use crate::account::{CustodyAccount, Home, LossReason};

/// How long a custody record speaks for its key: twice as long as it is until the next, usually.
const FRESH: Duration = Duration::hours(2);

/// Keys of a pod whose last custody record is remembered.
const KEYS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Attested {
    /// What counts.
    from: OffsetDateTime,
    to: OffsetDateTime,
    /// Up to here, all is decided.
    cursor: OffsetDateTime,
    /// The key in use, while the sidecar runs and has one.
    in_use: Option<Arc<str>>,
    /// Keys by their last custody records, youngest last: when they signed, and the home's kind.
    known: VecDeque<(Arc<str>, OffsetDateTime, Home)>,
    /// The best home that a key of this pod was in.
    best: Option<Home>,
    needed: Duration,
    attested: Duration,
    losses: Losses,
}

impl Attested {
    /// Within a span of time.
    pub(crate) fn new((from, to): (OffsetDateTime, OffsetDateTime)) -> Self {
        Self {
            from,
            to,
            cursor: from,
            in_use: None,
            known: VecDeque::new(),
            best: None,
            needed: Duration::ZERO,
            attested: Duration::ZERO,
            losses: Losses::default(),
        }
    }

    /// A run begins: there is no key yet, and the time without a sidecar needed none.
    pub(crate) fn starts(&mut self, at: OffsetDateTime) {
        self.in_use = None;
        self.cursor = self.cursor.max(at);
    }

    /// A run ended, by a record that is proven.
    pub(crate) fn stops(&mut self, at: OffsetDateTime) {
        self.decide(at);
        self.in_use = None;
    }

    /// A certificate came into force, and its key into use.
    pub(crate) fn uses(&mut self, key: Arc<str>, at: OffsetDateTime) {
        self.decide(at);
        if self.in_use.is_none() {
            // Nobody needed a key before.
            self.cursor = self.cursor.max(at);
        }
        self.in_use = Some(key);
    }

    /// A key showed that it was at hand, and its home spoke of it, by a record that is proven.
    pub(crate) fn custody(&mut self, key: &Arc<str>, custody: &Custody, at: OffsetDateTime) {
        self.decide(at);
        let home = Home::stated(custody);
        self.known.retain(|(known, _, _)| known != key);
        if self.known.len() == KEYS {
            self.known.pop_front();
        }
        // A signature that was made long before it was written down is no younger for that.
        let signed = custody.proof.made.get().min(at);
        self.known.push_back((key.clone(), signed, home));
        self.best = self.best.max(Some(home));
        if self.in_use.is_none() {
            self.cursor = self.cursor.max(at);
            self.in_use = Some(key.clone());
        }
    }

    /// A window ends, in which there were connections or not.
    pub(crate) fn window(&mut self, from: OffsetDateTime, to: OffsetDateTime, connected: bool) {
        if self.in_use.is_some() {
            self.decide(to);
        } else if connected {
            // Some key there was.
            let from = from.max(self.cursor).max(self.from);
            let to = to.min(self.to);
            if from < to {
                self.count(from, to, Some(LossReason::NoCustody));
                self.cursor = to;
            }
        }
    }

    /// Everything has come.
    pub(crate) fn finish(self) -> CustodyAccount {
        let losses = self.losses.finish();
        CustodyAccount {
            needed: self.needed,
            attested: self.attested,
            losses: losses.kept,
            losses_count: losses.count,
            longest_lost: losses.longest,
        }
    }

    /// Decides about the time up to then, by what is known now.
    fn decide(&mut self, until: OffsetDateTime) {
        let Some(key) = &self.in_use else { return };
        let (from, to) = (self.cursor.max(self.from), until.min(self.to));
        self.cursor = self.cursor.max(until);
        if from >= to {
            return;
        }
        let known = self.known.iter().find(|(known, _, _)| known == key);
        let Some(&(_, signed, home)) = known else {
            return self.count(from, to, Some(LossReason::NoCustody));
        };
        let stale = (signed + FRESH).clamp(from, to);
        let weaker = Some(home) < self.best;
        if from < stale {
            self.count(from, stale, weaker.then_some(LossReason::WeakerHome));
        }
        if stale < to {
            self.count(stale, to, Some(LossReason::StaleCustody));
        }
    }

    fn count(&mut self, from: OffsetDateTime, to: OffsetDateTime, loss: Option<LossReason>) {
        self.needed += to - from;
        match loss {
            None => self.attested += to - from,
            Some(why) => self.losses.add(from, to, why),
        }
    }
}

#[cfg(test)]
mod tests {
    use sealwire_evidence::record::{Boot, CustodyOccasion, CustodyProof};
    use time::macros::datetime;

    use super::*;

    fn at(minutes: i64) -> OffsetDateTime {
        datetime!(2026-11-25 00:00 UTC) + Duration::minutes(minutes)
    }

    /// What a home says at that time, of a key that can leave or not.
    fn said(minutes: i64, extractable: bool) -> Custody {
        Custody {
            occasion: CustodyOccasion::Periodic,
            reference: "pkcs11:token=web;object=web".to_owned(),
            provider: "pkcs11".to_owned(),
            algorithm: "ECDSA P-256".to_owned(),
            schemes: Vec::new(),
            public_key_sha256: "00".repeat(32),
            public_key: String::new(),
            token: None,
            transit: None,
            sensitive: Some(true),
            always_sensitive: Some(true),
            extractable: Some(extractable),
            never_extractable: Some(!extractable),
            local: Some(true),
            proof: CustodyProof {
                boot: Boot::new([1; 16]),
                nonce: "00".repeat(16),
                made: at(minutes).into(),
                scheme: "ecdsa_secp256r1_sha256".to_owned(),
                signature: String::new(),
            },
            attestation: None,
        }
    }

    /// Ten hours of a pod that has a key from the first minute on.
    fn pod(custody: &[(i64, bool)]) -> CustodyAccount {
        let key: Arc<str> = Arc::from("key");
        let mut attested = Attested::new((at(0), at(600)));
        attested.starts(at(0));
        let mut told = custody.iter().peekable();
        attested.uses(key.clone(), at(1));
        for minute in 1..600 {
            while let Some((_, extractable)) = told.next_if(|(when, _)| *when == minute) {
                attested.custody(&key, &said(minute, *extractable), at(minute));
            }
            attested.window(at(minute), at(minute + 1), false);
        }
        attested.finish()
    }

    fn hourly() -> Vec<(i64, bool)> {
        (0..10).map(|hour| (hour * 60 + 1, false)).collect()
    }

    #[test]
    fn a_key_whose_home_speaks_every_hour_is_attested_all_the_time_that_it_is_in_use() {
        let pod = pod(&hourly());
        assert_eq!(pod.needed, Duration::minutes(599));
        assert_eq!(pod.attested, pod.needed);
    }

    #[test]
    fn a_key_that_no_record_speaks_of_is_not() {
        let pod = pod(&[]);
        assert_eq!(pod.attested, Duration::ZERO);
        assert_eq!(pod.losses[0].why, LossReason::NoCustody);
        assert_eq!(pod.longest_lost, Duration::minutes(599));
    }

    #[test]
    fn what_a_home_said_is_too_old_after_two_hours() {
        let pod = pod(&[
            (1, false),
            (301, false),
            (361, false),
            (421, false),
            (481, false),
        ]);
        assert_eq!(pod.losses.len(), 1, "{:?}", pod.losses);
        let lost = &pod.losses[0];
        assert_eq!(
            (lost.from, lost.to, lost.why),
            (at(121), at(301), LossReason::StaleCustody)
        );
    }

    #[test]
    fn a_signature_that_is_written_down_again_is_no_younger_for_that() {
        let key: Arc<str> = Arc::from("key");
        let mut attested = Attested::new((at(0), at(600)));
        attested.uses(key.clone(), at(0));
        for hour in 0..10 {
            attested.custody(&key, &said(0, false), at(hour * 60));
            attested.window(at(hour * 60), at(hour * 60 + 60), false);
        }
        assert_eq!(attested.finish().attested, Duration::hours(2));
    }

    #[test]
    fn a_key_that_can_leave_where_one_could_not_is_in_a_weaker_home() {
        let mut told = hourly();
        told[5].1 = true;
        let pod = pod(&told);
        assert_eq!(pod.losses.len(), 1, "{:?}", pod.losses);
        let lost = &pod.losses[0];
        assert_eq!(
            (lost.from, lost.to, lost.why),
            (at(301), at(361), LossReason::WeakerHome)
        );
    }

    #[test]
    fn a_new_key_is_attested_from_its_own_record_on() {
        let (old, new): (Arc<str>, Arc<str>) = (Arc::from("old"), Arc::from("new"));
        let mut attested = Attested::new((at(0), at(60)));
        attested.uses(old.clone(), at(0));
        attested.custody(&old, &said(0, false), at(0));
        attested.uses(new.clone(), at(20));
        attested.custody(&new, &said(30, false), at(30));
        attested.window(at(0), at(60), true);
        let pod = attested.finish();
        assert_eq!(
            (pod.needed, pod.attested),
            (Duration::HOUR, Duration::minutes(50))
        );
        assert_eq!((pod.losses[0].from, pod.losses[0].to), (at(20), at(30)));
    }

    #[test]
    fn the_time_without_a_sidecar_needs_no_key() {
        let key: Arc<str> = Arc::from("key");
        let mut attested = Attested::new((at(0), at(600)));
        attested.uses(key.clone(), at(0));
        attested.custody(&key, &said(0, false), at(0));
        attested.stops(at(60));
        attested.starts(at(400));
        attested.uses(key.clone(), at(401));
        attested.custody(&key, &said(401, false), at(401));
        attested.window(at(400), at(420), false);
        let pod = attested.finish();
        assert_eq!(
            (pod.needed, pod.attested),
            (Duration::minutes(79), Duration::minutes(79))
        );
    }
}
