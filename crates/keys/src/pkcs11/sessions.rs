//! A bounded set of sessions, each lent to one thread at a time, in order of arrival.
//!
//! A key handle belongs to the session it was found in, and both to one initialisation of the
//! module: nothing of an earlier one is used or closed again. A session that fails as lost
//! sessions do is given up with its handle and with those that lie idle, and the work tried once
//! more in a new one: signing is idempotent, and a vendor's library never does this by itself.
//! When that is not enough, the [tender](super::tender) is told, and whoever needs a session waits
//! for it in bounds.

mod lease;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::gate::Pass;
use super::module::Module;
use super::object;
use super::token::TokenSlot;
use super::trouble::{answer, sign_error};
use crate::{KeyFigures, KeyHealth, Pkcs11Config, SignError};
use lease::{Lease, Miss};

/// How long after the device refused a further session no other is asked for.
const CEILING: Duration = Duration::from_secs(10);

/// The sessions that one key is used through.
pub(super) struct Sessions {
    pub(super) module: Arc<Module>,
    pub(super) config: Pkcs11Config,
    /// CKA_ID of the key.
    id: Vec<u8>,
    limit: usize,
    state: Mutex<State>,
    /// For those that wait for a session.
    changed: Condvar,
    /// For the tender, which has nothing to do with most changes.
    tended: Condvar,
}

pub(super) struct State {
    token: Arc<TokenSlot>,
    idle: Vec<Open>,
    /// Sessions that exist, lent or idle.
    open: usize,
    /// Since when each lent session is in use, by ticket.
    busy: BTreeMap<u64, Instant>,
    /// Who waits, first come first served.
    waiting: VecDeque<u64>,
    /// How many threads sleep until something has changed.
    sleeping: usize,
    next_ticket: u64,
    /// Fewer sessions than the limit, since the device refused another; and until when.
    ceiling: Option<(usize, Instant)>,
    /// Counts how often the token was begun anew.
    generation: u64,
    standing: Standing,
    ended: bool,
    figures: KeyFigures,
}

/// How it stands with the token.
#[derive(Clone, Debug)]
enum Standing {
    /// It signs.
    Live,
    /// It does not, since then and for this reason; the tender is at it.
    Failing(Instant, SignError),
}

/// A session with the key found in it.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) key: ObjectHandle,
    /// Generation of the module.
    pub(super) module: u64,
    /// Whether the key has been seen to be the one that it was.
    pub(super) proven: bool,
}

/// What the tender has to do next.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Duty {
    /// Use a session, so that it is not closed for being idle.
    KeepAlive,
    /// Begin the token anew.
    Recover,
    /// Close what is open, and end.
    End,
}

impl Sessions {
    /// Starts with one session.
    pub(super) fn new(
        config: &Pkcs11Config,
        module: Arc<Module>,
        token: Arc<TokenSlot>,
        id: Vec<u8>,
        first: (Session, ObjectHandle),
        pass: &Pass<'_>,
    ) -> Self {
        let configured = config.max_sessions.get();
        Self {
            limit: token
                .session_limit()
                .map_or(configured, |limit| configured.min(limit.max(1))),
            module,
            config: config.clone(),
            id,
            state: Mutex::new(State {
                token,
                idle: vec![Open {
                    session: first.0,
                    key: first.1,
                    module: pass.generation(),
                    proven: true,
                }],
                open: 1,
                busy: BTreeMap::new(),
                waiting: VecDeque::new(),
                sleeping: 0,
                next_ticket: 0,
                ceiling: None,
                generation: 0,
                standing: Standing::Live,
                ended: false,
                figures: KeyFigures::default(),
            }),
            changed: Condvar::new(),
            tended: Condvar::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The token as it was last found.
    pub(super) fn token(&self) -> Arc<TokenSlot> {
        self.lock().token.clone()
    }

    /// Does `work` with a session and the key's handle in it, and once more in a new session when
    /// the first, or the device, turns out to be lost.
    pub(super) fn with<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, SignError> {
        self.with_proof(work, |_| None)
    }

    /// The same, for what proves that the key is the one that it was: `proof` says whether it
    /// does, and is asked once for each session. A key may be replaced by another of its name
    /// while nobody looks.
    pub(super) fn with_proof<T>(
        &self,
        work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
        proof: impl Fn(&T) -> Option<bool>,
    ) -> Result<T, SignError> {
        let generation = self.lock().generation;
        let miss = match self.attempt(&work, &proof, false) {
            Ok(done) => return Ok(done),
            Err(Miss { error, again: true }) => {
                tracing::debug!(token = self.token().label(), %error, "once more, in a new session");
                match self.attempt(&work, &proof, true) {
                    Ok(done) => return Ok(done),
                    Err(miss) => miss,
                }
            }
            Err(miss) => miss,
        };
        if miss.error.blames_the_device() {
            self.suspect(generation, miss.error.clone());
        }
        Err(miss.error)
    }

    pub(super) fn health(&self) -> KeyHealth {
        let state = self.lock();
        let stuck = |since: &Instant| since.elapsed() > self.config.wait;
        match &state.standing {
            Standing::Live if state.busy.values().any(stuck) => {
                KeyHealth::Degraded(SignError::Silent {
                    longer_than: self.config.wait,
                })
            }
            Standing::Live => KeyHealth::Ready,
            Standing::Failing(_, error) if error.needs_help() => KeyHealth::Down(error.clone()),
            Standing::Failing(_, error) => KeyHealth::Degraded(error.clone()),
        }
    }

    pub(super) fn figures(&self) -> KeyFigures {
        let state = self.lock();
        KeyFigures {
            sessions_open: state.open,
            sessions_busy: state.busy.len(),
            sessions_limit: self.limit,
            waiting: state.waiting.len(),
            ..state.figures
        }
    }

    /// Tells the tender to close what is open and to end.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.tended.notify_all();
    }

    fn attempt<T>(
        &self,
        work: &impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
        proof: &impl Fn(&T) -> Option<bool>,
        fresh: bool,
    ) -> Result<T, Miss> {
        let begun = Instant::now();
        loop {
            let mut lease = self.borrow(begun).map_err(Miss::last)?;
            let pass = self.enter(begun).map_err(Miss::last)?;
            match lease.fill(&pass, fresh) {
                Ok(()) => return lease.work(&pass, work, proof),
                Err(SignError::NoSession) if lease.lower_ceiling() => {}
                Err(error) => return Err(lease.failed(error)),
            }
        }
    }

    /// A pass to call the module with; the wait counts from `begun`.
    pub(super) fn enter(&self, begun: Instant) -> Result<Pass<'_>, SignError> {
        let pass = self.module.enter(begun + self.config.wait);
        pass.ok_or_else(|| {
            SignError::Unusable(
                "the PKCS#11 module is being initialised anew, or that failed".to_owned(),
            )
        })
    }

    /// Waits for a place among the sessions, in order of arrival.
    fn borrow(&self, begun: Instant) -> Result<Lease<'_>, SignError> {
        let mut state = self.lock();
        let ticket = state.ticket();
        if !(state.waiting.is_empty() && self.is_free(&state)) {
            if state.waiting.len() >= self.config.queue {
                return Err(SignError::Overloaded {
                    limit: self.config.queue,
                });
            }
            state.waiting.push_back(ticket);
            state = self.queue(state, ticket, begun)?;
        }
        state.busy.insert(ticket, Instant::now());
        let lent = state.idle.pop();
        if lent.is_none() {
            state.open += 1;
        }
        let generation = state.generation;
        // Whoever is next in line may find another session free.
        self.tell(state);
        Ok(Lease {
            pool: self,
            ticket,
            generation,
            lent,
        })
    }

    /// Waits until it is `ticket`'s turn and takes it out of the queue, however the wait ends.
    fn queue<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        ticket: u64,
        begun: Instant,
    ) -> Result<MutexGuard<'a, State>, SignError> {
        let deadline = crate::deadline_to_sign(begun + self.config.wait);
        let outcome = loop {
            if let Standing::Failing(_, error) = &state.standing
                && error.needs_help()
            {
                break Err(error.clone());
            }
            if state.waiting.front() == Some(&ticket) && self.is_free(&state) {
                break Ok(());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break Err(match &state.standing {
                    Standing::Live => SignError::Deadline {
                        waited: begun.elapsed(),
                    },
                    Standing::Failing(_, error) => error.clone(),
                });
            };
            state = self.wait(state, left);
        };
        state.waiting.retain(|waiting| *waiting != ticket);
        match outcome {
            Ok(()) => Ok(state),
            Err(error) => {
                self.tell(state);
                Err(error)
            }
        }
    }

    fn is_free(&self, state: &State) -> bool {
        let room = || match state.ceiling {
            Some((ceiling, until)) if Instant::now() < until => state.open < ceiling,
            _ => state.open < self.limit,
        };
        matches!(state.standing, Standing::Live) && (!state.idle.is_empty() || room())
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> MutexGuard<'a, State> {
        state.sleeping += 1;
        let mut state = sleep(&self.changed, state, at_most);
        state.sleeping -= 1;
        state
    }

    /// Wakes those that wait, if any do: to wake nobody is a system call as well, and this is done
    /// with every signature.
    fn tell(&self, state: MutexGuard<'_, State>) {
        let heard = state.sleeping > 0;
        drop(state);
        if heard {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tender asks for.
impl Sessions {
    /// Waits for something to do: at the latest when a session has to be kept alive, or when a
    /// token that fails is due to be tried again.
    pub(super) fn duty(&self, keep_alive: Duration, retry: Duration) -> Duty {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            let (duty, due) = match &state.standing {
                _ if state.ended => return Duty::End,
                Standing::Live => (Duty::KeepAlive, keep_alive),
                Standing::Failing(..) => (Duty::Recover, retry),
            };
            match due.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => state = sleep(&self.tended, state, left),
                _ => return duty,
            }
        }
    }

    /// Looks whether the key is still there, by which the session counts as used. Not while every
    /// session is at work, which keeps them alive as well.
    pub(super) fn keep_alive(&self) {
        let idle = {
            let state = self.lock();
            !state.idle.is_empty() || state.open == 0
        };
        if !idle {
            return;
        }
        // No error, but no key: most often the login is lost. A fresh session tells.
        let lost = || Error::Pkcs11(RvError::KeyHandleInvalid, Function::FindObjects);
        let _ = self.with(|session, _| {
            let found = object::relocate(session, &self.config.uri, &self.id)?;
            found.first().map(|_| ()).ok_or_else(lost)
        });
    }

    /// Closes the sessions that nobody uses.
    pub(super) fn close_idle(&self, pass: &Pass<'_>) {
        let mut state = self.lock();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        let count = idle.len();
        for open in idle
            .into_iter()
            .filter(|open| open.module == pass.generation())
        {
            close(open.session);
        }
        let mut state = self.lock();
        state.open -= count;
        self.tell(state);
    }

    /// Waits until a session may be opened beside those that are at work, and counts it in.
    pub(super) fn reserve(&self, patience: Duration) -> Result<(), SignError> {
        let begun = Instant::now();
        let mut state = self.lock();
        while state.open >= self.limit {
            let waited = begun.elapsed();
            let left = patience
                .checked_sub(waited)
                .ok_or(SignError::Deadline { waited })?;
            state = self.wait(state, left);
        }
        state.open += 1;
        Ok(())
    }

    /// Gives back what [`Sessions::reserve`] counted in.
    pub(super) fn unreserve(&self) {
        let mut state = self.lock();
        state.open -= 1;
        self.tell(state);
    }

    /// Finds the key again in a session of a new generation.
    pub(super) fn find(&self, session: &Session) -> Result<ObjectHandle, SignError> {
        let found = object::relocate(session, &self.config.uri, &self.id);
        match found.map_err(|error| sign_error(&error))?.as_slice() {
            [] => Err(SignError::KeyGone),
            [key] => Ok(*key),
            // Which of them is ours cannot be told.
            _ => Err(SignError::KeyChanged),
        }
    }

    /// The token signs again, through this session, which takes the reserved place.
    pub(super) fn recovered(&self, token: TokenSlot, first: (Session, ObjectHandle), module: u64) {
        let mut state = self.lock();
        state.generation += 1;
        state.figures.recoveries += 1;
        let generation = state.generation;
        state.token = Arc::new(token);
        state.idle.push(Open {
            session: first.0,
            key: first.1,
            module,
            proven: true,
        });
        state.ceiling = None;
        let failed_for = match &state.standing {
            Standing::Live => Duration::ZERO,
            Standing::Failing(since, _) => since.elapsed(),
        };
        state.standing = Standing::Live;
        tracing::info!(
            token = state.token.label(),
            generation,
            failed_for_seconds = failed_for.as_secs_f64(),
            "the token signs again"
        );
        self.tell(state);
    }

    /// The token still fails, for this reason.
    pub(super) fn still_failing(&self, error: SignError) {
        let mut state = self.lock();
        if let Standing::Failing(since, _) = state.standing {
            state.standing = Standing::Failing(since, error);
        }
        self.tell(state);
    }

    pub(super) fn reloaded(&self) {
        self.lock().figures.reloads += 1;
    }

    /// The token does not do what it did in that generation.
    fn suspect(&self, generation: u64, error: SignError) {
        let mut state = self.lock();
        if state.generation == generation && matches!(state.standing, Standing::Live) {
            tracing::warn!(token = state.token.label(), generation, %error, "the token fails: beginning anew");
            state.standing = Standing::Failing(Instant::now(), error);
        }
        self.tell(state);
        self.tended.notify_all();
    }
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
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

fn sleep<'a>(
    until: &Condvar,
    state: MutexGuard<'a, State>,
    at_most: Duration,
) -> MutexGuard<'a, State> {
    let woken = until.wait_timeout(state, at_most);
    woken.unwrap_or_else(PoisonError::into_inner).0
}

/// Closes a session that may be lost already: one that is only said to be would stay open for ever.
fn close(session: Session) {
    if let Err(error) = session.close() {
        tracing::debug!(error = answer(&error), "a session cannot be closed");
    }
}
