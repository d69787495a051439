//! The tender: one thread for each open key, which keeps a session alive, and begins the token
//! anew when it fails. Recovery is its work alone, so that a device which comes back is met by one
//! login and not by as many as there are threads.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::gate::Pass;
use super::generate::Holder;
use super::sessions::{Duty, Sessions};
use super::token::TokenSlot;
use super::trouble::sign_error;
use super::{PROOF, mechanism};
use crate::public_key::PublicKey;
use crate::{Scheme, SignError};

/// How often a session is used that would else be idle: devices are known to close one after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Pauses between attempts to begin a failing token anew: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long recovery waits for sessions that are at work.
const PATIENCE: Duration = Duration::from_secs(2);

/// The threads of all tenders.
static THREADS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits until those threads are gone whose keys are: a thread that has used a vendor's library
/// runs that library's own handlers when it ends, and must not do so beside those of the process.
pub(super) fn finish(patience: Duration) {
    let deadline = Instant::now() + patience.min(LINGER);
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    for thread in threads.drain(..) {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // A panic in it has been said already.
            let _ = thread.join();
        }
    }
}

/// How long the end of the process waits for such threads: they have nothing to do but to end.
const LINGER: Duration = Duration::from_millis(300);

/// Looks after the sessions of one key.
pub(super) struct Tender {
    pub(super) sessions: Arc<Sessions>,
    pub(super) public: PublicKey,
    /// By which the key is proven after each recovery.
    pub(super) scheme: Scheme,
    /// Where the key lives, when it was made here.
    pub(super) holder: Option<Holder>,
}

impl Tender {
    /// Starts the thread; it ends with [`Sessions::end`].
    pub(super) fn start(self) -> io::Result<()> {
        let thread = thread::Builder::new()
            .name("sealwire-token".to_owned())
            .spawn(move || self.run())?;
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn run(self) {
        // At once the first time: most often a session was lost, and nothing else.
        let mut pause = Duration::ZERO;
        loop {
            match self.sessions.duty(KEEP_ALIVE, pause) {
                Duty::KeepAlive => {
                    self.keep_alive();
                    pause = Duration::ZERO;
                }
                // The module only when the first attempt was not enough.
                Duty::Recover => match self.recover(!pause.is_zero()) {
                    Ok(()) => pause = Duration::ZERO,
                    Err(error) => {
                        self.sessions.still_failing(error);
                        // Not all the pods of a mesh at once.
                        let doubled = (pause * 2).clamp(RETRY.0, RETRY.1);
                        pause = doubled.mul_f64(0.75 + fastrand::f64() / 4.0);
                    }
                },
                Duty::End => return self.end(),
            }
        }
    }

    /// Begins the token anew, and the module itself where that alone does not help.
    fn recover(&self, with_module: bool) -> Result<(), SignError> {
        self.close_idle();
        self.sessions.reserve(PATIENCE)?;
        let recovered = match self.begin_anew() {
            Err(SignError::Unusable(_)) if with_module && self.sessions.module.reload() => {
                self.sessions.reloaded();
                self.begin_anew()
            }
            other => other,
        };
        match recovered {
            Ok((token, first, module)) => {
                self.sessions.recovered(token, first, module);
                Ok(())
            }
            Err(error) => {
                self.sessions.unreserve();
                Err(error)
            }
        }
    }

    /// Uses a session of those that sign, and the one that a made key lives in.
    fn keep_alive(&self) {
        self.sessions.keep_alive();
        if let Some(holder) = &self.holder
            && let Ok(pass) = self.sessions.enter(Instant::now())
            && holder.module == pass.generation()
        {
            // Whether the key is there is found out by those that sign.
            let _ = self.sessions.find(&holder.session);
        }
    }

    /// Closes what is open; with its session a key that was made here is gone.
    fn end(self) {
        self.close_idle();
        if let Some(holder) = self.holder
            && let Ok(pass) = self.sessions.enter(Instant::now())
            && holder.module == pass.generation()
        {
            // A session that is lost has taken the key along.
            let _ = holder.session.close();
        }
    }

    fn close_idle(&self) {
        // While the module is initialised anew there is nothing to close.
        if let Ok(pass) = self.sessions.enter(Instant::now()) {
            self.sessions.close_idle(&pass);
        }
    }

    /// Finds the token and the key, and has it sign.
    fn begin_anew(&self) -> Result<(TokenSlot, (Session, ObjectHandle), u64), SignError> {
        let pass = self.sessions.enter(Instant::now())?;
        let token = TokenSlot::find(&self.sessions.module, &self.sessions.config, &pass)?;
        let session = token.open_session(&pass)?;
        match self.prove(&session, &pass) {
            Ok(key) => Ok((token, (session, key), pass.generation())),
            Err(error) => {
                // What failed is said already.
                let _ = session.close();
                Err(error)
            }
        }
    }

    fn prove(&self, session: &Session, _pass: &Pass<'_>) -> Result<ObjectHandle, SignError> {
        let key = self.sessions.find(session)?;
        let signature = mechanism::sign(session, key, self.scheme, PROOF)
            .map_err(|error| sign_error(&error))
            .and_then(|raw| mechanism::wire_form(self.scheme, raw))?;
        if self.public.verifies(self.scheme, PROOF, &signature) {
            Ok(key)
        } else {
            Err(SignError::KeyChanged)
        }
    }
}
