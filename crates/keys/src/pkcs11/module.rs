//! One loaded library for each path, for as long as the process lives: `C_Initialize` is for the
//! whole process, and whoever finalises ends it for everybody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use zeroize::Zeroizing;

use super::gate::{Gate, Pass};
use super::trouble::answer;
use crate::OpenError;

/// The shortest time between two times that a library is finalised. One that was broken until it
/// was loaded again is reported, one that never mends must not be loaded again and again.
const RELOAD_FLOOR: Duration = Duration::from_secs(30);

/// How long calls that are under way may take to end before the library is initialised anew.
const QUIESCE: Duration = Duration::from_secs(2);

/// A loaded library.
#[derive(Debug)]
pub(super) struct Module {
    /// To be called with a pass of the gate only.
    pub(super) context: Pkcs11,
    gate: Gate,
    /// Logging in is for a token, not for a session or a key: one at a time, and one memory of
    /// refused PINs, whoever asks.
    pub(super) logins: Mutex<HashMap<String, Rejected>>,
    /// Whether it is initialised; changed by whoever is alone inside.
    initialised: AtomicBool,
    /// When it was last finalised; held by whoever initialises.
    finalised: Mutex<Option<Instant>>,
}

/// A PIN that a token refused.
pub(super) struct Rejected(pub(super) Zeroizing<Vec<u8>>);

impl Module {
    /// Initialises the library anew, unless it was finalised within the last 30 s, or a call is
    /// stuck in it. One whose initialisation failed is only initialised, as often as it takes.
    /// Says whether it was done. The caller must hold no pass.
    pub(super) fn reload(&self) -> bool {
        let mut last = self
            .finalised
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_initialised = self.initialised.load(Ordering::Acquire);
        if was_initialised && last.is_some_and(|last| last.elapsed() < RELOAD_FLOOR) {
            return false;
        }
        let done = self.gate.alone(QUIESCE, || {
            let finalised = was_initialised.then(|| {
                *last = Some(Instant::now());
                // What is broken may not even finalise: initialising is what counts.
                self.context.clone().finalize()
            });
            let initialised = initialise(&self.context);
            self.initialised
                .store(initialised.is_ok(), Ordering::Release);
            (finalised, initialised)
        });
        let Some((finalised, initialised)) = done else {
            tracing::warn!(
                "the PKCS#11 module is not initialised anew: a call is stuck in it, or it has ended"
            );
            return false;
        };
        tracing::warn!(
            finalise = finalised.and_then(Result::err).map(|error| answer(&error)),
            initialise = initialised.as_ref().err().map(answer),
            "the PKCS#11 module was initialised anew"
        );
        initialised.is_ok()
    }

    /// A pass to call it with; nothing after `deadline`, nor while it is not initialised.
    pub(super) fn enter(&self, deadline: Instant) -> Option<Pass<'_>> {
        let pass = self.gate.enter(deadline)?;
        self.initialised.load(Ordering::Acquire).then_some(pass)
    }

    /// Initialises the library where that has not succeeded yet.
    fn ensure_initialised(&self) -> Result<(), Error> {
        let _alone = self
            .finalised
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.initialised.load(Ordering::Acquire) {
            initialise(&self.context)?;
            self.initialised.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rejected")
    }
}

/// Every library that was loaded. None is unloaded: it may have threads and exit handlers.
static LOADED: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();

/// Ends the use of every library, and finalises those in which no call is stuck.
pub(super) fn finish(patience: Duration) {
    let Some(loaded) = LOADED.get() else { return };
    let modules: Vec<_> = loaded
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .cloned()
        .collect();
    for module in modules {
        module.gate.end(patience, || {
            if module.initialised.load(Ordering::Acquire)
                && let Err(error) = module.context.clone().finalize()
            {
                tracing::debug!(
                    error = answer(&error),
                    "the PKCS#11 module did not finalise"
                );
            }
        });
    }
}

/// Loads the library at `path`, or gives the one loaded before, and sees to it that it is
/// initialised.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, OpenError> {
    let failed = |problem: String| OpenError::Module {
        path: path.to_owned(),
        problem,
    };
    let canonical = path
        .canonicalize()
        .map_err(|error| failed(error.to_string()))?;
    let module = {
        let mut loaded = LOADED
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match loaded.get(&canonical) {
            Some(module) => module.clone(),
            None => {
                let context = Pkcs11::new(&canonical).map_err(|error| failed(error.to_string()))?;
                let module = Arc::new(Module {
                    context,
                    gate: Gate::default(),
                    logins: Mutex::default(),
                    initialised: AtomicBool::new(false),
                    finalised: Mutex::default(),
                });
                loaded.insert(canonical, module.clone());
                module
            }
        }
    };
    // Without the lock on the others: this may take as long as a device does.
    module
        .ensure_initialised()
        .map_err(|error| failed(answer(&error)))?;
    Ok(module)
}

fn initialise(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        other => other,
    }
}
