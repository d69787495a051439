//! Applications that break the rules of PKCS#11 are found out.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_SESSION_HANDLE, CK_SLOT_ID, CKF_SERIAL_SESSION,
    CKR_CRYPTOKI_NOT_INITIALIZED, CKR_OK, CKR_SESSION_HANDLE_INVALID,
};
use hsm_sim::{Distribution, Function, Latency, Span, Violation};

use crate::home::{Home, failure, functions, home, key, log_in, module, sign};

impl Home {
    fn violations(&self) -> Vec<Violation> {
        let violations = self.device.violations().unwrap();
        let kind = |operation: hsm_sim::Operation| operation.violation;
        violations.into_iter().filter_map(kind).collect()
    }
}

fn open_session(list: &CK_FUNCTION_LIST, slot: CK_SLOT_ID) -> CK_SESSION_HANDLE {
    let mut session = 0;
    let open = list.C_OpenSession.unwrap();
    let null = std::ptr::null_mut();
    let rv = unsafe { open(slot, CKF_SERIAL_SESSION, null, None, &raw mut session) };
    assert_eq!(rv, CKR_OK);
    session
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
    let list = functions();
    let session = open_session(list, home.web.id());
    let seed = list.C_GenerateRandom.unwrap();
    let random = || {
        let mut bytes = [0; 8];
        unsafe { seed(session, bytes.as_mut_ptr(), 8) }
    };
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
    let list = functions();
    let (dropped, closed) = (
        open_session(list, home.web.id()),
        open_session(list, home.web.id()),
    );
    let random = |session| {
        let mut bytes = [0; 8];
        unsafe { (list.C_GenerateRandom.unwrap())(session, bytes.as_mut_ptr(), 8) }
    };
    assert_eq!(unsafe { (list.C_CloseSession.unwrap())(closed) }, CKR_OK);
    home.device.restart(None, None);
    assert_eq!(random(dropped), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(random(4711), CKR_SESSION_HANDLE_INVALID);
    assert!(home.violations().is_empty());
    assert_eq!(random(closed), CKR_SESSION_HANDLE_INVALID);
    assert_eq!(home.violations(), [Violation::ClosedSession]);
}

#[test]
fn a_handle_from_before_the_module_was_initialised_anew_is_found() {
    let Some(home) = home("misuse::a_handle_from_before_the_module_was_initialised_anew_is_found")
    else {
        return;
    };
    let list = functions();
    let session = open_session(list, home.web.id());
    home.context.clone().finalize().unwrap();
    let _context = crate::home::load();
    let close = list.C_CloseSession.unwrap();
    assert_eq!(unsafe { close(session) }, CKR_SESSION_HANDLE_INVALID);
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
    let list = functions();
    let mut child = Command::new("true");
    // SAFETY: what the fork calls is what is tested.
    unsafe {
        child.pre_exec(move || {
            let mut info = cryptoki_sys::CK_INFO::default();
            let rv = (list.C_GetInfo.unwrap())(&raw mut info);
            assert_eq!(rv, CKR_CRYPTOKI_NOT_INITIALIZED);
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
