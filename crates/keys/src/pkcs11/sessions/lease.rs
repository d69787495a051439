//! A place among the sessions, lent to one thread.

use std::time::Instant;

use cryptoki::error::Error;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::{CEILING, Open, Sessions, close};
use crate::SignError;
use crate::pkcs11::gate::Pass;
use crate::pkcs11::trouble::{Trouble, sign_error};

/// Why an attempt came to nothing.
pub(super) struct Miss {
    pub(super) error: SignError,
    /// Whether a second one may succeed.
    pub(super) again: bool,
}

impl Miss {
    pub(super) fn last(error: SignError) -> Self {
        Self {
            error,
            again: false,
        }
    }

    fn again(error: SignError) -> Self {
        Self { error, again: true }
    }
}

/// A place among the sessions, given back when dropped. Empty while there is no session in it.
pub(super) struct Lease<'a> {
    pub(super) pool: &'a Sessions,
    pub(super) ticket: u64,
    /// Of the token, when the place was lent.
    pub(super) generation: u64,
    pub(super) lent: Option<Open>,
}

impl Lease<'_> {
    /// Sees to it that there is a session of this time in it, or a fresh one.
    pub(super) fn fill(&mut self, pass: &Pass<'_>, fresh: bool) -> Result<(), SignError> {
        match &self.lent {
            Some(open) if open.module != pass.generation() => self.lent = None,
            Some(_) if fresh => self.give_up(),
            Some(_) => return Ok(()),
            None => {}
        }
        let session = self.pool.token().open_session(pass)?;
        match self.pool.find(&session) {
            Ok(key) => {
                self.lent = Some(Open {
                    session,
                    key,
                    module: pass.generation(),
                    proven: false,
                });
                Ok(())
            }
            Err(error) => {
                // What failed is said already.
                let _ = session.close();
                Err(error)
            }
        }
    }

    pub(super) fn work<T>(
        mut self,
        pass: &Pass<'_>,
        work: &impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
        proof: &impl Fn(&T) -> Option<bool>,
    ) -> Result<T, Miss> {
        let Some(open) = &mut self.lent else {
            return Err(Miss::last(SignError::KeyGone));
        };
        let error = match work(&open.session, open.key) {
            Ok(done) if open.proven => return Ok(done),
            Ok(done) => {
                if proof(&done) == Some(false) {
                    self.give_up();
                    self.pool.suspect(self.generation, SignError::KeyChanged);
                    return Err(Miss::last(SignError::KeyChanged));
                }
                open.proven = proof(&done) == Some(true);
                return Ok(done);
            }
            Err(error) => error,
        };
        let trouble = Trouble::of(&error);
        if matches!(trouble, Trouble::Full | Trouble::Final) {
            return Err(Miss::last(sign_error(&error)));
        }
        self.pool.lock().figures.sessions_lost += 1;
        self.give_up();
        // The others are likely to be lost as well, and must not be met by the second attempt.
        self.pool.close_idle(pass);
        if trouble == Trouble::Device {
            self.pool.suspect(self.generation, sign_error(&error));
        }
        Err(Miss::again(sign_error(&error)))
    }

    /// There is no session to work with.
    pub(super) fn failed(self, error: SignError) -> Miss {
        match error {
            // Not one: there is nothing to wait for but the device.
            SignError::NoSession => {
                self.pool.suspect(self.generation, error.clone());
                Miss::last(error)
            }
            SignError::Device(_) => Miss::again(error),
            _ => {
                self.pool.suspect(self.generation, error.clone());
                Miss::again(error)
            }
        }
    }

    /// Closes the session and forgets it.
    fn give_up(&mut self) {
        if let Some(open) = self.lent.take() {
            close(open.session);
        }
    }

    /// Asks for no more sessions than there are now, for a while. False when there are none, so
    /// that there is nothing to wait for.
    pub(super) fn lower_ceiling(&self) -> bool {
        let mut state = self.pool.lock();
        let others = state.open - 1;
        if others > 0 {
            state.ceiling = Some((others, Instant::now() + CEILING));
            tracing::warn!(
                sessions = others,
                limit = self.pool.limit,
                "the device gives out no more sessions: going on with those there are"
            );
        }
        others > 0
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.busy.remove(&self.ticket);
        match self.lent.take() {
            Some(open) => state.idle.push(open),
            None => state.open -= 1,
        }
        self.pool.tell(state);
    }
}
