//! The module as C has it: what cryptoki does not let one do.

#![allow(unsafe_code, reason = "C functions")]

use std::ffi::CStr;
use std::ptr;

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_INTERFACE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_VERSION, CKF_SERIAL_SESSION, CKR_OK,
};

use crate::home::module;

/// The module's functions.
#[derive(Copy, Clone)]
pub(crate) struct Raw {
    loaded: &'static cryptoki_sys::Pkcs11,
    functions: &'static CK_FUNCTION_LIST,
}

impl Raw {
    pub(crate) fn new() -> Self {
        // SAFETY: the library is ours.
        let library = Box::leak(Box::new(unsafe {
            cryptoki_sys::Pkcs11::new(module()).unwrap()
        }));
        let mut list = ptr::null_mut();
        // SAFETY: `list` is valid for writing.
        let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
        assert_eq!(rv, CKR_OK);
        Self {
            loaded: library,
            // SAFETY: the list stays valid while the library is loaded, which is for ever.
            functions: unsafe { &*list },
        }
    }

    pub(crate) fn get_info(self) -> CK_RV {
        let mut info = CK_INFO::default();
        // SAFETY: `info` is valid for writing.
        unsafe { (self.functions.C_GetInfo.unwrap())(&raw mut info) }
    }

    pub(crate) fn open_session(self, slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
        let mut session = 0;
        let open = self.functions.C_OpenSession.unwrap();
        let (flags, null) = (CKF_SERIAL_SESSION, ptr::null_mut());
        // SAFETY: `session` is valid for writing.
        let rv = unsafe { open(slot, flags, null, None, &raw mut session) };
        assert_eq!(rv, CKR_OK);
        session
    }

    pub(crate) fn close_session(self, session: CK_SESSION_HANDLE) -> CK_RV {
        // SAFETY: takes no pointer.
        unsafe { (self.functions.C_CloseSession.unwrap())(session) }
    }

    pub(crate) fn close_all_sessions(self, slot: CK_SLOT_ID) -> CK_RV {
        // SAFETY: takes no pointer.
        unsafe { (self.functions.C_CloseAllSessions.unwrap())(slot) }
    }

    /// Something that a session does without a login.
    pub(crate) fn random(self, session: CK_SESSION_HANDLE) -> CK_RV {
        let mut bytes = [0; 8];
        let random = self.functions.C_GenerateRandom.unwrap();
        // SAFETY: there are eight bytes.
        unsafe { random(session, bytes.as_mut_ptr(), 8) }
    }

    /// Waits for a token to come or go, or looks whether one has.
    pub(crate) fn wait_for_slot_event(self, flags: CK_FLAGS) -> (CK_RV, CK_SLOT_ID) {
        let mut slot = 0;
        let wait = self.functions.C_WaitForSlotEvent.unwrap();
        // SAFETY: `slot` is valid for writing.
        let rv = unsafe { wait(flags, &raw mut slot, ptr::null_mut()) };
        (rv, slot)
    }

    /// How many interfaces there are, and their versions as far as there is room for them.
    pub(crate) fn interfaces(self, room: usize) -> (CK_RV, Vec<(u8, u8)>) {
        let mut list = vec![CK_INTERFACE::default(); room];
        let mut count = room as u64;
        // SAFETY: there is room for as many as `count` says.
        let rv = unsafe { (self.loaded).C_GetInterfaceList(list.as_mut_ptr(), &raw mut count) };
        let given = if rv == CKR_OK { &list[..] } else { &[] };
        (rv, given.iter().map(version).collect())
    }

    pub(crate) fn count_interfaces(self) -> u64 {
        let mut count = 0;
        // SAFETY: without a list there is nothing to write but the number.
        let rv = unsafe { (self.loaded).C_GetInterfaceList(ptr::null_mut(), &raw mut count) };
        assert_eq!(rv, CKR_OK);
        count
    }

    /// The version of the interface that is found.
    pub(crate) fn interface(
        self,
        name: Option<&CStr>,
        wanted: Option<(u8, u8)>,
        flags: CK_FLAGS,
    ) -> Result<(u8, u8), CK_RV> {
        let name = name.map_or(ptr::null(), CStr::as_ptr);
        let mut wanted = wanted.map(|(major, minor)| CK_VERSION { major, minor });
        let wanted = wanted.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        let mut found = ptr::null_mut();
        let name = name.cast_mut().cast();
        // SAFETY: all pointers are null or valid.
        let rv = unsafe { (self.loaded).C_GetInterface(name, wanted, &raw mut found, flags) };
        // SAFETY: an interface that is given stays valid.
        unsafe { found.as_ref() }.map(version).ok_or(rv)
    }
}

fn version(interface: &CK_INTERFACE) -> (u8, u8) {
    // SAFETY: every list begins with its version.
    let version = unsafe { *interface.pFunctionList.cast::<CK_VERSION>() };
    (version.major, version.minor)
}
