//! The tender: one task for a session, which logs in, renews the token at half of its lease, and
//! logs in again when renewing comes to its end. A session that still works stays in use until the
//! next one does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::client::{Connection, Session};
use super::login::{self, Lease, Login, Unwrapped};
use super::{Inner, VaultAuth, VaultError};

/// Pauses between attempts to log in: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often a token's file is compared with the token in use.
const LOOK: Duration = Duration::from_secs(2);

/// How often the server is asked how it is: nothing else may be asked of it for hours.
const HEALTH: Duration = Duration::from_secs(10);

/// Leases shorter than this are used up, not renewed.
const TOO_SHORT: u64 = 2;

/// Looks after one session.
pub(super) struct Tender {
    inner: Arc<Inner>,
    unwrapped: Unwrapped,
}

impl Tender {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            unwrapped: Unwrapped::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut pause = RETRY.0;
        while !self.inner.ended.load(Ordering::Relaxed) {
            match login::login(&self.inner.config, &mut self.unwrapped).await {
                Ok(Login { session, lease }) => {
                    pause = RETRY.0;
                    let session = Arc::new(session);
                    self.publish(&session, lease);
                    self.keep(&session, lease).await;
                }
                Err(error) => {
                    self.fail(error);
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Returns when it is time to log in again.
    async fn keep(&self, session: &Arc<Session>, mut lease: Lease) {
        loop {
            if !self.wait(session, half(lease)).await || !lease.renewable {
                return;
            }
            let ends = Instant::now() + half(lease).unwrap_or_default();
            match self.renew(session, ends).await {
                // At the end of its longest life a token gets ever shorter leases.
                Some(renewed) if renewed.seconds >= TOO_SHORT.max(lease.seconds / 2) => {
                    self.inner.renewals.fetch_add(1, Ordering::Relaxed);
                    lease = renewed;
                    self.publish(session, lease);
                }
                _ => return,
            }
        }
    }

    /// Renews until it succeeds, is refused, or most of what is left of the lease has gone.
    async fn renew(&self, session: &Session, ends: Instant) -> Option<Lease> {
        let mut pause = RETRY.0;
        loop {
            match login::renew(session).await {
                Ok(lease) => return Some(lease),
                Err(error) if error.passes() => self.fail(error),
                Err(_) => return None,
            }
            let next = jittered(pause);
            if Instant::now() + next * 2 >= ends {
                return None;
            }
            sleep(next).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Waits that long, or for ever without a time. False as soon as another login is needed.
    async fn wait(&self, session: &Session, time: Option<Duration>) -> bool {
        let until = time.map(|time| Instant::now() + jittered(time));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left {
                Some(left) if left.is_zero() => return true,
                _ => {}
            }
            let slice = left.map_or(LOOK, |left| left.min(LOOK));
            // Woken early or not, what counts is how it stands.
            let _ = timeout(slice, self.inner.lost.notified()).await;
            if self.inner.standing.borrow().session.is_none() || self.has_changed(session) {
                return false;
            }
        }
    }

    /// Whether somebody has put another token into its file.
    fn has_changed(&self, session: &Session) -> bool {
        match &self.inner.config.auth {
            VaultAuth::TokenFile { path } => {
                login::token_in(path).is_some_and(|token| !session.is_same_token(&token))
            }
            _ => false,
        }
    }

    fn publish(&self, session: &Arc<Session>, lease: Lease) {
        let inner = &self.inner;
        let address = &inner.config.address;
        let fresh = inner.standing.send_replace(super::Standing {
            session: Some(session.clone()),
            problem: None,
        });
        let renewed = fresh
            .session
            .is_some_and(|before| Arc::ptr_eq(&before, session));
        if !renewed {
            inner.logins.fetch_add(1, Ordering::Relaxed);
            let method = inner.config.auth.name();
            tracing::info!(vault = %address, method, lease_seconds = lease.seconds, renewable = lease.renewable, "logged in");
        }
    }

    /// One line a change, whoever is at fault.
    fn fail(&self, error: VaultError) {
        let text = error.to_string();
        let before = self.inner.standing.borrow().problem.clone();
        if before.is_none_or(|before| before.to_string() != text) {
            tracing::warn!(vault = %self.inner.config.address, problem = text, "cannot log in or renew");
        }
        self.inner.standing.send_modify(|standing| {
            standing.problem = Some(error);
        });
    }
}

/// Asks the server how it is, now and then, so that a server that is away or sealed is known
/// before anything is asked of it.
pub(super) async fn watch_server(inner: Arc<Inner>) {
    let mut connection = None;
    while !inner.ended.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = Connection::new(&inner.config).ok();
        }
        let trouble = match &connection {
            Some(connection) => connection.health().await.err(),
            // The login says what is wrong with the files.
            None => None,
        };
        if trouble.is_some() {
            // The server's CA may have changed.
            connection = None;
        }
        let pause = if trouble.is_some() { LOOK } else { HEALTH };
        *inner.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        sleep(jittered(pause)).await;
    }
}

/// Half of a lease; none for one without an end.
fn half(lease: Lease) -> Option<Duration> {
    (lease.seconds > 0).then(|| Duration::from_millis(lease.seconds * 500))
}

/// Between nine tenths of a time and all of it, so that not everybody comes at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + fastrand::f64() / 10.0)
}
