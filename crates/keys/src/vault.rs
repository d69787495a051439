//! A session with HashiCorp Vault or OpenBao: one for a process, shared by the key in transit and
//! the issuer of certificates.
//!
//! [`config`] says where the server is and how to log in; [`client`] speaks to it, through
//! `vaultrs`; [`login`] turns files into a token; [`tender`] keeps the token alive and replaces it
//! before it ends. [`Vault::ask`] is what everybody else uses: it waits for a token, asks, and asks
//! again with jitter as long as the answer is one that passes (sealed, standby, busy, gone), never
//! past its deadline.
//!
//! The session has a runtime of its own, with one thread. Whoever asks blocks.

mod client;
mod config;
mod error;
mod login;
mod tender;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use self::client::Session;
pub use self::client::{Method, Request};
pub use self::config::{VaultAuth, VaultConfig};
pub use self::error::VaultError;
pub(crate) use self::error::printable;
use self::tender::Tender;
use crate::transit::InUse;

/// Pauses between attempts at a server that does not answer well: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A session with a server. It ends when the last owner drops it.
pub struct Vault {
    inner: Arc<Inner>,
    /// None only while it is being dropped.
    runtime: Option<Runtime>,
}

/// What the session's tasks share.
pub(crate) struct Inner {
    config: VaultConfig,
    standing: watch::Sender<Standing>,
    /// Told when a token turned out not to be valid any more.
    lost: Notify,
    /// Why the server, asked without any token, is of no use now.
    trouble: Mutex<Option<VaultError>>,
    logins: AtomicU64,
    renewals: AtomicU64,
    retries: AtomicU64,
    ended: AtomicBool,
    /// Which versions of which transit keys this process uses.
    pub(crate) transit_keys: InUse,
}

/// How it stands with the login.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    /// The session in use, as long as it has not ended.
    session: Option<Arc<Session>>,
    /// Why the last login or renewal did not succeed.
    problem: Option<VaultError>,
}

/// An attempt that did not succeed.
struct Failed {
    error: VaultError,
    /// Whether another may.
    again: bool,
}

/// How it stands with the session, and numbers about it.
#[derive(Clone, Debug, Serialize)]
pub struct VaultFigures {
    /// The server's address.
    pub address: String,
    /// Whether there is a token.
    pub logged_in: bool,
    /// What does not succeed now, with the way out.
    pub problem: Option<String>,
    /// Logins that succeeded.
    pub logins: u64,
    /// Renewals that succeeded.
    pub renewals: u64,
    /// Requests that were tried again.
    pub retries: u64,
}

impl Vault {
    /// Starts a session: the first login goes on by itself, and is tried again until it succeeds.
    ///
    /// # Errors
    /// When the configuration cannot be used as it is.
    pub fn start(config: VaultConfig) -> Result<Arc<Self>, VaultError> {
        client::check(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("sealwire-vault")
            .enable_all()
            .build()
            .map_err(|error| VaultError::Config(format!("no thread can be started: {error}")))?;
        let inner = Arc::new(Inner {
            config,
            standing: watch::Sender::default(),
            lost: Notify::new(),
            trouble: Mutex::default(),
            logins: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            transit_keys: InUse::default(),
        });
        runtime.spawn(Tender::new(inner.clone()).run());
        runtime.spawn(tender::watch_server(inner.clone()));
        Ok(Arc::new(Self {
            inner,
            runtime: Some(runtime),
        }))
    }

    /// Asks the server and gives the `data` of its answer. Blocks, at most for `within`.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub fn ask(&self, request: Request, within: Duration) -> Result<Value, VaultError> {
        let inner = self.inner.clone();
        let deadline = Instant::now() + within;
        self.wait_for(within, async move { inner.ask(&request, deadline).await })
    }

    /// The server's address.
    pub fn address(&self) -> &str {
        &self.inner.config.address
    }

    /// How it stands with the session. Does not block.
    pub fn figures(&self) -> VaultFigures {
        let standing = self.inner.standing.borrow().clone();
        VaultFigures {
            address: self.address().to_owned(),
            logged_in: standing.session.is_some(),
            problem: self.inner.problem().map(|problem| problem.to_string()),
            logins: self.inner.logins.load(Ordering::Relaxed),
            renewals: self.inner.renewals.load(Ordering::Relaxed),
            retries: self.inner.retries.load(Ordering::Relaxed),
        }
    }

    /// Waits for what is asked on this session's thread, at most for `within` and a little longer.
    /// Blocks.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        within: Duration,
        asking: impl Future<Output = Result<T, VaultError>> + Send + 'static,
    ) -> Result<T, VaultError> {
        let (tell, told) = mpsc::sync_channel(1);
        self.spawn(async move {
            // Whoever asked may have gone.
            let _ = tell.send(asking.await);
        });
        told.recv_timeout(within + RETRY.1)
            .unwrap_or(Err(VaultError::Deadline(within)))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Runs a task of somebody who shares this session. It ends with the session.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }
}

impl Inner {
    /// Asks, and asks again while that may help.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Value, VaultError> {
        let begun = Instant::now();
        let mut pause = RETRY.0;
        let mut last = None;
        while Instant::now() < deadline {
            match timeout_at(deadline, self.attempt(request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failed { error, again })) if again => last = Some(error),
                Ok(Err(Failed { error, .. })) => return Err(error),
                Err(_) => break,
            }
            if !self.pause(&mut pause, deadline).await {
                break;
            }
        }
        Err(last
            .or_else(|| self.problem())
            .unwrap_or_else(|| VaultError::Deadline(begun.elapsed())))
    }

    /// Has done what must not be done twice, such as making a version of a key: before each attempt
    /// the answer to `question` says whether it is done, since an attempt that fails may have done it.
    pub(crate) async fn do_once(
        &self,
        request: &Request,
        question: &Request,
        is_done: impl Fn(Value) -> Result<bool, VaultError>,
        deadline: Instant,
    ) -> Result<(), VaultError> {
        let begun = Instant::now();
        let mut pause = RETRY.0;
        let mut asked = false;
        while !is_done(self.ask(question, deadline).await?)? && !asked {
            match timeout_at(deadline, self.attempt(request)).await {
                Ok(Ok(_)) => asked = true,
                Ok(Err(Failed { error, again })) => {
                    if !again || !self.pause(&mut pause, deadline).await {
                        return Err(error);
                    }
                }
                Err(_) => return Err(VaultError::Deadline(begun.elapsed())),
            }
        }
        Ok(())
    }

    /// Asks, once there is a session.
    async fn attempt(&self, request: &Request) -> Result<Value, Failed> {
        let session = self.session().await.map_err(|error| Failed {
            error,
            again: false,
        })?;
        let error = match session.ask(request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let again = match &error {
            // Either the token has ended, or the policy does not allow it.
            VaultError::Denied { .. } => match session.is_valid().await {
                Ok(true) => false,
                Ok(false) => {
                    self.lost(&session);
                    true
                }
                Err(_) => true,
            },
            error => error.passes(),
        };
        Err(Failed { error, again })
    }

    /// Waits before the next attempt, each time for longer. False where there is no time for one.
    async fn pause(&self, pause: &mut Duration, deadline: Instant) -> bool {
        self.retries.fetch_add(1, Ordering::Relaxed);
        let jittered = pause.mul_f64(0.5 + fastrand::f64());
        if Instant::now() + jittered >= deadline {
            return false;
        }
        sleep(jittered).await;
        *pause = (*pause * 2).min(RETRY.1);
        true
    }

    /// What does not succeed now.
    pub(crate) fn problem(&self) -> Option<VaultError> {
        let trouble = self.trouble.lock();
        let trouble = trouble.unwrap_or_else(PoisonError::into_inner).clone();
        trouble.or_else(|| self.standing.borrow().problem.clone())
    }

    /// Waits for a session. Where the login was refused for good there is no point in waiting.
    async fn session(&self) -> Result<Arc<Session>, VaultError> {
        let mut standing = self.standing.subscribe();
        loop {
            let now = standing.borrow_and_update().clone();
            match (now.session, now.problem) {
                (Some(session), _) => return Ok(session),
                (None, Some(problem)) if problem.needs_help() => return Err(problem),
                (None, _) => {}
            }
            // The sender lives as long as self.
            let _ = standing.changed().await;
        }
    }

    /// Nobody is to use this session any more.
    fn lost(&self, session: &Arc<Session>) {
        let was_in_use = self.standing.send_if_modified(|standing| {
            let same = standing
                .session
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, session));
            if same {
                standing.session = None;
            }
            same
        });
        if was_in_use {
            tracing::warn!(vault = %self.config.address, "the token is not valid any more: logging in again");
            self.lost.notify_one();
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops it may not wait for a server.
            runtime.shutdown_background();
        }
    }
}
