//! Devices that hang, restart, are taken out, hide, or forget who is logged in.

use std::thread;
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::slot::Slot;
use cryptoki_sys::{CKF_DONT_BLOCK, CKR_OK};
use hsm_sim::{Action, Fault, Function, Script, Span, Step};

use crate::home::{
    Home, eventually, failure, home, key, keys, load, log_in, make_key, make_token, rv, sign, slot,
};
use crate::raw::Raw;

/// That sessions begun before are gone, and new ones work after a new login.
fn sign_in_a_new_session(home: &Home) {
    let session = home.session();
    assert!(
        keys(&session) < 2,
        "the private key is seen without a login"
    );
    log_in(&session).unwrap();
    sign(&session, key(&session).unwrap()).unwrap();
}

#[test]
fn a_restart_ends_sessions_logins_and_session_objects() {
    let Some(home) = home("outages::a_restart_ends_sessions_logins_and_session_objects") else {
        return;
    };
    let (session, in_token) = home.signer();
    let other = home.session();
    make_key(&session, false).unwrap();
    assert_eq!(keys(&session), 4);
    home.device.restart(None, None);
    for _ in 0..2 {
        assert_eq!(
            failure(sign(&session, in_token)),
            RvError::SessionHandleInvalid
        );
    }
    assert_eq!(
        failure(other.find_objects(&[])),
        RvError::SessionHandleInvalid
    );
    sign_in_a_new_session(&home);
    let (session, _) = home.signer();
    assert_eq!(keys(&session), 2, "only objects of the token are left");
}

#[test]
fn after_a_restart_the_first_call_on_each_session_may_fail_differently() {
    let Some(home) =
        home("outages::after_a_restart_the_first_call_on_each_session_may_fail_differently")
    else {
        return;
    };
    let (session, key) = home.signer();
    let other = home.session();
    home.device
        .restart(Some("web"), Some(rv("CKR_DEVICE_ERROR")));
    for old in [&session, &other] {
        assert_eq!(failure(sign(old, key)), RvError::DeviceError);
        assert_eq!(failure(sign(old, key)), RvError::SessionHandleInvalid);
    }
    sign_in_a_new_session(&home);
}

#[test]
fn a_token_that_is_taken_out_is_gone_until_it_is_back_and_needs_a_login() {
    let Some(home) =
        home("outages::a_token_that_is_taken_out_is_gone_until_it_is_back_and_needs_a_login")
    else {
        return;
    };
    make_token(&home.context, "db");
    let (session, own_key) = home.signer();
    home.device.remove(Some("web")).unwrap();
    let present = home.context.get_slots_with_token().unwrap();
    assert!(!present.contains(&home.web));
    assert!(present.contains(&slot(&home.context, "db")));
    assert!(home.context.get_all_slots().unwrap().contains(&home.web));
    assert!(
        !home
            .context
            .get_slot_info(home.web)
            .unwrap()
            .token_present()
    );
    assert_eq!(
        failure(home.context.get_token_info(home.web)),
        RvError::TokenNotPresent
    );
    assert_eq!(
        failure(home.context.open_ro_session(home.web)),
        RvError::TokenNotPresent
    );
    for _ in 0..2 {
        assert_eq!(failure(sign(&session, own_key)), RvError::DeviceRemoved);
    }
    home.device.insert(Some("web")).unwrap();
    assert!(
        home.context
            .get_slots_with_token()
            .unwrap()
            .contains(&home.web)
    );
    assert_eq!(
        failure(sign(&session, own_key)),
        RvError::SessionHandleInvalid
    );
    sign_in_a_new_session(&home);
}

#[test]
fn sessions_do_not_survive_a_removal_that_nobody_saw() {
    let Some(home) = home("outages::sessions_do_not_survive_a_removal_that_nobody_saw") else {
        return;
    };
    let (session, key) = home.signer();
    home.device.remove(None).unwrap();
    home.device.insert(None).unwrap();
    assert_eq!(failure(sign(&session, key)), RvError::SessionHandleInvalid);
    sign_in_a_new_session(&home);
}

#[test]
fn a_token_that_is_out_from_the_start_is_never_seen() {
    let Some(home) = home("outages::a_token_that_is_out_from_the_start_is_never_seen") else {
        return;
    };
    home.device.remove(Some("web")).unwrap();
    home.context.finalize().unwrap();
    let context = load();
    // SoftHSM's slots have new numbers now.
    let present = |slot: &Slot| context.get_slot_info(*slot).unwrap().token_present();
    let (present, absent): (Vec<Slot>, Vec<Slot>) = context
        .get_all_slots()
        .unwrap()
        .into_iter()
        .partition(present);
    assert_eq!(absent.len(), 1);
    assert_eq!(
        failure(context.open_ro_session(absent[0])),
        RvError::TokenNotPresent
    );
    assert_eq!(context.get_slots_with_token().unwrap(), present);
}

#[test]
fn a_hidden_token_appears_when_the_module_is_initialised_anew() {
    let Some(home) = home("outages::a_hidden_token_appears_when_the_module_is_initialised_anew")
    else {
        return;
    };
    let (session, key) = home.signer();
    home.device.hide_until_reinitialised(Some("web"));
    assert!(
        !home
            .context
            .get_slots_with_token()
            .unwrap()
            .contains(&home.web)
    );
    assert_eq!(failure(sign(&session, key)), RvError::DeviceRemoved);
    drop(session);
    home.context.finalize().unwrap();
    let context = load();
    context.open_ro_session(slot(&context, "web")).unwrap();
}

#[test]
fn a_lost_login_leaves_sessions_open_and_is_found_by_their_use() {
    let Some(home) = home("outages::a_lost_login_leaves_sessions_open_and_is_found_by_their_use")
    else {
        return;
    };
    let (session, old_key) = home.signer();
    home.device.log_out(None);
    for _ in 0..2 {
        assert_eq!(failure(sign(&session, old_key)), RvError::UserNotLoggedIn);
    }
    assert_eq!(failure(make_key(&session, true)), RvError::UserNotLoggedIn);
    log_in(&session).unwrap();
    sign(&session, key(&session).unwrap()).unwrap();
}

#[test]
fn calls_on_a_frozen_device_hang_until_it_thaws() {
    let Some(home) = home("outages::calls_on_a_frozen_device_hang_until_it_thaws") else {
        return;
    };
    let signers: Vec<_> = (0..4)
        .map(|_| {
            let session = home.session();
            let _ = log_in(&session);
            let key = key(&session).unwrap();
            (session, key)
        })
        .collect();
    home.device.freeze().unwrap();
    thread::scope(|scope| {
        let signatures: Vec<_> = signers
            .into_iter()
            .map(|(session, key)| scope.spawn(move || sign(&session, key)))
            .collect();
        // Each waits in C_SignInit; a call that hangs has not been counted yet.
        thaw_after_a_while(&home, || signatures.iter().all(|call| !call.is_finished()));
        for signature in signatures {
            signature.join().unwrap().unwrap();
        }
    });
    assert!(home.device.violations().unwrap().is_empty());
}

/// Thaws after a time in which calls could have ended, had they not been frozen.
#[allow(
    clippy::disallowed_methods,
    reason = "that nothing happens can only be waited for"
)]
fn thaw_after_a_while(home: &Home, frozen: impl Fn() -> bool) {
    thread::sleep(Duration::from_millis(100));
    assert!(frozen(), "a call on a frozen device has ended");
    home.device.thaw().unwrap();
}

#[test]
fn a_call_that_asks_for_a_length_never_hangs_nor_does_what_the_library_knows() {
    let Some(home) =
        home("outages::a_call_that_asks_for_a_length_never_hangs_nor_does_what_the_library_knows")
    else {
        return;
    };
    let mechanisms = home.context.get_mechanism_list(home.web).unwrap();
    assert!(!mechanisms.is_empty());
    home.device.freeze().unwrap();
    home.context.get_library_info().unwrap();
    // Not asked of the device at all: cryptoki asks for the length first, which is answered; the
    // list itself hangs.
    let asked = || {
        home.device.log().unwrap().iter().any(|operation| {
            operation.function == Function::C_GetSlotList && operation.length_query
        })
    };
    home.device.clear_log().unwrap();
    thread::scope(|scope| {
        let list = scope.spawn(|| home.context.get_slots_with_token());
        eventually("the length is answered", asked);
        home.device.thaw().unwrap();
        list.join().unwrap().unwrap();
    });
}

#[test]
fn a_restart_ends_calls_that_hang() {
    let Some(home) = home("outages::a_restart_ends_calls_that_hang") else {
        return;
    };
    let (session, key) = home.signer();
    home.device.freeze().unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(move || sign(&session, key));
        home.device.restart(None, Some(rv("CKR_DEVICE_ERROR")));
        assert_eq!(failure(call.join().unwrap()), RvError::DeviceError);
    });
}

#[test]
fn a_frozen_call_does_not_keep_the_module_from_ending() {
    let Some(home) = home("outages::a_frozen_call_does_not_keep_the_module_from_ending") else {
        return;
    };
    let (session, key) = home.signer();
    home.device.freeze().unwrap();
    let context: Pkcs11 = home.context.clone();
    home.device.clear_log().unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(move || sign(&session, key));
        let other = scope.spawn(move || {
            // Nothing tells from outside that a call hangs; the module notes it if one does.
            eventually("the call is under way", {
                let begun = std::time::Instant::now();
                move || begun.elapsed() > Duration::from_millis(100)
            });
            context.finalize()
        });
        other.join().unwrap().unwrap();
        assert_eq!(
            failure(call.join().unwrap()),
            RvError::CryptokiNotInitialized
        );
    });
    let violations = home.device.violations().unwrap();
    let kinds: Vec<_> = violations
        .iter()
        .map(|operation| operation.violation)
        .collect();
    assert!(kinds.contains(&Some(hsm_sim::Violation::FinalizeDuringCall)));
}

#[test]
fn a_script_takes_the_device_out_and_puts_it_back() {
    let Some(home) = home("outages::a_script_takes_the_device_out_and_puts_it_back") else {
        return;
    };
    let (session, key) = home.signer();
    let step = |after, action| Step {
        after: Span::millis(after),
        action,
    };
    let steps = vec![step(0, Action::Remove), step(300, Action::Insert)];
    let script = Script {
        started: None,
        steps,
    };
    home.device
        .update(|settings| settings.script = Some(script))
        .unwrap();
    assert_eq!(failure(sign(&session, key)), RvError::DeviceRemoved);
    eventually("the device is back", || {
        !home
            .context
            .get_slots_with_initialized_token()
            .unwrap()
            .is_empty()
    });
    assert_eq!(failure(sign(&session, key)), RvError::SessionHandleInvalid);
    sign_in_a_new_session(&home);
}

#[test]
fn an_error_may_take_its_time() {
    let Some(home) = home("outages::an_error_may_take_its_time") else {
        return;
    };
    let (session, key) = home.signer();
    home.device
        .fault(Fault {
            after: Some(Span::millis(60)),
            ..Fault::new(&[Function::C_Sign], rv("CKR_FUNCTION_FAILED"))
        })
        .unwrap();
    assert_eq!(failure(sign(&session, key)), RvError::FunctionFailed);
    let log = home.device.log().unwrap();
    assert!(log.last().unwrap().micros >= 60_000);
}

#[test]
fn a_token_that_comes_or_goes_is_a_slot_event() {
    let Some(home) = home("outages::a_token_that_comes_or_goes_is_a_slot_event") else {
        return;
    };
    let (raw, web) = (Raw::new(), home.web.id());
    assert_ne!(raw.wait_for_slot_event(CKF_DONT_BLOCK).0, CKR_OK);
    home.device.remove(Some("web")).unwrap();
    assert_eq!(raw.wait_for_slot_event(CKF_DONT_BLOCK), (CKR_OK, web));
    assert_ne!(raw.wait_for_slot_event(CKF_DONT_BLOCK).0, CKR_OK);
    thread::scope(|scope| {
        let waiting = scope.spawn(move || raw.wait_for_slot_event(0));
        home.device.insert(Some("web")).unwrap();
        assert_eq!(waiting.join().unwrap(), (CKR_OK, web));
    });
}
