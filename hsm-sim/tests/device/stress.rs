//! Many threads, a device that misbehaves in every way, and an application that keeps to the rules.

use std::thread;

use cryptoki::session::Session;
use hsm_sim::{Distribution, Fault, Function, Latency, Span};

use crate::home::{Home, home, key, log_in, rv, sign};

/// Signs until it has so many signatures, in new sessions when one fails.
fn sign_often(home: &Home, signatures: usize) {
    let mut made = 0;
    let mut signer: Option<(Session, _)> = None;
    while made < signatures {
        let Some((session, key)) = signer.take() else {
            signer = open(home);
            continue;
        };
        if sign(&session, key).is_ok() {
            made += 1;
            signer = Some((session, key));
        }
    }
}

fn open(home: &Home) -> Option<(Session, cryptoki::object::ObjectHandle)> {
    let session = home.try_session().ok()?;
    // Another thread may have logged in, or lost the login again in the meantime.
    let _ = log_in(&session);
    let wanted = [cryptoki::object::Attribute::Class(
        cryptoki::object::ObjectClass::PRIVATE_KEY,
    )];
    let key = *session.find_objects(&wanted).ok()?.first()?;
    Some((session, key))
}

#[test]
fn many_threads_sign_whatever_happens_to_the_device() {
    let Some(home) = home("stress::many_threads_sign_whatever_happens_to_the_device") else {
        return;
    };
    let latency = Latency {
        time: Some(Distribution::LongTailed {
            median: Span("200us".parse::<Span>().unwrap().0),
            p99: Span::millis(5),
        }),
        parallel: Some(4),
        ..Latency::default()
    };
    home.device
        .update(|settings| {
            settings.latency.push(latency);
            settings.faults.push(Fault {
                probability: Some(0.02),
                ..Fault::new(&[], rv("CKR_DEVICE_ERROR"))
            });
        })
        .unwrap();
    let (threads, signatures) = (8, 150);
    home.device.reset_counters();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| sign_often(&home, signatures)))
            .collect();
        let mut turn = 0;
        while !workers.iter().all(|worker| worker.is_finished()) {
            match turn % 5 {
                0 => home.device.restart(None, Some(rv("CKR_DEVICE_ERROR"))),
                1 => home.device.log_out(None),
                2 => home.device.freeze().unwrap(),
                3 => home.device.remove(Some("web")).unwrap(),
                _ => {
                    home.device.thaw().unwrap();
                    home.device.insert(Some("web")).unwrap();
                }
            }
            turn += 1;
            pause();
        }
        home.device.heal().unwrap();
    });
    let counters = home.device.counters();
    let made = counters.count(Function::C_Sign, rv("CKR_OK"));
    assert!(made >= threads * signatures as u64);
    assert!(counters.injected > 0);
    assert_eq!(home.device.violations().unwrap().len(), 0);
    let session = home.session();
    let _ = log_in(&session);
    sign(&session, key(&session).unwrap()).unwrap();
}

#[allow(
    clippy::disallowed_methods,
    reason = "leaves the device as it is for a moment"
)]
fn pause() {
    thread::sleep(std::time::Duration::from_millis(10));
}
