//! One loaded library for each path, for as long as the process lives: `C_Initialize` is for the
//! whole process, and whoever finalises ends it for everybody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use zeroize::Zeroizing;

use crate::OpenError;

/// A loaded and initialised library.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) context: Pkcs11,
    /// Logging in is for a token, not for a session or a key: one at a time, and one memory of
    /// refused PINs, whoever asks.
    pub(super) logins: Mutex<HashMap<String, Rejected>>,
}

/// A PIN that a token refused.
pub(super) struct Rejected(pub(super) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rejected")
    }
}

/// Loads the library at `path`, or gives the one loaded before.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, OpenError> {
    static LOADED: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
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
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(failed(format!("C_Initialize: {error}"))),
    }
    let module = Arc::new(Module {
        context,
        logins: Mutex::default(),
    });
    loaded.insert(canonical, module.clone());
    Ok(module)
}
