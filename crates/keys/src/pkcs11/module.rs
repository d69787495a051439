//! One loaded library for each path, for as long as the process lives: `C_Initialize` is for the
//! whole process, and whoever finalises ends it for everybody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use zeroize::Zeroizing;

use super::gate::Gate;
use super::trouble::answer;
use crate::OpenError;

/// The shortest time between two initialisations after the first. A library that was broken until
/// it was loaded again is reported, one that never mends must not be loaded again and again.
const RELOAD_FLOOR: Duration = Duration::from_secs(30);

/// How long calls that are under way may take to end before the library is initialised anew.
const QUIESCE: Duration = Duration::from_secs(2);

/// A loaded and initialised library.
#[derive(Debug)]
pub(super) struct Module {
    /// To be called with a pass of the gate only.
    pub(super) context: Pkcs11,
    pub(super) gate: Gate,
    /// Logging in is for a token, not for a session or a key: one at a time, and one memory of
    /// refused PINs, whoever asks.
    pub(super) logins: Mutex<HashMap<String, Rejected>>,
    /// When it was last initialised anew.
    reloaded: Mutex<Option<Instant>>,
}

/// A PIN that a token refused.
pub(super) struct Rejected(pub(super) Zeroizing<Vec<u8>>);

impl Module {
    /// Finalises and initialises the library, unless that was done within the last 30 s, or a call
    /// is stuck in it. Says whether it was done. The caller must hold no pass.
    pub(super) fn reload(&self) -> bool {
        let mut last = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < RELOAD_FLOOR) {
            return false;
        }
        let done = self.gate.alone(QUIESCE, || {
            // What is broken may not even finalise: initialising is what counts.
            let finalised = self.context.clone().finalize();
            (finalised, initialise(&self.context))
        });
        let Some((finalised, initialised)) = done else {
            tracing::warn!("the PKCS#11 module is not initialised anew: a call is stuck in it");
            return false;
        };
        *last = Some(Instant::now());
        let failed = |result: Result<(), Error>| result.err().map(|error| answer(&error));
        tracing::warn!(
            finalise = failed(finalised),
            initialise = failed(initialised),
            "the PKCS#11 module was initialised anew"
        );
        true
    }
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rejected")
    }
}

/// Every library that was loaded.
static LOADED: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();

/// Ends the use of every library, and finalises those in which no call is stuck.
pub(super) fn finish(patience: Duration) {
    let Some(loaded) = LOADED.get() else { return };
    let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    for module in loaded.values() {
        module.gate.end(patience, || {
            if let Err(error) = module.context.clone().finalize() {
                tracing::debug!(
                    error = answer(&error),
                    "the PKCS#11 module did not finalise"
                );
            }
        });
    }
}

/// Loads the library at `path`, or gives the one loaded before.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, OpenError> {
    let failed = |problem: String| OpenError::Module {
        path: path.to_owned(),
        problem,
    };
    let canonical = path
        .canonicalize()
        .map_err(|error| failed(error.to_string()))?;
    let mut loaded = LOADED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(&canonical) {
        return Ok(module.clone());
    }
    let context = Pkcs11::new(&canonical).map_err(|error| failed(error.to_string()))?;
    initialise(&context).map_err(|error| failed(answer(&error)))?;
    let module = Arc::new(Module {
        context,
        gate: Gate::default(),
        logins: Mutex::default(),
        reloaded: Mutex::default(),
    });
    loaded.insert(canonical, module.clone());
    Ok(module)
}

fn initialise(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        other => other,
    }
}
