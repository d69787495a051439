//! The names of PKCS#11: its functions and its return values. For settings, the log and the counters,
//! which name them as the standard does.

#![allow(
    non_camel_case_types,
    reason = "the functions keep the names that the standard gives them"
)]

use std::fmt;
use std::str::FromStr;

use cryptoki_sys::CK_RV;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How far a call goes in a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Reach {
    /// Answered by the library.
    Library,
    /// Answered by the device.
    Device,
    /// Answered by the device with the use of a key, or by making one.
    Key,
}

macro_rules! functions {
    ($($reach:ident { $($name:ident,)* })*) => {
        /// A function of PKCS#11, up to version 3.0.
        #[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Function {
            $($(#[doc = concat!("`", stringify!($name), "`")] $name,)*)*
        }

        impl Function {
            /// Every one.
            pub const ALL: &[Self] = &[$($(Self::$name,)*)*];

            /// Its name in the standard.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$name => stringify!($name),)*)*
                }
            }

            /// How far a call of it goes.
            pub fn reach(self) -> Reach {
                match self {
                    $($(Self::$name)|* => Reach::$reach,)*
                }
            }
        }
    };
}

functions! {
    Library {
        C_Initialize, C_Finalize, C_GetInfo, C_GetFunctionList, C_GetFunctionStatus,
        C_CancelFunction, C_GetInterfaceList, C_GetInterface,
    }
    Device {
        C_GetSlotList, C_GetSlotInfo, C_GetTokenInfo, C_GetMechanismList, C_GetMechanismInfo,
        C_InitToken, C_InitPIN, C_SetPIN, C_OpenSession, C_CloseSession, C_CloseAllSessions,
        C_GetSessionInfo, C_GetOperationState, C_SetOperationState, C_Login, C_Logout,
        C_CreateObject, C_CopyObject, C_DestroyObject, C_GetObjectSize, C_GetAttributeValue,
        C_SetAttributeValue, C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal,
        C_EncryptInit, C_EncryptUpdate, C_DecryptInit, C_DecryptUpdate, C_DigestInit, C_Digest,
        C_DigestUpdate, C_DigestFinal, C_SignInit, C_SignUpdate, C_SignRecoverInit,
        C_VerifyInit, C_VerifyUpdate, C_VerifyRecoverInit, C_DigestEncryptUpdate,
        C_DecryptDigestUpdate, C_SignEncryptUpdate, C_DecryptVerifyUpdate, C_SeedRandom,
        C_GenerateRandom, C_WaitForSlotEvent, C_LoginUser, C_SessionCancel,
        C_MessageEncryptInit, C_EncryptMessageBegin, C_EncryptMessageNext,
        C_MessageEncryptFinal, C_MessageDecryptInit, C_DecryptMessageBegin,
        C_DecryptMessageNext, C_MessageDecryptFinal, C_MessageSignInit, C_SignMessageBegin,
        C_SignMessageNext, C_MessageSignFinal, C_MessageVerifyInit, C_VerifyMessageBegin,
        C_VerifyMessageNext, C_MessageVerifyFinal,
    }
    Key {
        C_Encrypt, C_EncryptFinal, C_Decrypt, C_DecryptFinal, C_DigestKey, C_Sign, C_SignFinal,
        C_SignRecover, C_Verify, C_VerifyFinal, C_VerifyRecover, C_GenerateKey,
        C_GenerateKeyPair, C_WrapKey, C_UnwrapKey, C_DeriveKey, C_EncryptMessage,
        C_DecryptMessage, C_SignMessage, C_VerifyMessage,
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Function {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|function| function.name() == text)
            .ok_or_else(|| format!("{text:?} is no function of PKCS#11: write it as C_Sign"))
    }
}

impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Function {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A return value of PKCS#11.
#[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rv(pub CK_RV);

macro_rules! return_values {
    ($($name:ident,)*) => {
        const RETURN_VALUES: &[(&str, CK_RV)] = &[$((stringify!($name), cryptoki_sys::$name),)*];
    };
}

return_values! {
    CKR_OK, CKR_CANCEL, CKR_HOST_MEMORY, CKR_SLOT_ID_INVALID, CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED, CKR_ARGUMENTS_BAD, CKR_NO_EVENT, CKR_NEED_TO_CREATE_THREADS,
    CKR_CANT_LOCK, CKR_ATTRIBUTE_READ_ONLY, CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ACTION_PROHIBITED,
    CKR_DATA_INVALID, CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY,
    CKR_DEVICE_REMOVED, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_AEAD_DECRYPT_FAILED, CKR_FUNCTION_CANCELED, CKR_FUNCTION_NOT_PARALLEL,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_KEY_HANDLE_INVALID, CKR_KEY_SIZE_RANGE,
    CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_NOT_NEEDED, CKR_KEY_CHANGED, CKR_KEY_NEEDED,
    CKR_KEY_INDIGESTIBLE, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_NOT_WRAPPABLE,
    CKR_KEY_UNEXTRACTABLE, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID,
    CKR_OBJECT_HANDLE_INVALID, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED,
    CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED,
    CKR_SESSION_CLOSED, CKR_SESSION_COUNT, CKR_SESSION_HANDLE_INVALID,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED, CKR_SESSION_READ_ONLY, CKR_SESSION_EXISTS,
    CKR_SESSION_READ_ONLY_EXISTS, CKR_SESSION_READ_WRITE_SO_EXISTS, CKR_SIGNATURE_INVALID,
    CKR_SIGNATURE_LEN_RANGE, CKR_TEMPLATE_INCOMPLETE, CKR_TEMPLATE_INCONSISTENT,
    CKR_TOKEN_NOT_PRESENT, CKR_TOKEN_NOT_RECOGNIZED, CKR_TOKEN_WRITE_PROTECTED,
    CKR_UNWRAPPING_KEY_HANDLE_INVALID, CKR_UNWRAPPING_KEY_SIZE_RANGE,
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, CKR_USER_ALREADY_LOGGED_IN, CKR_USER_NOT_LOGGED_IN,
    CKR_USER_PIN_NOT_INITIALIZED, CKR_USER_TYPE_INVALID, CKR_USER_ANOTHER_ALREADY_LOGGED_IN,
    CKR_USER_TOO_MANY_TYPES, CKR_WRAPPED_KEY_INVALID, CKR_WRAPPED_KEY_LEN_RANGE,
    CKR_WRAPPING_KEY_HANDLE_INVALID, CKR_WRAPPING_KEY_SIZE_RANGE,
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT, CKR_RANDOM_SEED_NOT_SUPPORTED, CKR_RANDOM_NO_RNG,
    CKR_DOMAIN_PARAMS_INVALID, CKR_CURVE_NOT_SUPPORTED, CKR_BUFFER_TOO_SMALL,
    CKR_SAVED_STATE_INVALID, CKR_INFORMATION_SENSITIVE, CKR_STATE_UNSAVEABLE,
    CKR_CRYPTOKI_NOT_INITIALIZED, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_MUTEX_BAD,
    CKR_MUTEX_NOT_LOCKED, CKR_NEW_PIN_MODE, CKR_NEXT_OTP, CKR_EXCEEDED_MAX_ITERATIONS,
    CKR_FIPS_SELF_TEST_FAILED, CKR_LIBRARY_LOAD_FAILED, CKR_PIN_TOO_WEAK,
    CKR_PUBLIC_KEY_INVALID, CKR_FUNCTION_REJECTED, CKR_TOKEN_RESOURCE_EXCEEDED,
    CKR_OPERATION_CANCEL_FAILED, CKR_KEY_EXHAUSTED, CKR_PENDING,
    CKR_SESSION_ASYNC_NOT_SUPPORTED, CKR_SEED_RANDOM_REQUIRED, CKR_OPERATION_NOT_VALIDATED,
    CKR_TOKEN_NOT_INITIALIZED, CKR_PARAMETER_SET_NOT_SUPPORTED,
}

impl Rv {
    /// `CKR_OK`.
    pub const OK: Self = Self(cryptoki_sys::CKR_OK);

    /// How many values have a place of their own among the counters; the last is for all others.
    pub(crate) const PLACES: usize = RETURN_VALUES.len() + 1;

    /// Its place among the counters.
    pub(crate) fn place(self) -> usize {
        RETURN_VALUES
            .binary_search_by_key(&self.0, |(_, value)| *value)
            .unwrap_or(RETURN_VALUES.len())
    }

    /// The name of the values counted in a place.
    pub(crate) fn name_of_place(place: usize) -> &'static str {
        RETURN_VALUES.get(place).map_or("other", |(name, _)| name)
    }
}

impl fmt::Display for Rv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RETURN_VALUES.get(self.place()) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl FromStr for Rv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = RETURN_VALUES.iter().find(|(name, _)| *name == text);
        let number = || CK_RV::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        named
            .map(|(_, value)| *value)
            .or_else(number)
            .map(Self)
            .ok_or_else(|| {
                format!("{text:?} is no return value: write it as CKR_DEVICE_ERROR or 0x80000001")
            })
    }
}

impl Serialize for Rv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_function_is_read_as_it_is_written() {
        for function in Function::ALL {
            assert_eq!(function.name().parse(), Ok(*function));
        }
        assert!("C_Sing".parse::<Function>().unwrap_err().contains("C_Sign"));
    }

    #[test]
    fn every_named_return_value_has_a_place_of_its_own() {
        for (index, (name, value)) in RETURN_VALUES.iter().enumerate() {
            assert_eq!(Rv(*value).place(), index, "{name} is out of order");
        }
    }

    proptest! {
        #[test]
        fn every_return_value_is_read_as_it_is_written(value: CK_RV) {
            prop_assert_eq!(Rv(value).to_string().parse(), Ok(Rv(value)));
        }
    }
}
