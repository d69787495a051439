//! How an application finds the functions: the symbols that the library exports, and the lists of
//! functions that they give.

#![allow(
    unsafe_code,
    non_snake_case,
    reason = "C functions, by the names that the standard gives them"
)]

use std::ffi::{CStr, c_char};
use std::ptr;

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_3_0, CK_INTERFACE, CK_RV, CK_ULONG, CK_VERSION,
    CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL, CKR_FUNCTION_FAILED, CKR_OK,
};

use super::call::guarded;
use super::entry::*;
use super::live::Site;
use super::real::Real;
use super::special::*;

/// The only name of an interface that the standard gives.
const NAME: &CStr = c"PKCS 11";

macro_rules! list {
    ($type:ident, $major:literal $minor:literal, $($name:ident)*) => {
        $type {
            version: CK_VERSION { major: $major, minor: $minor },
            $($name: Some($name),)*
        }
    };
}

macro_rules! functions {
    ($type:ident, $major:literal $minor:literal, $($more:ident)*) => {
        list!($type, $major $minor,
            C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo
            C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN
            C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
            C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject
            C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue
            C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal
            C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt
            C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey
            C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit
            C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal
            C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
            C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey
            C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus
            C_CancelFunction C_WaitForSlotEvent
            $($more)*
        )
    };
}

pub(super) static FUNCTIONS: CK_FUNCTION_LIST = functions!(CK_FUNCTION_LIST, 2 40,);

static FUNCTIONS_3: CK_FUNCTION_LIST_3_0 = functions!(CK_FUNCTION_LIST_3_0, 3 0,
    C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit
    C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
    C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
    C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext
    C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin
    C_VerifyMessageNext C_MessageVerifyFinal
);

/// An interface that never changes.
struct Interface(CK_INTERFACE);

// SAFETY: what it points to is static, and nobody writes to it.
unsafe impl Sync for Interface {}

static INTERFACE: Interface = Interface(CK_INTERFACE {
    pInterfaceName: NAME.as_ptr().cast_mut().cast(),
    pFunctionList: (&raw const FUNCTIONS).cast_mut().cast(),
    flags: 0,
});

static INTERFACE_3: Interface = Interface(CK_INTERFACE {
    pInterfaceName: NAME.as_ptr().cast_mut().cast(),
    pFunctionList: (&raw const FUNCTIONS_3).cast_mut().cast(),
    flags: 0,
});

/// Gives the functions of version 2.40.
///
/// # Safety
/// `list` is null or valid for writing.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: the caller vouches for it.
    let Some(list) = (unsafe { list.as_mut() }) else {
        return CKR_ARGUMENTS_BAD;
    };
    *list = (&raw const FUNCTIONS).cast_mut();
    CKR_OK
}

/// Lists the interfaces.
///
/// # Safety
/// `count` is null or valid for writing, and `list` is null or has room for that many.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn C_GetInterfaceList(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| {
        // SAFETY: the caller vouches for it.
        let Some(count) = (unsafe { count.as_mut() }) else {
            return CKR_ARGUMENTS_BAD;
        };
        let interfaces = interfaces();
        let room = usize::try_from(*count).unwrap_or(usize::MAX);
        *count = interfaces.len() as CK_ULONG;
        if list.is_null() {
            return CKR_OK;
        }
        if room < interfaces.len() {
            return CKR_BUFFER_TOO_SMALL;
        }
        for (index, interface) in interfaces.iter().enumerate() {
            // SAFETY: there is room for that many, says the caller.
            unsafe { list.add(index).write(interface.0) };
        }
        CKR_OK
    })
}

/// Gives an interface: the newest when nothing is asked for.
///
/// # Safety
/// `name` is null or ends with a zero, `version` is null or valid, `interface` is null or valid
/// for writing.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn C_GetInterface(
    name: *mut u8,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    guarded(|| {
        // SAFETY: the caller vouches for it.
        let (Some(interface), version) = (unsafe { (interface.as_mut(), version.as_ref()) }) else {
            return CKR_ARGUMENTS_BAD;
        };
        *interface = ptr::null_mut();
        // SAFETY: the caller vouches for it.
        let named = name.is_null() || unsafe { CStr::from_ptr(name.cast::<c_char>()) } == NAME;
        let found = interfaces().into_iter().find(|interface| {
            let asked_for = version.is_none_or(|version| {
                // SAFETY: every list begins with its version.
                let offered = unsafe { &*interface.0.pFunctionList.cast::<CK_VERSION>() };
                (version.major, version.minor) == (offered.major, offered.minor)
            });
            // None of the flags that can be asked for is offered.
            named && asked_for && flags == 0
        });
        match found {
            Some(found) => {
                *interface = (&raw const found.0).cast_mut();
                CKR_OK
            }
            None => CKR_FUNCTION_FAILED,
        }
    })
}

/// What the real module can do decides what is offered, the newest first. Without a device only
/// C_Initialize is of use, which then says what is missing.
fn interfaces() -> Vec<&'static Interface> {
    let real = Site::open().and_then(|site| {
        let module = site.watch.last().settings.module.clone();
        Real::load(module.as_deref())
    });
    match real {
        Ok(real) if real.newer().is_some() => vec![&INTERFACE_3, &INTERFACE],
        _ => vec![&INTERFACE],
    }
}
