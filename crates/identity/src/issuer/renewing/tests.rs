//! When certificates are asked for and put in force, by an authority that does as it is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::testing::{Ca, Kind, Leaf, WEB, open};

/// An authority that issues certificates of a given life, as long as it is told to.
struct Fake {
    ca: Ca,
    pair: rcgen::KeyPair,
    seconds: i64,
    up: AtomicBool,
    roots: AtomicU64,
    /// Roots that a bundle has to have for what is issued to be accepted.
    needed: AtomicU64,
    /// The public key that gets no certificate.
    refused: Mutex<String>,
    asked: AtomicU64,
    /// As long as it is locked nothing is issued.
    hold: Mutex<()>,
}

impl Fake {
    fn new(seconds: i64) -> (Arc<Self>, Arc<dyn PrivateKey>) {
        let pair = Kind::P256.generate();
        let key = open(&pair);
        let fake = Self {
            ca: Ca::new("root"),
            pair,
            seconds,
            up: AtomicBool::new(true),
            roots: AtomicU64::new(1),
            needed: AtomicU64::new(1),
            refused: Mutex::default(),
            asked: AtomicU64::new(0),
            hold: Mutex::default(),
        };
        (Arc::new(fake), key)
    }
}

impl Authority for Arc<Fake> {
    fn name(&self) -> &str {
        "fake"
    }

    fn issue(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.hold.lock().unwrap());
        if !self.up.load(Ordering::Relaxed) {
            return Err(IssueError::Pending("the authority is away".to_owned()));
        }
        if *self.refused.lock().unwrap() == key.public_key().fingerprint() {
            return Err(IssueError::Pending("it is refused".to_owned()));
        }
        let now = OffsetDateTime::now_utc();
        let leaf = Leaf {
            not_before: now,
            not_after: now + time::Duration::seconds(self.seconds),
            ..Leaf::of(WEB)
        };
        let spki = key.public_key().spki_der();
        let public = rcgen::SubjectPublicKeyInfo::from_der(spki).unwrap();
        let chain = vec![self.ca.issue(leaf, &public)];
        let (bundle, bundle_pem) = self.bundle()?;
        Ok(Issued {
            credentials: Arc::new(Credentials::new(key.clone(), chain).unwrap()),
            bundle: Arc::new(bundle),
            bundle_pem,
        })
    }

    fn bundle(&self) -> Result<(TrustBundle, Vec<u8>), IssueError> {
        let times = usize::try_from(self.roots.load(Ordering::Relaxed)).unwrap();
        let pem = self.ca.pem.repeat(times).into_bytes();
        Ok((TrustBundle::from_pem(&pem).unwrap(), pem))
    }

    fn verify(&self, _: &Credentials, bundle: &Arc<TrustBundle>) -> Result<(), IssueError> {
        let needed = usize::try_from(self.needed.load(Ordering::Relaxed)).unwrap();
        if bundle.len() < needed {
            return Err(IssueError::Pending("an unknown issuer".to_owned()));
        }
        Ok(())
    }
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::yield_now();
    }
}

fn renewing(fake: &Arc<Fake>) -> Renewing {
    let config = RenewingConfig {
        least: Duration::from_secs(1),
        bundle_every: Duration::from_millis(50),
    };
    Renewing::start(Box::new(fake.clone()), config).unwrap()
}

/// The leaf as it is: each has a signature of its own.
fn leaf(issuer: &Renewing, key: &Arc<dyn PrivateKey>) -> Option<Vec<u8>> {
    let issued = issuer.obtain(key).ok()?;
    Some(issued.credentials.chain()[0].to_vec())
}

#[test]
fn a_certificate_is_renewed_in_time_and_whoever_asks_never_waits() {
    let (fake, key) = Fake::new(4);
    let issuer = renewing(&fake);
    eventually("the first one", || leaf(&issuer, &key).is_some());
    let first = leaf(&issuer, &key);
    eventually("another", || leaf(&issuer, &key) != first);
    assert!(issuer.renewal().renewals >= 2);
}

#[test]
fn an_authority_that_is_away_is_asked_again_and_what_was_issued_stays() {
    let (fake, key) = Fake::new(3600);
    fake.up.store(false, Ordering::Relaxed);
    let issuer = renewing(&fake);
    eventually("a failure", || {
        assert!(issuer.obtain(&key).is_err());
        issuer.renewal().failures >= 1
    });
    let said = issuer.obtain(&key).unwrap_err().to_string();
    assert!(said.contains("the authority is away"), "{said}");
    fake.up.store(true, Ordering::Relaxed);
    eventually("a certificate", || leaf(&issuer, &key).is_some());
    let first = leaf(&issuer, &key);
    fake.up.store(false, Ordering::Relaxed);
    issuer.renew();
    eventually("another failure", || issuer.renewal().failures >= 1);
    assert_eq!(leaf(&issuer, &key), first);
    assert!(issuer.renewal().problem.is_some());
    assert!(issuer.renewal().next_attempt.is_some());
}

#[test]
fn another_key_gets_a_certificate_of_its_own() {
    let (fake, key) = Fake::new(3600);
    let issuer = renewing(&fake);
    eventually("the first one", || leaf(&issuer, &key).is_some());
    let again = open(&fake.pair);
    assert!(issuer.obtain(&again).is_err(), "not that of another key");
    eventually("its own", || leaf(&issuer, &again).is_some());
}

#[test]
fn a_key_that_comes_while_another_gets_its_certificate_is_not_forgotten() {
    let (fake, key) = Fake::new(3600);
    let issuer = renewing(&fake);
    let held = fake.hold.lock().unwrap();
    assert!(issuer.obtain(&key).is_err());
    eventually("it is asked for", || {
        fake.asked.load(Ordering::Relaxed) == 1
    });
    let next = open(&Kind::P256.generate());
    assert!(issuer.obtain(&next).is_err());
    drop(held);
    eventually("the first", || leaf(&issuer, &key).is_some());
    eventually("the next", || leaf(&issuer, &next).is_some());
}

#[test]
fn a_key_is_renewed_though_the_one_that_follows_gets_no_certificate() {
    let (fake, key) = Fake::new(4);
    let issuer = renewing(&fake);
    eventually("the first one", || leaf(&issuer, &key).is_some());
    let next = open(&Kind::P256.generate());
    next.public_key()
        .fingerprint()
        .clone_into(&mut fake.refused.lock().unwrap());
    let first = leaf(&issuer, &key);
    eventually("another", || {
        assert!(issuer.obtain(&next).is_err());
        leaf(&issuer, &key) != first
    });
    let said = issuer.renewal();
    assert!(said.failures > 0 && said.problem.is_some(), "{said:?}");
}

#[test]
fn a_key_that_is_not_kept_is_let_go() {
    let (fake, key) = Fake::new(3600);
    let issuer = renewing(&fake);
    eventually("a certificate", || leaf(&issuer, &key).is_some());
    let gone = Arc::downgrade(&key);
    let next = open(&Kind::P256.generate());
    issuer.keep(&[&next]);
    drop(key);
    eventually("it is let go", || gone.upgrade().is_none());
}

#[test]
fn a_certificate_of_an_issuer_that_peers_may_not_know_is_held_back() {
    let (fake, key) = Fake::new(3600);
    let config = RenewingConfig {
        least: Duration::from_secs(1),
        bundle_every: Duration::from_secs(600),
    };
    let issuer = Renewing::start(Box::new(fake.clone()), config).unwrap();
    eventually("the first one", || leaf(&issuer, &key).is_some());
    let first = leaf(&issuer, &key);
    // A new issuer that is the default at once, by which peers refuse what it issues for now.
    fake.roots.store(2, Ordering::Relaxed);
    fake.needed.store(2, Ordering::Relaxed);
    issuer.renew();
    eventually("it is trusted here", || {
        issuer.obtain(&key).unwrap().bundle.len() == 2
    });
    assert_eq!(issuer.renewal().renewals, 2);
    assert_eq!(leaf(&issuer, &key), first, "held back");
    let next = issuer.renewal().next_attempt.unwrap() - OffsetDateTime::now_utc();
    assert!(next > Duration::from_secs(500), "{next}");
    // When peers have had their time, it is in force.
    issuer.shared.lock().clients[0].due = Instant::now();
    issuer.shared.changed.notify_all();
    eventually("in force", || leaf(&issuer, &key) != first);
}

#[test]
fn a_life_too_short_to_renew_is_refused() {
    let (fake, key) = Fake::new(3600);
    let config = RenewingConfig {
        least: Duration::from_secs(7200),
        bundle_every: Duration::from_secs(60),
    };
    let issuer = Renewing::start(Box::new(fake), config).unwrap();
    eventually("it is refused", || {
        let said = issuer.obtain(&key).unwrap_err().to_string();
        said.contains("too short") && said.contains("TTL")
    });
}

#[test]
fn a_new_root_is_in_force_without_a_new_certificate() {
    let (fake, key) = Fake::new(3600);
    let issuer = renewing(&fake);
    eventually("the first one", || leaf(&issuer, &key).is_some());
    let first = leaf(&issuer, &key);
    fake.roots.store(2, Ordering::Relaxed);
    eventually("the bundle", || {
        issuer.obtain(&key).unwrap().bundle.len() == 2
    });
    assert_eq!(leaf(&issuer, &key), first);
}
