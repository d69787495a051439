//! What a return value asks for: the failures that users of PKCS#11 reported, sorted by what
//! helped them (see `docs/hsm.md`).

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::SignError;

/// What to do about an error.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// The session, the login or a handle is gone: once more in a new session.
    Session,
    /// The device, the token or the module is not as it was: begin anew, with the module itself
    /// where that is not enough.
    Device,
    /// The device gives out no more sessions: wait for one of those there are.
    Full,
    /// Trying again would change nothing.
    Final,
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Self {
        let Error::Pkcs11(code, function) = error else {
            return Self::Final;
        };
        match code {
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::UserNotLoggedIn
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::FunctionFailed
            | RvError::FunctionCanceled => Self::Session,
            RvError::GeneralError
            | RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized => Self::Device,
            RvError::SessionCount => Self::Full,
            // What one cloud HSM's library says when its sessions have run out.
            RvError::ArgumentsBad if matches!(function, Function::OpenSession) => Self::Full,
            _ => Self::Final,
        }
    }
}

/// An error as callers see it.
pub(super) fn sign_error(error: &Error) -> SignError {
    let said = answer(error);
    match Trouble::of(error) {
        Trouble::Device => SignError::Unusable(said),
        Trouble::Full => SignError::NoSession,
        Trouble::Session | Trouble::Final => SignError::Device(said),
    }
}

/// An error in PKCS#11's own names, such as `CKR_DEVICE_ERROR to C_Sign`.
pub(super) fn answer(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::VendorDefined(code) | RvError::UnknownErrorCode(code), function) => {
            format!("{code:#010x} to C_{function:?}")
        }
        Error::Pkcs11(code, function) => format!("{} to C_{function:?}", constant(code)),
        other => other.to_string(),
    }
}

fn constant(code: &RvError) -> String {
    let mut name = "CKR".to_owned();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_session_is_replaced_and_a_lost_device_begun_anew() {
        let of = |code| Trouble::of(&Error::Pkcs11(code, Function::Sign));
        assert_eq!(of(RvError::SessionHandleInvalid), Trouble::Session);
        assert_eq!(of(RvError::UserNotLoggedIn), Trouble::Session);
        assert_eq!(of(RvError::DeviceRemoved), Trouble::Device);
        assert_eq!(of(RvError::CryptokiNotInitialized), Trouble::Device);
        assert_eq!(of(RvError::SessionCount), Trouble::Full);
        assert_eq!(of(RvError::PinIncorrect), Trouble::Final);
        assert_eq!(of(RvError::MechanismInvalid), Trouble::Final);
    }

    #[test]
    fn bad_arguments_mean_that_sessions_ran_out_only_where_one_was_asked_for() {
        let of = |function| Trouble::of(&Error::Pkcs11(RvError::ArgumentsBad, function));
        assert_eq!(of(Function::OpenSession), Trouble::Full);
        assert_eq!(of(Function::Sign), Trouble::Final);
    }

    #[test]
    fn an_answer_is_named_as_in_the_standard() {
        let of = |code| answer(&Error::Pkcs11(code, Function::SignInit));
        assert_eq!(
            of(RvError::SessionHandleInvalid),
            "CKR_SESSION_HANDLE_INVALID to C_SignInit"
        );
        assert_eq!(
            of(RvError::VendorDefined(0x8000_0001)),
            "0x80000001 to C_SignInit"
        );
    }
}
