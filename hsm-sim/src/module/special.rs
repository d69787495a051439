//! The functions that need care: those that begin and end the module, sessions and logins, and
//! those that tell what is there.

#![allow(
    unsafe_code,
    non_snake_case,
    reason = "C functions, by the names that the standard gives them"
)]

use std::ffi::c_void;
use std::ptr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Release;

use cryptoki_sys::{
    CK_BBOOL, CK_BYTE, CK_EFFECTIVELY_INFINITE, CK_FALSE, CK_FLAGS, CK_NOTIFY, CK_RV,
    CK_SESSION_HANDLE, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CK_USER_TYPE, CKF_DONT_BLOCK, CKF_TOKEN_PRESENT,
    CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED, CKR_ARGUMENTS_BAD,
    CKR_BUFFER_TOO_SMALL, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_FUNCTION_NOT_SUPPORTED, CKR_NO_EVENT, CKR_OK, CKR_PIN_INCORRECT, CKR_PIN_LOCKED,
    CKS_RW_SO_FUNCTIONS, CKU_SO,
};

use super::call::{Answer, Call, Passage, Target, expire_all, guarded, made_up, nap};
use super::live::Live;
use super::real;
use crate::device::log::Violation;
use crate::device::settings::Shown;
use crate::device::watch::LOOK_EVERY;
use crate::pkcs11::Function;

/// Calls a function of the real module, where it has it.
macro_rules! real {
    ($passage:expr, $list:ident.$name:ident($($argument:expr),*)) => {
        match $passage.live.real.$list().and_then(|list| list.$name) {
            // SAFETY: the arguments are the application's, who vouches for them, or our own.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

pub(super) unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    let mut call = Call::new(Function::C_Initialize, false);
    guarded(|| {
        let rv = Live::initialize(|site, real| {
            let initialize = || match real.functions().and_then(|list| list.C_Initialize) {
                // SAFETY: the application vouches for its arguments.
                Some(initialize) => unsafe { initialize(arguments) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            };
            let fault = call.fault(site);
            call.finish(site, fault.unwrap_or_else(|| Answer::Real(initialize())))
        });
        match Live::enter() {
            Some(live) if rv == CKR_CRYPTOKI_ALREADY_INITIALIZED => {
                call.finish(&live.site, Answer::Real(rv))
            }
            _ => rv,
        }
    })
}

pub(super) unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    let mut call = Call::new(Function::C_Finalize, false);
    guarded(|| {
        let answered = Live::enter().and_then(|live| {
            let answer = match reserved.is_null() {
                true => call.fault(&live.site)?,
                false => Answer::Real(CKR_ARGUMENTS_BAD),
            };
            Some(call.finish(&live.site, answer))
        });
        if let Some(rv) = answered {
            return rv;
        }
        let ended = Live::finalize(|live| {
            match live.real.functions().and_then(|list| list.C_Finalize) {
                // SAFETY: the only argument is the one the standard asks for.
                Some(finalize) => unsafe { finalize(ptr::null_mut()) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            }
        });
        match ended {
            Some(ended) => {
                if ended.disturbed {
                    call.violates(Violation::FinalizeDuringCall);
                }
                call.finish(&ended.live.site, Answer::Real(ended.rv))
            }
            None => call.refuse(None, Violation::NotInitialized),
        }
    })
}

pub(super) unsafe extern "C" fn C_GetSlotList(
    present: CK_BBOOL,
    list: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    let length_query = list.is_null();
    Call::new(Function::C_GetSlotList, length_query).perform(Target::Module, &mut |passage| {
        let slots = &passage.live.slots;
        let all_there = slots.all().iter().all(|slot| slot.is_present());
        // Asking for the number makes some modules look for new slots.
        if all_there || present == CK_FALSE || length_query {
            let rv = real!(passage, functions.C_GetSlotList(present, list, count));
            if all_there || present == CK_FALSE || rv != CKR_OK {
                return Answer::Real(rv);
            }
        }
        let state = &passage.live.site.state;
        let mut found = match passage.live.real.slots(true) {
            Ok(found) => found,
            Err(rv) => return Answer::Real(rv),
        };
        found.retain(|id| {
            let slot = slots.get(*id, passage.live.real, state);
            passage.live.take_note(&slot, passage.in_force);
            slot.is_present()
        });
        // SAFETY: the application vouches for its pointers.
        Answer::Real(unsafe { give(&found, list, count) })
    })
}

pub(super) unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    Call::new(Function::C_GetSlotInfo, false).perform(Target::AnySlot(slot), &mut |passage| {
        let rv = real!(passage, functions.C_GetSlotInfo(slot, info));
        // SAFETY: the application vouches for its pointer.
        if let Some(info) = unsafe { info.as_mut() }
            && rv == CKR_OK
            && passage.slot.is_some_and(|slot| !slot.is_present())
        {
            info.flags &= !CKF_TOKEN_PRESENT;
        }
        Answer::Real(rv)
    })
}

pub(super) unsafe extern "C" fn C_GetTokenInfo(
    slot: CK_SLOT_ID,
    info: *mut CK_TOKEN_INFO,
) -> CK_RV {
    Call::new(Function::C_GetTokenInfo, false).perform(Target::Slot(slot), &mut |passage| {
        let rv = real!(passage, functions.C_GetTokenInfo(slot, info));
        // SAFETY: the application vouches for its pointer.
        if let Some(info) = unsafe { info.as_mut() }
            && rv == CKR_OK
        {
            describe(passage, info);
        }
        Answer::Real(rv)
    })
}

pub(super) unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    pin: *mut CK_BYTE,
    pin_length: CK_ULONG,
    label: *mut CK_BYTE,
) -> CK_RV {
    Call::new(Function::C_InitToken, false).perform(Target::Slot(slot), &mut |passage| {
        let rv = real!(passage, functions.C_InitToken(slot, pin, pin_length, label));
        let state = &passage.live.site.state;
        if let Some(slot) = passage.slot
            && rv == CKR_OK
        {
            slot.read_label(passage.live.real, state);
            if let Some(token) = state.token(&slot.label()) {
                token.forget_wrong_pins();
            }
        }
        Answer::Real(rv)
    })
}

/// Notifications are not passed on: they would name a session of the real module.
pub(super) unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let call = Call::new(Function::C_OpenSession, false);
    call.perform(Target::Slot(slot), &mut |passage| {
        // SAFETY: the application vouches for its pointer.
        let (Some(slot), Some(session)) = (passage.slot, unsafe { session.as_mut() }) else {
            return Answer::Real(CKR_ARGUMENTS_BAD);
        };
        let settings = &passage.in_force.settings;
        let _opening = slot.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let open = expire_all(passage.live, settings, slot);
        if let Some(limits) = settings.session_limits(&slot.label())
            && let Some(max) = limits.max
            && open >= usize::try_from(max).unwrap_or(usize::MAX)
        {
            return Answer::MadeUp(limits.full, "sessions".to_owned());
        }
        let mut opened = 0;
        let rv = real!(
            passage,
            functions.C_OpenSession(slot.id, flags, ptr::null_mut(), None, &raw mut opened)
        );
        if rv == CKR_OK {
            *session = passage.live.sessions.add(opened, slot.clone());
        }
        Answer::Real(rv)
    })
}

pub(super) unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    let call = Call::new(Function::C_CloseSession, false);
    call.perform(Target::Session(session), &mut |passage| {
        let rv = real!(passage, functions.C_CloseSession(passage.target));
        if rv == CKR_OK {
            passage.live.sessions.remove(session);
        }
        Answer::Real(rv)
    })
}

pub(super) unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    let call = Call::new(Function::C_CloseAllSessions, false);
    call.perform(Target::Slot(slot), &mut |passage| {
        let rv = real!(passage, functions.C_CloseAllSessions(slot));
        if let Some(slot) = passage.slot
            && rv == CKR_OK
        {
            passage.live.sessions.remove_all(slot);
        }
        Answer::Real(rv)
    })
}

pub(super) unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_BYTE,
    pin_length: CK_ULONG,
) -> CK_RV {
    let call = Call::new(Function::C_Login, false);
    call.perform(Target::Session(session), &mut |passage| {
        log_in(passage, user, || {
            real!(
                passage,
                functions.C_Login(passage.target, user, pin, pin_length)
            )
        })
    })
}

pub(super) unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_BYTE,
    pin_length: CK_ULONG,
    name: *mut CK_BYTE,
    name_length: CK_ULONG,
) -> CK_RV {
    let call = Call::new(Function::C_LoginUser, false);
    call.perform(Target::Session(session), &mut |passage| {
        log_in(passage, user, || {
            real!(
                passage,
                newer.C_LoginUser(passage.target, user, pin, pin_length, name, name_length)
            )
        })
    })
}

/// The old PIN is a try like any other, but for that of the security officer.
pub(super) unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_BYTE,
    old_length: CK_ULONG,
    new: *mut CK_BYTE,
    new_length: CK_ULONG,
) -> CK_RV {
    let call = Call::new(Function::C_SetPIN, false);
    call.perform(Target::Session(session), &mut |passage| {
        let set = || {
            real!(
                passage,
                functions.C_SetPIN(passage.target, old, old_length, new, new_length)
            )
        };
        match passage.live.real.session_state(passage.target) {
            Some(CKS_RW_SO_FUNCTIONS) => Answer::Real(set()),
            _ => try_pin(passage, set),
        }
    })
}

/// The security officer's way to unlock a user.
pub(super) unsafe extern "C" fn C_InitPIN(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_BYTE,
    pin_length: CK_ULONG,
) -> CK_RV {
    let call = Call::new(Function::C_InitPIN, false);
    call.perform(Target::Session(session), &mut |passage| {
        let rv = real!(
            passage,
            functions.C_InitPIN(passage.target, pin, pin_length)
        );
        let label = passage.slot.map(|slot| slot.label());
        let state = &passage.live.site.state;
        if let Some(token) = label.and_then(|label| state.token(&label))
            && rv == CKR_OK
        {
            token.forget_wrong_pins();
        }
        Answer::Real(rv)
    })
}

/// Tokens that the simulator takes out and puts back are events; so are those of the real module,
/// which is only ever asked without blocking.
pub(super) unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: *mut c_void,
) -> CK_RV {
    let call = Call::new(Function::C_WaitForSlotEvent, false);
    call.perform(Target::Module, &mut |passage| {
        // SAFETY: the application vouches for its pointer.
        let Some(slot) = (unsafe { slot.as_mut() }) else {
            return Answer::Real(CKR_ARGUMENTS_BAD);
        };
        loop {
            passage.live.settings();
            if let Some(changed) = passage.live.slots.changed() {
                *slot = changed;
                return made_up(CKR_OK, "removed");
            }
            let rv = real!(
                passage,
                functions.C_WaitForSlotEvent(CKF_DONT_BLOCK, slot, reserved)
            );
            if rv != CKR_NO_EVENT || flags & CKF_DONT_BLOCK != 0 {
                return Answer::Real(rv);
            }
            if passage.live.is_ending() {
                return Answer::Real(CKR_CRYPTOKI_NOT_INITIALIZED);
            }
            nap(LOOK_EVERY);
        }
    })
}

/// Corrects what the real module says of a token.
fn describe(passage: &Passage<'_>, info: &mut CK_TOKEN_INFO) {
    let token = real::label(info);
    let settings = &passage.in_force.settings;
    if let Some(tries) = settings.pin_tries(&token)
        && let Some(counter) = passage.live.site.state.token(&token)
    {
        info.flags &= !(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED);
        let wrong = counter.wrong_pins();
        info.flags |= match u64::from(tries).saturating_sub(wrong) {
            0 => CKF_USER_PIN_LOCKED,
            1 => CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW,
            _ if wrong > 0 => CKF_USER_PIN_COUNT_LOW,
            _ => 0,
        };
    }
    // What this process has open, which real modules often do not say.
    if let Some(slot) = passage.slot {
        info.ulSessionCount = passage.live.sessions.open_in(slot).len() as CK_ULONG;
    }
    let shown = settings.session_limits(&token).map(|limits| limits.shown);
    let limit = match shown.unwrap_or_default() {
        Shown::Forwarded => return,
        Shown::Unavailable => CK_UNAVAILABLE_INFORMATION,
        Shown::Infinite => CK_EFFECTIVELY_INFINITE,
        Shown::Number(number) => number.into(),
    };
    info.ulMaxSessionCount = limit;
    info.ulMaxRwSessionCount = limit;
}

/// Logs in, and counts the user's wrong PINs.
fn log_in(passage: &Passage<'_>, user: CK_USER_TYPE, log_in: impl FnOnce() -> CK_RV) -> Answer {
    let answer = match user {
        CKU_SO => Answer::Real(log_in()),
        _ => try_pin(passage, log_in),
    };
    if let (Answer::Real(CKR_OK), Some(slot)) = (&answer, passage.slot) {
        slot.login_lost.store(false, Release);
    }
    answer
}

/// Lets a PIN be tried, while there are tries left.
fn try_pin(passage: &Passage<'_>, attempt: impl FnOnce() -> CK_RV) -> Answer {
    let label = passage.slot.map(|slot| slot.label()).unwrap_or_default();
    let tries = passage.in_force.settings.pin_tries(&label);
    let (Some(tries), Some(token)) = (tries, passage.live.site.state.token(&label)) else {
        return Answer::Real(attempt());
    };
    // Before the real module looks at the PIN: two processes do not share the last try.
    if !token.take_try(tries) {
        return made_up(CKR_PIN_LOCKED, "pins");
    }
    let rv = attempt();
    match rv {
        CKR_OK => token.forget_wrong_pins(),
        CKR_PIN_INCORRECT => {}
        _ => token.give_try_back(),
    }
    Answer::Real(rv)
}

/// Gives a list as the standard says: its length, or what there is room for.
unsafe fn give(found: &[CK_SLOT_ID], list: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    // SAFETY: the caller vouches for it.
    let Some(count) = (unsafe { count.as_mut() }) else {
        return CKR_ARGUMENTS_BAD;
    };
    let room = usize::try_from(*count).unwrap_or(usize::MAX);
    *count = found.len() as CK_ULONG;
    if list.is_null() {
        return CKR_OK;
    }
    if room < found.len() {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: there is room for that many, says the caller.
    unsafe { ptr::copy_nonoverlapping(found.as_ptr(), list, found.len()) };
    CKR_OK
}
