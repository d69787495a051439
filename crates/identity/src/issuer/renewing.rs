//! Certificates from an authority that answers requests: asked for when there is a key, renewed at
//! half of their life, with a thread of its own. Whoever asks for the certificate never waits for
//! the authority; what was issued stays good until something better has been.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sealwire_keys::PrivateKey;
use serde::Serialize;
use time::OffsetDateTime;

use super::{IssueError, Issued, Issuer};
use crate::bundle::TrustBundle;
use crate::certificate::Credentials;

/// Pauses between attempts that fail: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An authority that issues certificates for requests.
pub trait Authority: Send + Sync {
    /// Its name, for errors and health.
    fn name(&self) -> &str;

    /// Has a certificate issued for `key`. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`].
    fn issue(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError>;

    /// Whom to trust now, with the PEM that it came as. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`].
    fn bundle(&self) -> Result<(TrustBundle, Vec<u8>), IssueError>;
}

/// How to renew.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewingConfig {
    /// The shortest life of a certificate that is accepted.
    pub least: Duration,
    /// How often the bundle is asked for. A new issuer has to be in every bundle before it issues:
    /// wait for longer than this between making one and making it the default.
    pub bundle_every: Duration,
}

/// An issuer that asks an authority in time. Its thread ends when it is dropped.
pub struct Renewing {
    shared: Arc<Shared>,
}

struct Shared {
    authority: Box<dyn Authority>,
    config: RenewingConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    key: Option<Arc<dyn PrivateKey>>,
    issued: Option<Issued>,
    /// When the certificate is to be renewed.
    due: Option<Instant>,
    failures: u32,
    renewals: u64,
    problem: Option<String>,
    /// Why the bundle could not be asked for.
    bundle_problem: Option<String>,
    ended: bool,
}

/// How it stands with renewing.
#[derive(Clone, Debug, Serialize)]
pub struct Renewal {
    /// Who issues.
    pub authority: String,
    /// Since when the certificate is good.
    #[serde(with = "time::serde::rfc3339::option")]
    pub issued: Option<OffsetDateTime>,
    /// When the next attempt is due.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt: Option<OffsetDateTime>,
    /// Certificates that were issued.
    pub renewals: u64,
    /// Attempts that failed since the last one that succeeded.
    pub failures: u32,
    /// Why the last one failed.
    pub problem: Option<String>,
}

/// What the thread has to do next.
enum Duty {
    Issue(Arc<dyn PrivateKey>),
    Bundle,
    End,
}

impl Renewing {
    /// Starts the thread; it asks for nothing before there is a key.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(authority: Box<dyn Authority>, config: RenewingConfig) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            authority,
            config,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let work = shared.clone();
        thread::Builder::new()
            .name("sealwire-issuer".to_owned())
            .spawn(move || work.run())?;
        Ok(Self { shared })
    }

    /// Has the certificate renewed now.
    pub fn renew(&self) {
        let mut state = self.shared.lock();
        state.due = Some(Instant::now());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// How it stands. Does not block.
    pub fn renewal(&self) -> Renewal {
        let state = self.shared.lock();
        let now = (Instant::now(), OffsetDateTime::now_utc());
        let facts = state
            .issued
            .as_ref()
            .map(|issued| issued.credentials.facts());
        Renewal {
            authority: self.shared.authority.name().to_owned(),
            issued: facts.map(|facts| facts.not_before),
            next_attempt: state
                .due
                .map(|due| now.1 + due.saturating_duration_since(now.0)),
            renewals: state.renewals,
            failures: state.failures,
            problem: state
                .problem
                .clone()
                .or_else(|| state.bundle_problem.clone()),
        }
    }
}

impl Issuer for Renewing {
    /// What was issued last. For a key that is new here it is asked for, and not waited for.
    fn obtain(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
        let mut state = self.shared.lock();
        if !state
            .key
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, key))
        {
            state.key = Some(key.clone());
            state.due = Some(Instant::now());
            state.failures = 0;
            self.shared.changed.notify_all();
        }
        match &state.issued {
            Some(issued) if Arc::ptr_eq(issued.credentials.key(), key) => Ok(issued.clone()),
            _ => Err(IssueError::Pending(state.problem.clone().unwrap_or_else(
                || format!("{} has not answered yet", self.shared.authority.name()),
            ))),
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut bundle_due = Instant::now() + self.config.bundle_every;
        loop {
            match self.duty(bundle_due) {
                Duty::Issue(key) => self.issue(&key),
                Duty::Bundle => {
                    self.look_at_bundle();
                    bundle_due = Instant::now() + jittered(self.config.bundle_every);
                }
                Duty::End => return,
            }
        }
    }

    fn duty(&self, bundle_due: Instant) -> Duty {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.ended {
                return Duty::End;
            }
            if let (Some(key), Some(due)) = (&state.key, state.due)
                && due <= now
            {
                return Duty::Issue(key.clone());
            }
            if state.issued.is_some() && bundle_due <= now {
                return Duty::Bundle;
            }
            let next = state.due.into_iter().chain([bundle_due]).min();
            let left = next
                .map_or(RETRY.1, |next| next.saturating_duration_since(now))
                .max(Duration::from_millis(10));
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn issue(&self, key: &Arc<dyn PrivateKey>) {
        let outcome = self.authority.issue(key).and_then(|issued| {
            let lifetime = left_of(&issued.credentials);
            if lifetime < self.config.least {
                return Err(IssueError::TooShort {
                    authority: self.authority.name().to_owned(),
                    lifetime,
                    least: self.config.least,
                });
            }
            Ok(issued)
        });
        let mut state = self.lock();
        match outcome {
            Ok(issued) => {
                let facts = issued.credentials.facts();
                tracing::info!(
                    authority = self.authority.name(),
                    serial = facts.serial,
                    issuer = facts.issuer,
                    not_after = %facts.not_after,
                    "certificate issued"
                );
                state.due = Some(Instant::now() + jittered(left_of(&issued.credentials) / 2));
                state.issued = Some(issued);
                state.renewals += 1;
                state.failures = 0;
                state.problem = None;
            }
            Err(error) => {
                let problem = error.to_string();
                if state.problem.as_ref() != Some(&problem) {
                    tracing::warn!(authority = self.authority.name(), problem, "no certificate");
                }
                state.problem = Some(problem);
                let pause = RETRY.0 * 2_u32.saturating_pow(state.failures.min(16));
                // Several times more in what is left, however little that is.
                let left = state
                    .issued
                    .as_ref()
                    .map(|issued| left_of(&issued.credentials) / 8);
                let longest = left.unwrap_or(RETRY.1).clamp(RETRY.0, RETRY.1);
                state.due = Some(Instant::now() + jittered(pause.min(longest)));
                state.failures += 1;
            }
        }
    }

    /// A new issuer has to be trusted before it issues, and an old one for as long as it is there.
    fn look_at_bundle(&self) {
        let asked = self.authority.bundle();
        let mut state = self.lock();
        match asked {
            Ok((bundle, pem)) => {
                state.bundle_problem = None;
                if let Some(issued) = &mut state.issued
                    && issued.bundle_pem != pem
                {
                    tracing::info!(
                        authority = self.authority.name(),
                        roots = bundle.len(),
                        "the trust bundle has changed"
                    );
                    issued.bundle = Arc::new(bundle);
                    issued.bundle_pem = pem;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no trust bundle");
                state.bundle_problem = Some(error.to_string());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewing")
            .field("renewal", &self.renewal())
            .finish_non_exhaustive()
    }
}

/// How long a certificate is still good.
fn left_of(credentials: &Credentials) -> Duration {
    let left = credentials.facts().not_after - OffsetDateTime::now_utc();
    Duration::try_from(left).unwrap_or_default()
}

/// Between nine tenths of a time and all of it, so that not everybody comes at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
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
            };
            (Arc::new(fake), key)
        }
    }

    impl Authority for Arc<Fake> {
        fn name(&self) -> &str {
            "fake"
        }

        fn issue(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
            if !self.up.load(Ordering::Relaxed) {
                return Err(IssueError::Pending("the authority is away".to_owned()));
            }
            let now = OffsetDateTime::now_utc();
            let leaf = Leaf {
                not_before: now,
                not_after: now + time::Duration::seconds(self.seconds),
                ..Leaf::of(WEB)
            };
            let chain = vec![self.ca.issue(leaf, &self.pair)];
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
}
