//! The real module: loaded once, never unloaded (its threads and exit handlers may still need it).
//! What the simulator asks of it for itself is here as safe functions; calls of applications are
//! forwarded by `entry` and `special`.

#![allow(
    unsafe_code,
    reason = "another module's functions are foreign code, whatever we do"
)]

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::{
    CK_FALSE, CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_0, CK_INTERFACE, CK_RV,
    CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID, CK_TOKEN_INFO, CK_TRUE, CK_ULONG, CK_VERSION,
    CKF_TOKEN_INITIALIZED, CKR_BUFFER_TOO_SMALL, CKR_FUNCTION_NOT_SUPPORTED, CKR_OK,
};
use libloading::{Library, Symbol};

use crate::store::find_softhsm;

/// A loaded module.
#[derive(Debug)]
pub(super) struct Real {
    functions: &'static CK_FUNCTION_LIST,
    newer: Option<&'static CK_FUNCTION_LIST_3_0>,
}

type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
type GetInterface =
    unsafe extern "C" fn(*mut u8, *mut CK_VERSION, *mut *mut CK_INTERFACE, CK_FLAGS) -> CK_RV;

static LOADED: OnceLock<Real> = OnceLock::new();

impl Real {
    /// Loads the module that the settings name, or gives the one that was loaded before.
    pub(super) fn load(module: Option<&Path>) -> Result<&'static Self, String> {
        if let Some(real) = LOADED.get() {
            return Ok(real);
        }
        let path = match module {
            Some(path) => path.to_owned(),
            None => find_softhsm().ok_or(
                "SoftHSM is not installed: `apt-get install softhsm2`, or name a module in \
                 device.yaml (`module: /path/to/module.so`)",
            )?,
        };
        let real = Self::open(&path).map_err(|problem| {
            format!(
                "{}: {problem}: name a PKCS#11 module in device.yaml (`module: …`)",
                path.display()
            )
        })?;
        Ok(LOADED.get_or_init(|| real))
    }

    /// Its functions of version 2.40. An option only to look like [`Self::newer`].
    pub(super) fn functions(&self) -> Option<&'static CK_FUNCTION_LIST> {
        Some(self.functions)
    }

    /// Its functions of version 3.0, if it has them.
    pub(super) fn newer(&self) -> Option<&'static CK_FUNCTION_LIST_3_0> {
        self.newer
    }

    /// Ends a session.
    pub(super) fn close_session(&self, session: CK_SESSION_HANDLE) -> CK_RV {
        self.functions
            .C_CloseSession
            // SAFETY: takes no pointer; a wrong handle is an error of its own.
            .map_or(CKR_FUNCTION_NOT_SUPPORTED, |f| unsafe { f(session) })
    }

    /// Ends the login to a session's token.
    pub(super) fn log_out(&self, session: CK_SESSION_HANDLE) -> CK_RV {
        self.functions
            .C_Logout
            // SAFETY: takes no pointer; a wrong handle is an error of its own.
            .map_or(CKR_FUNCTION_NOT_SUPPORTED, |f| unsafe { f(session) })
    }

    /// The state of a session: who is logged in.
    pub(super) fn session_state(&self, session: CK_SESSION_HANDLE) -> Option<CK_ULONG> {
        let mut info = CK_SESSION_INFO::default();
        // SAFETY: `info` is valid for the call.
        let rv = unsafe { self.functions.C_GetSessionInfo?(session, &raw mut info) };
        (rv == CKR_OK).then_some(info.state)
    }

    /// The label of the token in a slot; none where there is no token that has one.
    pub(super) fn token_label(&self, slot: CK_SLOT_ID) -> Option<String> {
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: `info` is valid for the call.
        let rv = unsafe { self.functions.C_GetTokenInfo?(slot, &raw mut info) };
        (rv == CKR_OK && info.flags & CKF_TOKEN_INITIALIZED != 0).then(|| label(&info))
    }

    /// The slots, all or those with a token.
    pub(super) fn slots(&self, with_token: bool) -> Result<Vec<CK_SLOT_ID>, CK_RV> {
        let get = self
            .functions
            .C_GetSlotList
            .ok_or(CKR_FUNCTION_NOT_SUPPORTED)?;
        let present = if with_token { CK_TRUE } else { CK_FALSE };
        let mut slots: Vec<CK_SLOT_ID> = vec![0; 64];
        loop {
            let mut count = slots.len() as CK_ULONG;
            // SAFETY: `slots` has room for as many as `count` says.
            match unsafe { get(present, slots.as_mut_ptr(), &raw mut count) } {
                CKR_OK => {
                    slots.truncate(usize::try_from(count).unwrap_or(0));
                    return Ok(slots);
                }
                CKR_BUFFER_TOO_SMALL => slots.resize(slots.len() * 2, 0),
                rv => return Err(rv),
            }
        }
    }

    fn open(path: &PathBuf) -> Result<Self, String> {
        // SAFETY: loading a library runs its code, which is what the settings ask for.
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        // Never unloaded: the lists below are part of it.
        let library = Box::leak(Box::new(library));
        // SAFETY: the standard gives this symbol this type.
        let get: Symbol<'_, GetFunctionList> =
            unsafe { library.get(b"C_GetFunctionList\0") }.map_err(|error| error.to_string())?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: `list` is valid for the call.
        let rv = unsafe { get(&raw mut list) };
        // SAFETY: the module gives a list that stays valid for as long as it is loaded.
        let functions = unsafe { list.as_ref() }.ok_or(format!("C_GetFunctionList: {rv:#x}"))?;
        if ptr::eq(functions, &super::interface::FUNCTIONS) {
            return Err("this is the simulator itself".to_owned());
        }
        Ok(Self {
            functions,
            newer: newer(library),
        })
    }
}

/// A label as the standard pads it.
pub(super) fn label(info: &CK_TOKEN_INFO) -> String {
    String::from_utf8_lossy(&info.label)
        .trim_end_matches([' ', '\0'])
        .to_owned()
}

/// The list of version 3.0, or of a later one, which begins alike.
fn newer(library: &'static Library) -> Option<&'static CK_FUNCTION_LIST_3_0> {
    // SAFETY: the standard gives this symbol this type.
    let get: Symbol<'_, GetInterface> = unsafe { library.get(b"C_GetInterface\0") }.ok()?;
    let mut version = CK_VERSION { major: 3, minor: 0 };
    for version in [&raw mut version, ptr::null_mut()] {
        let mut name = *b"PKCS 11\0";
        let mut interface: *mut CK_INTERFACE = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and the name ends with a zero.
        let rv = unsafe { get(name.as_mut_ptr(), version, &raw mut interface, 0) };
        // SAFETY: an interface that was found stays valid for as long as the module is loaded.
        let Some(interface) = (unsafe { interface.as_ref() }).filter(|_| rv == CKR_OK) else {
            continue;
        };
        let list: *mut c_void = interface.pFunctionList;
        // SAFETY: every list begins with its version.
        let found = unsafe { list.cast::<CK_VERSION>().as_ref() };
        if found.is_some_and(|found| found.major >= 3) {
            // SAFETY: a list of version 3 begins with the functions of 3.0.
            return unsafe { list.cast::<CK_FUNCTION_LIST_3_0>().as_ref() };
        }
    }
    None
}
