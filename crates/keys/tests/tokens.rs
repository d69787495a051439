//! The PKCS#11 provider against real tokens: every test runs with SoftHSM and with kryoptic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "shared/home.rs"]
mod home;

use std::fs;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use home::{ED25519, Kind, P256, P384, PIN, at_home};
use sealwire_keys::{
    Algorithm, Curve, Generate, KeyConfig, OpenError, Pkcs11Config, Scheme, SignError, open,
};

/// How long something may take that happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn every_kind_of_key_signs_with_every_scheme_it_offers_and_says_that_it_cannot_leave() {
    let Some(home) = at_home(
        "every_kind_of_key_signs_with_every_scheme_it_offers_and_says_that_it_cannot_leave",
    ) else {
        return;
    };
    let mut expected = vec![
        ("p256", Kind::Curve(P256), Algorithm::EcdsaP256, 1),
        ("p384", Kind::Curve(P384), Algorithm::EcdsaP384, 1),
        ("ed", Kind::Curve(ED25519), Algorithm::Ed25519, 1),
        ("rsa2048", Kind::Rsa(2048), Algorithm::Rsa { bits: 2048 }, 3),
        ("rsa3072", Kind::Rsa(3072), Algorithm::Rsa { bits: 3072 }, 3),
    ];
    expected.retain(|(_, kind, ..)| home.can_make(*kind));
    let keys: Vec<_> = (1..)
        .zip(&expected)
        .map(|(id, (label, kind, ..))| (*label, id, *kind))
        .collect();
    home.token("t", &keys);
    for (label, _, algorithm, schemes) in expected {
        let key = home.open(&format!("token=t;object={label}")).unwrap();
        assert_eq!(key.public_key().algorithm(), algorithm);
        assert_eq!(key.schemes().len(), schemes, "{label}");
        for scheme in key.schemes() {
            let signature = key.sign(*scheme, b"message").unwrap();
            assert!(
                key.public_key().verifies(*scheme, b"message", &signature),
                "{label} {scheme}"
            );
            assert!(
                !key.public_key().verifies(*scheme, b"another", &signature),
                "{label} {scheme}"
            );
        }
        let custody = key.custody().unwrap();
        let attributes = (
            custody.sensitive,
            custody.extractable,
            custody.never_extractable,
            custody.local,
        );
        assert_eq!(
            attributes,
            (Some(true), Some(false), Some(true), Some(true)),
            "{label}"
        );
        assert_eq!(custody.token.unwrap().label, "t");
        assert!(!key.development());
    }
    let p256 = home.open("token=t;object=p256").unwrap();
    assert!(matches!(
        p256.sign(Scheme::Ed25519, b"x"),
        Err(SignError::Scheme { .. })
    ));
}

#[test]
fn what_cannot_be_opened_is_named_with_what_there_is() {
    let Some(home) = at_home("what_cannot_be_opened_is_named_with_what_there_is") else {
        return;
    };
    home.token(
        "t",
        &[
            ("one", 1, Kind::Curve(P256)),
            ("twin", 2, Kind::Curve(P256)),
            ("twin", 3, Kind::Curve(P256)),
        ],
    );
    home.token("same", &[]);
    home.token("same", &[]);
    let said = |uri: &str| home.open(uri).unwrap_err().to_string();
    assert!(said("token=other;object=one").contains("\"t\""));
    assert!(said("token=same;object=one").contains("add serial="));
    assert!(said("token=t;object=other").contains("\"one\" (id=%01)"));
    let twins = said("token=t;object=twin");
    assert!(
        twins.contains("id=%02") && twins.contains("id=%03"),
        "{twins}"
    );
    let second = home.open("token=t;object=twin;id=%03").unwrap();
    // Or that one of them there is a certificate for.
    let certified = |fingerprint: &str| {
        let config = Pkcs11Config {
            certified: Some(fingerprint.to_owned()),
            ..home.config("token=t;object=twin")
        };
        open(&KeyConfig::Pkcs11(Box::new(config)))
    };
    let chosen = certified(second.public_key().fingerprint()).unwrap();
    assert_eq!(chosen.public_key(), second.public_key());
    assert!(chosen.reference().contains("id=%03"), "records tell which");
    chosen.sign(chosen.schemes()[0], b"message").unwrap();
    assert!(matches!(
        certified("of neither"),
        Err(OpenError::KeyAmbiguous { .. })
    ));
    let mut missing = home.config("token=t;object=one");
    missing.module = "/nonexistent/module.so".into();
    let missing = open(&KeyConfig::Pkcs11(Box::new(missing))).unwrap_err();
    assert!(matches!(missing, OpenError::Module { .. }), "{missing}");
}

#[test]
fn a_refused_pin_is_remembered_until_its_file_changes() {
    let Some(home) = at_home("a_refused_pin_is_remembered_until_its_file_changes") else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    let pin = home.directory.join("pin");
    fs::write(&pin, "wrong-pin").unwrap();
    for _ in 0..3 {
        let error = home.open("token=t;object=web").unwrap_err();
        assert!(matches!(error, OpenError::PinIncorrect { .. }), "{error}");
        assert!(!error.to_string().contains("wrong-pin"));
    }
    fs::write(&pin, PIN).unwrap();
    home.open("token=t;object=web").unwrap();
}

#[test]
fn many_threads_share_few_sessions_and_every_signature_is_good() {
    let Some(home) = at_home("many_threads_share_few_sessions_and_every_signature_is_good") else {
        return;
    };
    let context = home.token("t", &[("web", 1, Kind::Curve(P256))]);
    let key = home.open("token=t;object=web").unwrap();
    assert_eq!(key.parallelism(), 4);
    thread::scope(|scope| {
        for number in 0..16_u8 {
            let key = &key;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let message = [number, round];
                    let signature = key.sign(Scheme::EcdsaP256Sha256, &message).unwrap();
                    assert!(key.public_key().verifies(
                        Scheme::EcdsaP256Sha256,
                        &message,
                        &signature
                    ));
                }
            });
        }
    });
    // One more was made when the key was opened.
    assert_eq!(key.signatures(), 16 * 50 + 1);
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    let sessions = context.get_token_info(slot).unwrap().session_count();
    assert!(
        sessions.is_none_or(|open| open <= 5),
        "{sessions:?} sessions for a limit of 4"
    );
}

#[test]
fn a_token_that_was_logged_out_under_us_is_logged_in_again() {
    let Some(home) = at_home("a_token_that_was_logged_out_under_us_is_logged_in_again") else {
        return;
    };
    let context = home.token("t", &[("web", 1, Kind::Curve(P256))]);
    let key = home.open("token=t;object=web").unwrap();
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    // Logging out is for the token, and makes every handle of a private object invalid.
    context.open_ro_session(slot).unwrap().logout().unwrap();
    let signature = key.sign(Scheme::EcdsaP256Sha256, b"after").unwrap();
    assert!(
        key.public_key()
            .verifies(Scheme::EcdsaP256Sha256, b"after", &signature)
    );
}

#[test]
fn overload_is_refused_at_once_and_waiting_ends_at_its_deadline() {
    let Some(home) = at_home("overload_is_refused_at_once_and_waiting_ends_at_its_deadline") else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Rsa(3072))]);
    // Eight that want the one session sign until one of them is told what is wanted.
    let told = |wait, wanted: fn(&SignError) -> bool| {
        let mut config = home.config("token=t;object=web");
        config.max_sessions = NonZeroUsize::MIN;
        config.queue = 1;
        config.wait = wait;
        let key = open(&KeyConfig::Pkcs11(Box::new(config))).unwrap();
        let (is_told, until) = (AtomicBool::new(false), Instant::now() + SOON);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !is_told.load(Ordering::Relaxed) && Instant::now() < until {
                        match key.sign(Scheme::RsaPssSha256, b"x") {
                            Err(error) if wanted(&error) => is_told.store(true, Ordering::Relaxed),
                            Err(SignError::Overloaded { .. } | SignError::Deadline { .. })
                            | Ok(_) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
        });
        // And afterwards all is as before.
        key.sign(Scheme::RsaPssSha256, b"x").unwrap();
        is_told.into_inner()
    };
    let overloaded = |error: &SignError| matches!(error, SignError::Overloaded { limit: 1 });
    assert!(told(SOON, overloaded), "nobody was refused");
    let too_late = |error: &SignError| matches!(error, SignError::Deadline { .. });
    let wait = Duration::from_micros(1);
    assert!(told(wait, too_late), "nobody waited in vain");
}

#[test]
fn a_key_made_in_the_token_signs_cannot_leave_and_dies_with_its_owner() {
    let Some(home) = at_home("a_key_made_in_the_token_signs_cannot_leave_and_dies_with_its_owner")
    else {
        return;
    };
    home.token("t", &[]);
    let made = |curve, max_age| {
        let config = Pkcs11Config {
            generate: Some(Generate { curve, max_age }),
            ..home.config("token=t;object=made")
        };
        open(&KeyConfig::Pkcs11(Box::new(config)))
    };
    for (curve, algorithm) in [
        (Curve::P256, Algorithm::EcdsaP256),
        (Curve::P384, Algorithm::EcdsaP384),
    ] {
        let key = made(curve, None).unwrap();
        assert_eq!(key.public_key().algorithm(), algorithm);
        // In more sessions than the one it was made in.
        thread::scope(|scope| {
            for _ in 0..8 {
                let key = &key;
                scope.spawn(move || {
                    let signature = key.sign(key.schemes()[0], b"message").unwrap();
                    assert!(
                        key.public_key()
                            .verifies(key.schemes()[0], b"message", &signature)
                    );
                });
            }
        });
        let custody = key.custody().unwrap();
        assert_eq!(
            (custody.sensitive, custody.extractable, custody.local),
            (Some(true), Some(false), Some(true))
        );
        // Another for another workload, or after this one: they do not get into each other's way.
        let next = made(curve, None).unwrap();
        assert_ne!(next.reference(), key.reference());
        assert_ne!(next.public_key(), key.public_key());
        assert!(!key.has_successor());
        key.rotate().unwrap();
        assert!(key.has_successor() && !next.has_successor());
    }
    assert!(
        made(Curve::P256, Some(Duration::ZERO))
            .unwrap()
            .has_successor()
    );
    // Their sessions are closed by a thread.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(
        home.open("token=t;object=made"),
        Err(OpenError::KeyMissing { .. })
    ) {
        assert!(Instant::now() < deadline, "a key stayed behind");
        thread::yield_now();
    }
}
