//! Devices that take their time. What is not delayed is shown beside a delay that no test would
//! survive, what is delayed by how long it took at least.

use std::thread;
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use hsm_sim::{Distribution, Fault, Function, Latency, Span};

use crate::home::{Home, eventually, home, key, log_in, make_token, rv, sign, slot};

impl Home {
    fn slow(&self, rule: Latency) {
        self.device
            .update(|settings| settings.latency = vec![rule])
            .unwrap();
    }

    fn signers(&self, count: usize) -> Vec<(Session, ObjectHandle)> {
        let sessions: Vec<Session> = (0..count).map(|_| self.session()).collect();
        log_in(&sessions[0]).unwrap();
        let with_key = |session: Session| {
            let key = key(&session).unwrap();
            (session, key)
        };
        sessions.into_iter().map(with_key).collect()
    }

    /// How long it takes when each of so many signs once, all at the same time.
    fn all_sign(&self, signers: Vec<(Session, ObjectHandle)>) -> Duration {
        let begun = Instant::now();
        thread::scope(|scope| {
            for (session, key) in signers {
                scope.spawn(move || sign(&session, key).unwrap());
            }
        });
        begun.elapsed()
    }
}

fn fixed(milliseconds: u64) -> Latency {
    Latency {
        time: Some(Distribution::Fixed(Span::millis(milliseconds))),
        ..Latency::default()
    }
}

const HOUR: u64 = 3_600_000;

#[test]
fn a_signature_takes_as_long_as_it_is_told() {
    let Some(home) = home("latency::a_signature_takes_as_long_as_it_is_told") else {
        return;
    };
    let (session, key) = home.signer();
    home.slow(fixed(50));
    sign(&session, key).unwrap();
    let log = home.device.log().unwrap();
    let last = log.last().unwrap();
    assert_eq!(last.function, Function::C_Sign);
    assert!(last.micros >= 50_000);
    assert_eq!(last.injected, None, "the answer is that of the real module");
}

#[test]
fn only_the_use_of_a_key_is_slow_and_never_asking_for_a_length() {
    let Some(home) = home("latency::only_the_use_of_a_key_is_slow_and_never_asking_for_a_length")
    else {
        return;
    };
    home.slow(fixed(HOUR));
    let (session, key) = home.signer();
    session.digest(&Mechanism::Sha256, &[7; 32]).unwrap();
    let other = home.session();
    session.sign_init(&Mechanism::Ecdsa, key).unwrap();
    home.device.clear_log().unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(move || sign(&other, key));
        let asked = || {
            home.device
                .log()
                .unwrap()
                .iter()
                .any(|operation| operation.length_query)
        };
        eventually("the length of the signature is answered", asked);
        home.device
            .update(|settings| settings.latency.clear())
            .unwrap();
        call.join().unwrap().unwrap();
    });
}

#[test]
fn a_rule_slows_the_functions_and_the_token_it_names() {
    let Some(home) = home("latency::a_rule_slows_the_functions_and_the_token_it_names") else {
        return;
    };
    make_token(&home.context, "db");
    let (session, own_key) = home.signer();
    home.slow(Latency {
        token: Some("db".to_owned()),
        ..fixed(HOUR)
    });
    sign(&session, own_key).unwrap();
    home.slow(Latency {
        functions: vec![Function::C_FindObjectsInit],
        ..fixed(200)
    });
    let db = home
        .context
        .open_ro_session(slot(&home.context, "db"))
        .unwrap();
    home.device.clear_log().unwrap();
    db.find_objects(&[]).unwrap();
    let log = home.device.log().unwrap();
    let slow = log.iter().filter(|operation| operation.micros >= 200_000);
    let slow: Vec<_> = slow.map(|operation| operation.function).collect();
    assert_eq!(slow, [Function::C_FindObjectsInit]);
}

#[test]
fn a_device_with_few_places_works_on_few_at_once() {
    let Some(home) = home("latency::a_device_with_few_places_works_on_few_at_once") else {
        return;
    };
    let signers = home.signers(6);
    home.slow(Latency {
        parallel: Some(2),
        ..fixed(40)
    });
    let took = home.all_sign(signers);
    assert!(took >= Duration::from_millis(3 * 40), "{took:?}");
}

#[test]
fn no_more_operations_begin_in_a_second_than_the_rate_allows() {
    let Some(home) = home("latency::no_more_operations_begin_in_a_second_than_the_rate_allows")
    else {
        return;
    };
    let signers = home.signers(6);
    home.slow(Latency {
        per_second: Some(20.0),
        burst: Some(2),
        ..Latency::default()
    });
    let took = home.all_sign(signers);
    // Two at once, the other four one interval of 50 ms after another.
    assert!(took >= Duration::from_millis(4 * 50), "{took:?}");
}

#[test]
fn what_has_nothing_to_do_with_a_delay_does_not_end_it() {
    let Some(home) = home("latency::what_has_nothing_to_do_with_a_delay_does_not_end_it") else {
        return;
    };
    let (session, key) = home.signer();
    home.slow(fixed(200));
    home.device.clear_log().unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(move || sign(&session, key));
        let asked = || {
            let log = home.device.log().unwrap();
            log.iter().any(|operation| operation.length_query)
        };
        eventually("the signature is under way", asked);
        let other = Fault::new(&[Function::C_Login], rv("CKR_DEVICE_ERROR"));
        home.device.fault(other).unwrap();
        call.join().unwrap().unwrap();
    });
    let log = home.device.log().unwrap();
    assert!(log.iter().any(|operation| operation.micros >= 200_000));
}

#[test]
fn whoever_waits_goes_on_when_the_device_is_fast_again() {
    let Some(home) = home("latency::whoever_waits_goes_on_when_the_device_is_fast_again") else {
        return;
    };
    let (session, key) = home.signer();
    home.slow(fixed(HOUR));
    thread::scope(|scope| {
        let call = scope.spawn(move || sign(&session, key));
        home.device
            .update(|settings| settings.latency.clear())
            .unwrap();
        call.join().unwrap().unwrap();
    });
}
