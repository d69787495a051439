//! The functions that are all alike: found in the real module's list, and called there when the
//! device lets them.

#![allow(
    unsafe_code,
    non_snake_case,
    reason = "C functions, by the names that the standard gives them"
)]

use std::ffi::c_void;
use std::slice;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FLAGS, CK_INFO, CK_MECHANISM, CK_MECHANISM_INFO, CK_MECHANISM_TYPE,
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_INFO, CK_ULONG, CKR_FUNCTION_NOT_SUPPORTED,
};

use super::call::{Answer, Call, Target};
use crate::pkcs11::Function;

macro_rules! forward {
    ($($list:ident $name:ident($first:ident $(, $argument:ident: $type:ty)*) $(asks $asks:expr)?;)*) => {$(
        pub(super) unsafe extern "C" fn $name(first: CK_ULONG, $($argument: $type),*) -> CK_RV {
            #[allow(unused_mut, unused_assignments, reason = "not every function can ask for a length")]
            let mut length_query = false;
            $(length_query = $asks;)?
            Call::new(Function::$name, length_query).perform(Target::$first(first), &mut |passage| {
                let function = passage.live.real.$list().and_then(|list| list.$name);
                Answer::Real(match function {
                    // SAFETY: the arguments are the application's, who vouches for them; only the
                    // session is exchanged for the one it stands for.
                    Some(function) => unsafe { function(passage.target, $($argument),*) },
                    None => CKR_FUNCTION_NOT_SUPPORTED,
                })
            })
        }
    )*};
}

type Attributes = *mut CK_ATTRIBUTE;
type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;
type Mechanism = *mut CK_MECHANISM;
type Object = CK_OBJECT_HANDLE;
type Objects = *mut CK_OBJECT_HANDLE;

forward! {
    functions C_GetMechanismList(Slot, types: *mut CK_MECHANISM_TYPE, count: Length) asks types.is_null();
    functions C_GetMechanismInfo(Slot, kind: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    functions C_GetSessionInfo(Session, info: *mut CK_SESSION_INFO);
    functions C_GetOperationState(Session, state: Bytes, length: Length) asks state.is_null();
    functions C_SetOperationState(Session, state: Bytes, length: CK_ULONG, encryption: Object, authentication: Object);
    functions C_Logout(Session);
    functions C_CreateObject(Session, template: Attributes, count: CK_ULONG, object: Objects);
    functions C_CopyObject(Session, object: Object, template: Attributes, count: CK_ULONG, copy: Objects);
    functions C_DestroyObject(Session, object: Object);
    functions C_GetObjectSize(Session, object: Object, size: Length);
    functions C_GetAttributeValue(Session, object: Object, template: Attributes, count: CK_ULONG)
        // SAFETY: the application vouches for its template.
        asks unsafe { asks_for_lengths(template, count) };
    functions C_SetAttributeValue(Session, object: Object, template: Attributes, count: CK_ULONG);
    functions C_FindObjectsInit(Session, template: Attributes, count: CK_ULONG);
    functions C_FindObjects(Session, objects: Objects, most: CK_ULONG, count: Length);
    functions C_FindObjectsFinal(Session);
    functions C_EncryptInit(Session, mechanism: Mechanism, key: Object);
    functions C_Encrypt(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_EncryptUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_EncryptFinal(Session, output: Bytes, length: Length) asks output.is_null();
    functions C_DecryptInit(Session, mechanism: Mechanism, key: Object);
    functions C_Decrypt(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DecryptUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DecryptFinal(Session, output: Bytes, length: Length) asks output.is_null();
    functions C_DigestInit(Session, mechanism: Mechanism);
    functions C_Digest(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DigestUpdate(Session, input: Bytes, input_length: CK_ULONG);
    functions C_DigestKey(Session, key: Object);
    functions C_DigestFinal(Session, output: Bytes, length: Length) asks output.is_null();
    functions C_SignInit(Session, mechanism: Mechanism, key: Object);
    functions C_Sign(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_SignUpdate(Session, input: Bytes, input_length: CK_ULONG);
    functions C_SignFinal(Session, output: Bytes, length: Length) asks output.is_null();
    functions C_SignRecoverInit(Session, mechanism: Mechanism, key: Object);
    functions C_SignRecover(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_VerifyInit(Session, mechanism: Mechanism, key: Object);
    functions C_Verify(Session, input: Bytes, input_length: CK_ULONG, signature: Bytes, length: CK_ULONG);
    functions C_VerifyUpdate(Session, input: Bytes, input_length: CK_ULONG);
    functions C_VerifyFinal(Session, signature: Bytes, length: CK_ULONG);
    functions C_VerifyRecoverInit(Session, mechanism: Mechanism, key: Object);
    functions C_VerifyRecover(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DigestEncryptUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DecryptDigestUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_SignEncryptUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_DecryptVerifyUpdate(Session, input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    functions C_GenerateKey(Session, mechanism: Mechanism, template: Attributes, count: CK_ULONG, key: Objects);
    functions C_GenerateKeyPair(Session, mechanism: Mechanism, public: Attributes, public_count: CK_ULONG,
        private: Attributes, private_count: CK_ULONG, public_key: Objects, private_key: Objects);
    functions C_WrapKey(Session, mechanism: Mechanism, wrapping: Object, key: Object, output: Bytes, length: Length) asks output.is_null();
    functions C_UnwrapKey(Session, mechanism: Mechanism, unwrapping: Object, wrapped: Bytes, wrapped_length: CK_ULONG,
        template: Attributes, count: CK_ULONG, key: Objects);
    functions C_DeriveKey(Session, mechanism: Mechanism, base: Object, template: Attributes, count: CK_ULONG, key: Objects);
    functions C_SeedRandom(Session, seed: Bytes, length: CK_ULONG);
    functions C_GenerateRandom(Session, random: Bytes, length: CK_ULONG);
    functions C_GetFunctionStatus(Session);
    functions C_CancelFunction(Session);

    newer C_SessionCancel(Session, flags: CK_FLAGS);
    newer C_MessageEncryptInit(Session, mechanism: Mechanism, key: Object);
    newer C_EncryptMessage(Session, parameter: *mut c_void, parameter_length: CK_ULONG, data: Bytes, data_length: CK_ULONG,
        input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    newer C_EncryptMessageBegin(Session, parameter: *mut c_void, parameter_length: CK_ULONG, data: Bytes, data_length: CK_ULONG);
    newer C_EncryptMessageNext(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        output: Bytes, length: Length, flags: CK_FLAGS) asks output.is_null();
    newer C_MessageEncryptFinal(Session);
    newer C_MessageDecryptInit(Session, mechanism: Mechanism, key: Object);
    newer C_DecryptMessage(Session, parameter: *mut c_void, parameter_length: CK_ULONG, data: Bytes, data_length: CK_ULONG,
        input: Bytes, input_length: CK_ULONG, output: Bytes, length: Length) asks output.is_null();
    newer C_DecryptMessageBegin(Session, parameter: *mut c_void, parameter_length: CK_ULONG, data: Bytes, data_length: CK_ULONG);
    newer C_DecryptMessageNext(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        output: Bytes, length: Length, flags: CK_FLAGS) asks output.is_null();
    newer C_MessageDecryptFinal(Session);
    newer C_MessageSignInit(Session, mechanism: Mechanism, key: Object);
    newer C_SignMessage(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        output: Bytes, length: Length) asks output.is_null();
    newer C_SignMessageBegin(Session, parameter: *mut c_void, parameter_length: CK_ULONG);
    // Without output this one says that there is more input to come.
    newer C_SignMessageNext(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        output: Bytes, length: Length);
    newer C_MessageSignFinal(Session);
    newer C_MessageVerifyInit(Session, mechanism: Mechanism, key: Object);
    newer C_VerifyMessage(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        signature: Bytes, length: CK_ULONG);
    newer C_VerifyMessageBegin(Session, parameter: *mut c_void, parameter_length: CK_ULONG);
    newer C_VerifyMessageNext(Session, parameter: *mut c_void, parameter_length: CK_ULONG, input: Bytes, input_length: CK_ULONG,
        signature: Bytes, length: CK_ULONG);
    newer C_MessageVerifyFinal(Session);
}

pub(super) unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    Call::new(Function::C_GetInfo, false).perform(Target::Module, &mut |passage| {
        let function = passage
            .live
            .real
            .functions()
            .and_then(|list| list.C_GetInfo);
        Answer::Real(match function {
            // SAFETY: the application vouches for its pointer.
            Some(function) => unsafe { function(info) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        })
    })
}

/// Whether a template asks for nothing but how long values are.
unsafe fn asks_for_lengths(template: Attributes, count: CK_ULONG) -> bool {
    let count = usize::try_from(count).unwrap_or(0);
    if template.is_null() || count == 0 {
        return false;
    }
    // SAFETY: the caller vouches for it.
    let template = unsafe { slice::from_raw_parts(template, count) };
    template.iter().all(|attribute| attribute.pValue.is_null())
}
