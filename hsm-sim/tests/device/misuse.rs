//! Applications that break the rules of PKCS#11 are found out.

#![allow(unsafe_code, reason = "a fork that goes on is what one test is about")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki_sys::{CKR_CRYPTOKI_NOT_INITIALIZED, CKR_OK, CKR_SESSION_HANDLE_INVALID};
use hsm_sim::{Distribution, Function, Latency, Span, Violation};

use crate::home::{Home, failure, home, key, log_in, module, sign};
use crate::raw::Raw;

impl Home {
    fn violations(&self) -> Vec<Violation> {
        let violations = self.device.violations().unwrap();
        let kind = |operation: hsm_sim::Operation| operation.violation;
        violations.into_iter().filter_map(kind).collect()
    }
}

#[test]
fn ordinary_use_is_no_misuse() {
    let Some(home) = home("misuse::ordinary_use_is_no_misuse") else {
        return;
    };
    let (session, key) = home.signer();
    sign(&session, key).unwrap();
    session.close().unwrap();
    home.context.clone().finalize().unwrap();
    assert!(home.violations().is_empty());
}

#[test]
fn two_threads_in_one_session_are_found() {
    let Some(home) = home("misuse::two_threads_in_one_session_are_found") else {
        return;
    };
    let raw = Raw::new();
    let session = raw.open_session(home.web.id());
    let random = || raw.random(session);
    let slow = Latency {
        functions: vec![Function::C_GenerateRandom],
        time: Some(Distribution::Fixed(Span::millis(150))),
        ..Latency::default()
    };
    home.device
        .update(|settings| settings.latency.push(slow))
        .unwrap();
    thread::scope(|scope| {
        let calls = [scope.spawn(random), scope.spawn(random)];
        for call in calls {
            assert_eq!(
                call.join().unwrap(),
                CKR_OK,
                "both are answered all the same"
            );
        }
    });
    assert_eq!(home.violations(), [Violation::SharedSession]);
    let counted = home.device.counters().violations;
    assert_eq!(counted.get(&Violation::SharedSession), Some(&1));
}

#[test]
fn the_use_of_a_closed_session_is_found_but_not_that_of_one_the_device_dropped() {
    let Some(home) =
        home("misuse::the_use_of_a_closed_session_is_found_but_not_that_of_one_the_device_dropped")
    else {
        return;
    };
    let raw = Raw::new();
    let (dropped, closed) = (
        raw.open_session(home.web.id()),
        raw.open_session(home.web.id()),
    );
    assert_eq!(raw.close_session(closed), CKR_OK);
    home.device.restart(None, None);
    assert_eq!(raw.random(dropped), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(raw.random(4711), CKR_SESSION_HANDLE_INVALID);
    assert!(home.violations().is_empty());
    assert_eq!(raw.random(closed), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(home.violations(), [Violation::ClosedSession]);
}

#[test]
fn a_handle_from_before_the_module_was_initialised_anew_is_found() {
    let Some(home) = home("misuse::a_handle_from_before_the_module_was_initialised_anew_is_found")
    else {
        return;
    };
    let raw = Raw::new();
    let session = raw.open_session(home.web.id());
    home.context.clone().finalize().unwrap();
    let _context = crate::home::load();
    assert_eq!(raw.close_session(session), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(home.violations(), [Violation::ClosedSession]);
}

#[test]
fn a_call_without_initialising_is_found() {
    let Some(home) = home("misuse::a_call_without_initialising_is_found") else {
        return;
    };
    home.context.clone().finalize().unwrap();
    let context = Pkcs11::new(module()).unwrap();
    assert_eq!(
        failure(context.get_slots_with_token()),
        RvError::CryptokiNotInitialized
    );
    assert_eq!(home.violations(), [Violation::NotInitialized]);
}

#[test]
fn a_fork_that_goes_on_without_initialising_is_found() {
    let Some(home) = home("misuse::a_fork_that_goes_on_without_initialising_is_found") else {
        return;
    };
    let raw = Raw::new();
    let mut child = Command::new("true");
    // SAFETY: what the fork calls is what is tested.
    unsafe {
        child.pre_exec(move || {
            assert_eq!(raw.get_info(), CKR_CRYPTOKI_NOT_INITIALIZED);
            Ok(())
        })
    };
    assert!(child.status().unwrap().success());
    let violations = home.device.violations().unwrap();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].violation, Some(Violation::Forked));
    assert_ne!(violations[0].pid, std::process::id());
    let session = home.session();
    log_in(&session).unwrap();
    sign(&session, key(&session).unwrap()).unwrap();
}
