//! Ends a session's operation in the real module after an error that was made up: with a real
//! error it would be over too, and the next C_SignInit would fail with CKR_OPERATION_ACTIVE.

#![allow(unsafe_code, reason = "calls into the real module")]

use cryptoki_sys::{
    CK_BYTE, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKF_DECRYPT, CKF_DIGEST, CKF_ENCRYPT,
    CKF_FIND_OBJECTS, CKF_SIGN, CKF_SIGN_RECOVER, CKF_VERIFY, CKF_VERIFY_RECOVER, CKR_OK,
};

use super::real::Real;
use crate::pkcs11::Function;

/// More than any output of a final call: signatures, blocks, digests.
const SCRATCH: usize = 64 * 1024;

type WholeOutput = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;
type FinalOutput = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_BYTE, *mut CK_ULONG) -> CK_RV;

/// Whether a function goes on with an operation, or ends one.
pub(super) fn has_operation(function: Function) -> bool {
    operations(function) != 0
}

/// Ends the operation that a function belongs to, if it is active.
pub(super) fn end_operation(real: &Real, function: Function, session: CK_SESSION_HANDLE) {
    let flags = operations(function);
    if cancel(real, session, flags) {
        return;
    }
    let Some(list) = real.functions() else { return };
    let mut scratch = Scratch::new(session);
    // By one call for all input, and by the last call of many: one of the two fits, the other
    // finds nothing to do. What comes out is thrown away.
    if flags & CKF_SIGN != 0 {
        scratch.whole(list.C_Sign);
        scratch.last(list.C_SignFinal);
    }
    if flags & CKF_SIGN_RECOVER != 0 {
        scratch.whole(list.C_SignRecover);
    }
    if flags & CKF_ENCRYPT != 0 {
        scratch.whole(list.C_Encrypt);
        scratch.last(list.C_EncryptFinal);
    }
    if flags & CKF_DECRYPT != 0 {
        scratch.whole(list.C_Decrypt);
        scratch.last(list.C_DecryptFinal);
    }
    if flags & CKF_DIGEST != 0 {
        scratch.whole(list.C_Digest);
        scratch.last(list.C_DigestFinal);
    }
    if flags & CKF_VERIFY_RECOVER != 0 {
        scratch.whole(list.C_VerifyRecover);
    }
    if flags & CKF_VERIFY != 0 {
        let (input, length) = (scratch.bytes.as_mut_ptr(), 1);
        if let Some(verify) = list.C_Verify {
            // SAFETY: `input` is valid for the lengths given.
            unsafe { verify(session, input, length, input, length) };
        }
        if let Some(verify) = list.C_VerifyFinal {
            // SAFETY: as above.
            unsafe { verify(session, input, length) };
        }
    }
    if flags & CKF_FIND_OBJECTS != 0
        && let Some(end) = list.C_FindObjectsFinal
    {
        // SAFETY: takes no pointer.
        unsafe { end(session) };
    }
}

/// Room for input and output that nobody looks at.
struct Scratch {
    session: CK_SESSION_HANDLE,
    bytes: Vec<CK_BYTE>,
}

impl Scratch {
    fn new(session: CK_SESSION_HANDLE) -> Self {
        Self {
            session,
            bytes: vec![0; SCRATCH],
        }
    }

    fn whole(&mut self, function: Option<WholeOutput>) {
        let mut input = [0; 1];
        let mut length = self.bytes.len() as CK_ULONG;
        if let Some(function) = function {
            // SAFETY: all pointers are valid for the lengths given.
            unsafe {
                function(
                    self.session,
                    input.as_mut_ptr(),
                    1,
                    self.bytes.as_mut_ptr(),
                    &raw mut length,
                )
            };
        }
    }

    fn last(&mut self, function: Option<FinalOutput>) {
        let mut length = self.bytes.len() as CK_ULONG;
        if let Some(function) = function {
            // SAFETY: the output is valid for the length given.
            unsafe { function(self.session, self.bytes.as_mut_ptr(), &raw mut length) };
        }
    }
}

/// By the function that version 3.0 has for it. False where there is none.
fn cancel(real: &Real, session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> bool {
    let cancel = real.newer().and_then(|list| list.C_SessionCancel);
    // SAFETY: takes no pointer.
    cancel.is_some_and(|cancel| unsafe { cancel(session, flags) } == CKR_OK)
}

/// The operations that a function goes on with or ends.
fn operations(function: Function) -> CK_FLAGS {
    use Function as F;
    match function {
        F::C_Sign | F::C_SignUpdate | F::C_SignFinal => CKF_SIGN,
        F::C_SignRecover => CKF_SIGN_RECOVER,
        F::C_Encrypt | F::C_EncryptUpdate | F::C_EncryptFinal => CKF_ENCRYPT,
        F::C_Decrypt | F::C_DecryptUpdate | F::C_DecryptFinal => CKF_DECRYPT,
        F::C_Digest | F::C_DigestUpdate | F::C_DigestKey | F::C_DigestFinal => CKF_DIGEST,
        F::C_Verify | F::C_VerifyUpdate | F::C_VerifyFinal => CKF_VERIFY,
        F::C_VerifyRecover => CKF_VERIFY_RECOVER,
        F::C_DigestEncryptUpdate => CKF_DIGEST | CKF_ENCRYPT,
        F::C_DecryptDigestUpdate => CKF_DECRYPT | CKF_DIGEST,
        F::C_SignEncryptUpdate => CKF_SIGN | CKF_ENCRYPT,
        F::C_DecryptVerifyUpdate => CKF_DECRYPT | CKF_VERIFY,
        F::C_FindObjects => CKF_FIND_OBJECTS,
        // An operation on messages outlives the failure of one message.
        _ => 0,
    }
}
