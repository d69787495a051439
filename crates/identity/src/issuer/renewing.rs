//! Certificates from an authority that answers requests: asked for when there is a key, renewed at
//! half of their life, with a thread of its own. Whoever asks for the certificate never waits for
//! the authority; what was issued stays good until something better has been. Each key has its own
//! turn: one that is to follow another holds up none of its renewals.
//!
//! A certificate by an issuer that was not in the bundle before is held back until every peer can
//! have it in its own. Whoever makes a new issuer the default too early breaks nothing.

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

/// How long after they ask for their bundles peers may still go by the ones before.
const OVERLAP: Duration = Duration::from_secs(5);

/// Most bundles that peers may still go by.
const MOST_REPLACED: usize = 8;

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

    /// Whether a peer that trusts `bundle` accepts what was issued.
    ///
    /// # Errors
    /// See [`IssueError`].
    fn verify(
        &self,
        credentials: &Credentials,
        bundle: &Arc<TrustBundle>,
    ) -> Result<(), IssueError>;
}

/// How to renew.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenewingConfig {
    /// The shortest life of a certificate that is accepted.
    pub least: Duration,
    /// How often the bundle is asked for, here and by peers.
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
    /// The keys that certificates are kept for, in the order in which they were first asked for.
    clients: Vec<Client>,
    /// Bundles that were replaced, and when: peers may go by them for a while.
    replaced: Vec<(Arc<TrustBundle>, Instant)>,
    renewals: u64,
    /// Why the bundle could not be asked for.
    bundle_problem: Option<String>,
    ended: bool,
}

/// A key, with how it stands with its certificate.
struct Client {
    key: Arc<dyn PrivateKey>,
    issued: Option<Issued>,
    /// A certificate that peers may not trust yet. It takes the place of the other when it is due.
    held_back: Option<Issued>,
    /// When something is to be done.
    due: Instant,
    failures: u32,
    problem: Option<String>,
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

    /// Has the certificates renewed now.
    pub fn renew(&self) {
        let mut state = self.shared.lock();
        for client in &mut state.clients {
            // What is held back has just been issued.
            if client.held_back.is_none() {
                client.due = Instant::now();
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Lets go of every key but these, and of their certificates.
    pub fn keep(&self, keys: &[&Arc<dyn PrivateKey>]) {
        let kept = |client: &Client| keys.iter().any(|key| Arc::ptr_eq(key, &client.key));
        self.shared.lock().clients.retain(kept);
    }

    /// How it stands. Does not block.
    pub fn renewal(&self) -> Renewal {
        let state = self.shared.lock();
        let now = (Instant::now(), OffsetDateTime::now_utc());
        let clients = state.clients.iter();
        let issued = clients.clone().find_map(|client| client.issued.as_ref());
        let due = clients.clone().map(|client| client.due).min();
        let problem = clients.clone().find_map(|client| client.problem.clone());
        Renewal {
            authority: self.shared.authority.name().to_owned(),
            issued: issued.map(|issued| issued.credentials.facts().not_before),
            next_attempt: due.map(|due| now.1 + due.saturating_duration_since(now.0)),
            renewals: state.renewals,
            failures: clients.map(|client| client.failures).max().unwrap_or(0),
            problem: problem.or_else(|| state.bundle_problem.clone()),
        }
    }
}

impl Issuer for Renewing {
    /// What was issued last. For a key that is new here it is asked for, and not waited for.
    fn obtain(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
        let mut state = self.shared.lock();
        let Some(client) = state.client(key) else {
            state.clients.push(Client::new(key.clone()));
            self.shared.changed.notify_all();
            return Err(self.shared.pending());
        };
        match (&client.issued, &client.problem) {
            (Some(issued), _) => Ok(issued.clone()),
            (None, Some(problem)) => Err(IssueError::Pending(problem.clone())),
            (None, None) if client.held_back.is_some() => Err(IssueError::Pending(
                "its issuer is new, and every peer has to know that one first".to_owned(),
            )),
            (None, None) => Err(self.shared.pending()),
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
            let mut until = now + RETRY.1;
            if let Some(client) = state.clients.iter_mut().min_by_key(|client| client.due) {
                if client.due > now {
                    until = until.min(client.due);
                } else if let Some(issued) = client.held_back.take() {
                    client.put_in_force(issued);
                    continue;
                } else {
                    return Duty::Issue(client.key.clone());
                }
            }
            if state.clients.iter().any(|client| client.issued.is_some()) {
                until = until.min(bundle_due);
            }
            if until <= now {
                return Duty::Bundle;
            }
            let left = until
                .saturating_duration_since(now)
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
                state.renewals += 1;
                self.trust(&mut state, &issued.bundle, &issued.bundle_pem);
                let wait = self.until_peers_accept(&issued.credentials, &state);
                if let Some(client) = state.client(key) {
                    client.take(issued, wait);
                }
            }
            Err(error) => {
                let Some(client) = state.client(key) else {
                    return;
                };
                let problem = error.to_string();
                if client.problem.as_ref() != Some(&problem) {
                    tracing::warn!(authority = self.authority.name(), problem, "no certificate");
                }
                client.fail(problem);
            }
        }
    }

    /// How long it may take until every peer goes by a bundle by which it accepts a certificate. No
    /// time at the start, when no other bundle has been seen.
    fn until_peers_accept(&self, credentials: &Credentials, state: &State) -> Duration {
        let refused_by = state
            .replaced
            .iter()
            .filter(|(bundle, _)| self.authority.verify(credentials, bundle).is_err());
        let waits = refused_by.map(|(_, at)| self.overlap().saturating_sub(at.elapsed()));
        waits.max().unwrap_or_default()
    }

    /// How long a bundle may be in force at a peer after it was replaced here.
    fn overlap(&self) -> Duration {
        self.config.bundle_every + OVERLAP
    }

    /// Puts a bundle in force for all that has been issued.
    fn trust(&self, state: &mut State, bundle: &Arc<TrustBundle>, pem: &[u8]) {
        let mut before = None;
        for client in &mut state.clients {
            let issued = client.issued.iter_mut().chain(&mut client.held_back);
            for issued in issued.filter(|issued| issued.bundle_pem != pem) {
                before = Some(std::mem::replace(&mut issued.bundle, bundle.clone()));
                issued.bundle_pem = pem.to_vec();
            }
        }
        if let Some(before) = before {
            tracing::info!(
                authority = self.authority.name(),
                roots = bundle.len(),
                "the trust bundle has changed"
            );
            let overlap = self.overlap();
            state.replaced.retain(|(_, at)| at.elapsed() < overlap);
            // More than these in that time would be somebody's fault.
            state.replaced.truncate(MOST_REPLACED - 1);
            state.replaced.push((before, Instant::now()));
        }
    }

    /// A new issuer has to be trusted before it issues, and an old one for as long as it is there.
    fn look_at_bundle(&self) {
        let asked = self.authority.bundle();
        let mut state = self.lock();
        match asked {
            Ok((bundle, pem)) => {
                state.bundle_problem = None;
                self.trust(&mut state, &Arc::new(bundle), &pem);
            }
            Err(error) => {
                tracing::debug!(%error, "no trust bundle");
                state.bundle_problem = Some(error.to_string());
            }
        }
    }

    fn pending(&self) -> IssueError {
        IssueError::Pending(format!("{} has not answered yet", self.authority.name()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn client(&mut self, key: &Arc<dyn PrivateKey>) -> Option<&mut Client> {
        self.clients
            .iter_mut()
            .find(|client| Arc::ptr_eq(&client.key, key))
    }
}

impl Client {
    /// Its certificate is due at once.
    fn new(key: Arc<dyn PrivateKey>) -> Self {
        Self {
            key,
            issued: None,
            held_back: None,
            due: Instant::now(),
            failures: 0,
            problem: None,
        }
    }

    /// Puts it in force after a wait for peers, unless the certificate before ends in that time.
    fn take(&mut self, issued: Issued, wait: Duration) {
        if wait.is_zero() {
            return self.put_in_force(issued);
        }
        let left = (self.issued.as_ref()).map(|before| left_of(&before.credentials) / 2);
        let wait = left.map_or(wait, |left| wait.min(left));
        tracing::info!(
            ?wait,
            "its issuer is new: it is held back until peers know that one"
        );
        self.held_back = Some(issued);
        self.due = Instant::now() + wait;
        self.failures = 0;
        self.problem = None;
    }

    fn put_in_force(&mut self, issued: Issued) {
        self.due = Instant::now() + jittered(left_of(&issued.credentials) / 2);
        self.issued = Some(issued);
        self.failures = 0;
        self.problem = None;
    }

    fn fail(&mut self, problem: String) {
        self.problem = Some(problem);
        let pause = RETRY.0 * 2_u32.saturating_pow(self.failures.min(16));
        // Several times more in what is left, however little that is.
        let left = self
            .issued
            .as_ref()
            .map(|issued| left_of(&issued.credentials) / 8);
        let longest = left.unwrap_or(RETRY.1).clamp(RETRY.0, RETRY.1);
        self.due = Instant::now() + jittered(pause.min(longest));
        self.failures += 1;
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
mod tests;
