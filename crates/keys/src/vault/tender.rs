//! The tender: one task for a session, which logs in, renews the token at half of its lease, and
//! logs in again when renewing comes to its end. A session that still works stays in use until the
//! next one does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::client::{Connection, Session};
use super::login::{self, Lease, Login, Material, Unwrapped};
use super::{Inner, VaultAuth, VaultConfig, VaultError};

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
    material: Reading<Result<Material, VaultError>>,
    token: Reading<Option<Zeroizing<String>>>,
}

/// What is read from files, on a thread for that: a disk that does not answer holds up this
/// thread, of which there is one, and nothing that has to be signed.
struct Reading<T>(Option<JoinHandle<T>>);

impl Tender {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            unwrapped: Unwrapped::default(),
            material: Reading(None),
            token: Reading(None),
        }
    }

    pub(super) async fn run(mut self) {
        let mut pause = RETRY.0;
        while !self.inner.ended.load(Ordering::Relaxed) {
            match self.login().await {
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

    async fn login(&mut self) -> Result<Login, VaultError> {
        let read = self.material.of(&self.inner, Material::read).await;
        let material = read.unwrap_or_else(|| {
            Err(VaultError::File(
                "its files cannot be read: the disk that they are on does not answer".to_owned(),
            ))
        })?;
        login::login(&self.inner.config.auth, material, &mut self.unwrapped).await
    }

    /// Returns when it is time to log in again.
    async fn keep(&mut self, session: &Arc<Session>, mut lease: Lease) {
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
    async fn wait(&mut self, session: &Session, time: Option<Duration>) -> bool {
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
            let is_lost = self.inner.standing.borrow().session.is_none();
            if is_lost || self.has_changed(session).await {
                return false;
            }
        }
    }

    /// Whether somebody has put another token into its file.
    async fn has_changed(&mut self, session: &Session) -> bool {
        if !matches!(self.inner.config.auth, VaultAuth::TokenFile { .. }) {
            return false;
        }
        let read = self.token.of(&self.inner, login::token_in_file).await;
        read.flatten()
            .is_some_and(|token| !session.is_same_token(&token))
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
    let mut files = Reading(None);
    let mut connection: Option<Connection> = None;
    let mut trouble = None;
    while !inner.ended.load(Ordering::Relaxed) {
        // The server's CA may have changed.
        if (connection.is_none() || trouble.is_some())
            && let Some(Ok(fresh)) = files.of(&inner, Connection::new).await
        {
            connection = Some(fresh);
        }
        trouble = match &connection {
            Some(connection) => connection.health().await.err(),
            // The login says what is wrong with the files.
            None => None,
        };
        let pause = if trouble.is_some() { LOOK } else { HEALTH };
        inner
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&trouble);
        sleep(jittered(pause)).await;
    }
}

impl<T: Send + 'static> Reading<T> {
    /// What is in the files, unless reading them takes as long as a request may: then it goes on,
    /// and the next one who asks gets that.
    async fn of(&mut self, inner: &Arc<Inner>, read: fn(&VaultConfig) -> T) -> Option<T> {
        let reading = self.0.get_or_insert_with(|| {
            let inner = inner.clone();
            spawn_blocking(move || read(&inner.config))
        });
        let read = timeout(inner.config.timeout, reading).await.ok()?;
        self.0 = None;
        read.ok()
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
