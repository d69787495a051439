//! A bounded set of sessions, each lent to one thread at a time, in order of arrival.
//!
//! A key handle belongs to the session it was found in. A session that fails as lost sessions do
//! is thrown away with its handle, and the work tried once more in a new one: signing is
//! idempotent, and the vendor's library never does this by itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::object::{self, Located};
use super::token::{TokenSlot, device};
use crate::{OpenError, Pkcs11Config, SignError};

/// The sessions that one key is used through.
pub(super) struct Sessions {
    token: Arc<TokenSlot>,
    /// CKA_ID of the key.
    id: Vec<u8>,
    limit: usize,
    queue: usize,
    wait: Duration,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    idle: Vec<Open>,
    /// Sessions that exist, lent or idle.
    open: usize,
    /// Who waits, first come first served.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

/// A session with the key found in it.
struct Open {
    session: Session,
    key: ObjectHandle,
}

impl Sessions {
    /// Starts with one session, which keeps the login alive for as long as the key is open.
    pub(super) fn new(
        config: &Pkcs11Config,
        token: Arc<TokenSlot>,
        first: Session,
        key: Located,
    ) -> Self {
        let configured = config.max_sessions.get();
        Self {
            limit: token
                .session_limit()
                .map_or(configured, |limit| configured.min(limit.max(1))),
            token,
            id: key.id,
            queue: config.queue,
            wait: config.wait,
            state: Mutex::new(State {
                idle: vec![Open {
                    session: first,
                    key: key.handle,
                }],
                open: 1,
                waiting: VecDeque::new(),
                next_ticket: 0,
            }),
            freed: Condvar::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Does `work` with a session and the key's handle in it; once more in a new session when the
    /// first turns out to be lost.
    pub(super) fn with<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, SignError> {
        let lease = self.borrow()?;
        match lease.work(&work) {
            Err(Failure::Token(error)) if is_lost(&error) => {
                tracing::info!(token = self.token.label(), %error, "a session was lost, trying in a new one");
                lease
                    .replace()?
                    .work(&work)
                    .map_err(Failure::into_sign_error)
            }
            other => other.map_err(Failure::into_sign_error),
        }
    }

    fn borrow(&self) -> Result<Lease<'_>, SignError> {
        let begun = Instant::now();
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let free = |state: &State| !state.idle.is_empty() || state.open < self.limit;
        if !(state.waiting.is_empty() && free(&state)) {
            if state.waiting.len() >= self.queue {
                return Err(SignError::Overloaded { limit: self.queue });
            }
            state.waiting.push_back(ticket);
            let wait = |state: &mut State| !(state.waiting.front() == Some(&ticket) && free(state));
            let (back, timeout) = self
                .freed
                .wait_timeout_while(state, self.wait, wait)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.waiting.retain(|waiting| *waiting != ticket);
            if timeout.timed_out() {
                self.freed.notify_all();
                return Err(SignError::Deadline {
                    waited: begun.elapsed(),
                });
            }
        }
        let lent = state.idle.pop();
        if lent.is_none() {
            state.open += 1;
        }
        drop(state);
        // Whoever is next in line may find another session free.
        self.freed.notify_all();
        let mut lease = Lease { pool: self, lent };
        if lease.lent.is_none() {
            lease.fill()?;
        }
        Ok(lease)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("open", &self.lock().open)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A place among the sessions, given back when dropped. Empty while its session is replaced.
struct Lease<'a> {
    pool: &'a Sessions,
    lent: Option<Open>,
}

impl Lease<'_> {
    fn work<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let open = self.lent.as_ref().ok_or(Failure::KeyGone)?;
        work(&open.session, open.key).map_err(Failure::Token)
    }

    /// Throws the session away, with its handles, and takes a new one.
    fn replace(mut self) -> Result<Self, SignError> {
        self.lent = None;
        self.fill()?;
        Ok(self)
    }

    fn fill(&mut self) -> Result<(), SignError> {
        let session = self
            .pool
            .token
            .open_session()
            .map_err(|error| match error {
                OpenError::Token { source, .. } => source,
                login => SignError::Login(login.to_string()),
            })?;
        let key = object::relocate(&session, self.pool.token.uri(), &self.pool.id)
            .map_err(device)?
            .ok_or(SignError::KeyGone)?;
        self.lent = Some(Open { session, key });
        Ok(())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.lent.take() {
            Some(open) => state.idle.push(open),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.freed.notify_all();
    }
}

enum Failure {
    Token(Error),
    KeyGone,
}

impl Failure {
    fn into_sign_error(self) -> SignError {
        match self {
            Self::Token(error) => device(error),
            Self::KeyGone => SignError::KeyGone,
        }
    }
}

/// Return values that say that the session, the handle or the login is gone, not the device.
fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::ObjectHandleInvalid
                | RvError::KeyHandleInvalid
                | RvError::UserNotLoggedIn
                | RvError::OperationActive,
            _
        )
    )
}
