//! A device that is slow, limited and failing, and a key that survives it: each row of the table
//! in `docs/hsm.md`, at the level of the key. The device is hsm-sim before SoftHSM; it also says
//! whether we broke the rules of PKCS#11 on the way.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use home::{Home, Kind, P256, PIN, eventually, make_key, slots, with_device};
use hsm_sim::{
    Device, Distribution, Fault, Function, Latency, LogLevel, PinLimit, Rv, SessionLimits,
    Settings, Shown, Span,
};
use sealwire_keys::{
    Curve, Generate, KeyConfig, KeyHealth, OpenError, Pkcs11Config, PrivateKey, Scheme, SignError,
};

const SCHEME: Scheme = Scheme::EcdsaP256Sha256;

/// A key "web" in token "t" behind a device.
struct World {
    home: Arc<Home>,
    device: Device,
    context: Pkcs11,
    key: Arc<dyn PrivateKey>,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        Self::with(test, |_| {})
    }

    fn with(test: &str, change: impl FnOnce(&mut Pkcs11Config)) -> Option<Self> {
        let (home, device) = with_device(test)?;
        let context = home.token("t", &[("web", 1, Kind::Curve(P256))]);
        let mut config = home.config("token=t;object=web");
        change(&mut config);
        let key = sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(config))).unwrap();
        Some(Self {
            home: Arc::new(home),
            device,
            context,
            key,
        })
    }

    fn sign(&self) -> Result<(), SignError> {
        let signature = self.key.sign(SCHEME, b"message")?;
        assert!(
            self.key
                .public_key()
                .verifies(SCHEME, b"message", &signature)
        );
        Ok(())
    }

    fn signs_again(&self) {
        eventually("it signs again", || self.sign().ok());
        eventually("it is healthy again", || {
            matches!(self.key.health(), KeyHealth::Ready).then_some(())
        });
    }

    /// Signs on several threads while `meanwhile` runs; the errors that were met.
    fn under_load(&self, meanwhile: impl FnOnce()) -> Vec<SignError> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let signers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut errors = Vec::new();
                        while !done.load(Ordering::Relaxed) {
                            errors.extend(self.sign().err());
                        }
                        errors
                    })
                })
                .collect();
            let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
            done.store(true, Ordering::Relaxed);
            met.unwrap();
            let errors = signers.into_iter().map(|signer| signer.join().unwrap());
            errors.flatten().collect()
        })
    }

    /// How many sessions the token has.
    fn open_sessions(&self) -> Option<u64> {
        let slot = *slots(&self.context, "t").first()?;
        self.context.get_token_info(slot).ok()?.session_count()
    }

    /// Gives the key up; then nothing of ours is left in the device, and no rule was broken.
    fn ends_clean(self) {
        let limit = self.key.figures().sessions_limit;
        assert!(
            self.open_sessions()
                .is_none_or(|open| open <= u64::try_from(limit).unwrap())
        );
        let Self {
            home,
            device,
            context,
            key,
        } = self;
        drop(key);
        eventually("every session is closed", || {
            let slot = *slots(&context, "t").first()?;
            let open = context.get_token_info(slot).ok()?.session_count()?;
            (open == 0).then_some(())
        });
        assert!(device.violations().unwrap().is_empty());
        drop(home);
    }

    fn count(&self, function: Function, rv: Rv) -> u64 {
        self.device.counters().count(function, rv)
    }
}

fn fault(functions: &[Function], rv: &str, next: Option<u64>, probability: Option<f64>) -> Fault {
    Fault {
        name: None,
        functions: functions.to_vec(),
        token: None,
        rv: rv.parse().unwrap(),
        next,
        probability,
        after: None,
    }
}

fn pause(milliseconds: u64) {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    eventually("the time passes", || (Instant::now() >= end).then_some(()));
}

#[test]
fn a_device_that_restarts_under_load_costs_no_signature() {
    let Some(world) = World::new("a_device_that_restarts_under_load_costs_no_signature") else {
        return;
    };
    let errors = world.under_load(|| {
        for first in [None, Some("CKR_DEVICE_ERROR")] {
            for _ in 0..5 {
                pause(100);
                world
                    .device
                    .restart(None, first.map(|rv| rv.parse().unwrap()));
            }
        }
        pause(100);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert!(world.key.figures().sessions_lost > 0);
    world.ends_clean();
}

#[test]
fn a_lost_login_is_made_again_once_and_the_key_found_again() {
    let Some(world) = World::new("a_lost_login_is_made_again_once_and_the_key_found_again") else {
        return;
    };
    let before = world.count(Function::C_Login, Rv::OK);
    let errors = world.under_load(|| {
        pause(50);
        world.device.log_out(None);
        pause(200);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(world.count(Function::C_Login, Rv::OK), before + 1);
    world.ends_clean();
}

#[test]
fn a_module_that_is_broken_until_loaded_again_is_and_not_twice_within_30_s() {
    let Some(world) =
        World::new("a_module_that_is_broken_until_loaded_again_is_and_not_twice_within_30_s")
    else {
        return;
    };
    let general = "CKR_GENERAL_ERROR".parse().unwrap();
    let errors = world.under_load(|| {
        pause(100);
        world.device.break_until_reinitialised(general);
        pause(500);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(world.key.figures().reloads, 1);
    world.device.break_until_reinitialised(general);
    let refused = world.sign().unwrap_err();
    assert!(
        matches!(&refused, SignError::Unusable(said) if said.contains("CKR_GENERAL_ERROR")),
        "{refused}"
    );
    assert!(matches!(world.key.health(), KeyHealth::Degraded(_)));
    assert_eq!(world.key.figures().reloads, 1);
    assert_eq!(world.count(Function::C_Finalize, Rv::OK), 1);
    assert!(world.device.violations().unwrap().is_empty());
}

#[test]
fn a_token_that_shows_only_after_initialising_anew_is_found_at_the_start_and_later() {
    let test = "a_token_that_shows_only_after_initialising_anew_is_found_at_the_start_and_later";
    let Some((home, device)) = with_device(test) else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    device.hide_until_reinitialised(None);
    let key = home.open("token=t;object=web").unwrap();
    key.sign(SCHEME, b"message").unwrap();
    assert_eq!(device.counters().count(Function::C_Finalize, Rv::OK), 1);
    assert!(device.violations().unwrap().is_empty());
}

#[test]
fn a_device_that_was_removed_is_waited_for_and_used_as_soon_as_it_is_back() {
    let Some(world) = World::with(
        "a_device_that_was_removed_is_waited_for_and_used_as_soon_as_it_is_back",
        |config| config.wait = Duration::from_millis(300),
    ) else {
        return;
    };
    world.device.remove(None).unwrap();
    let refused = world.sign().unwrap_err();
    assert!(matches!(refused, SignError::Unusable(_)), "{refused}");
    assert!(matches!(world.key.health(), KeyHealth::Degraded(_)));
    world.device.insert(None).unwrap();
    world.signs_again();
    world.ends_clean();
}

#[test]
fn a_frozen_device_costs_what_waits_for_it_and_nothing_once_it_thaws() {
    let Some(world) = World::with(
        "a_frozen_device_costs_what_waits_for_it_and_nothing_once_it_thaws",
        |config| config.wait = Duration::from_millis(200),
    ) else {
        return;
    };
    world.device.freeze().unwrap();
    let errors = thread::scope(|scope| {
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(|| world.sign())).collect();
        eventually("the silence is noticed", || {
            let silent = matches!(
                world.key.health(),
                KeyHealth::Degraded(SignError::Silent { .. })
            );
            silent.then_some(())
        });
        eventually("nobody waits any more", || {
            (world.key.figures().waiting == 0).then_some(())
        });
        world.device.thaw().unwrap();
        asked
            .into_iter()
            .filter_map(|asked| asked.join().unwrap().err())
            .collect::<Vec<_>>()
    });
    // Four had a session and their signature in the end, eight had waited in vain.
    assert_eq!(errors.len(), 8, "{errors:?}");
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, SignError::Deadline { .. }))
    );
    world.signs_again();
    world.ends_clean();
}

#[test]
fn a_device_with_fewer_sessions_than_it_says_is_used_with_those_it_gives() {
    let Some((home, device)) =
        with_device("a_device_with_fewer_sessions_than_it_says_is_used_with_those_it_gives")
    else {
        return;
    };
    let home = Arc::new(home);
    let context = home.token("t", &[("web", 1, Kind::Curve(P256))]);
    let cases = [
        ("CKR_SESSION_COUNT", Shown::Unavailable),
        ("CKR_ARGUMENTS_BAD", Shown::Infinite),
    ];
    for (full, shown) in cases {
        let limits = SessionLimits {
            max: Some(3),
            full: full.parse().unwrap(),
            shown,
            ..SessionLimits::default()
        };
        device
            .update(|settings| {
                settings.sessions = vec![limits];
                settings.latency = vec![Latency {
                    time: Some(Distribution::Fixed(Span::millis(2))),
                    ..Latency::default()
                }];
            })
            .unwrap();
        let mut config = home.config("token=t;object=web");
        config.max_sessions = NonZeroUsize::new(16).unwrap();
        let key = sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(config))).unwrap();
        let world = World {
            home: home.clone(),
            device: Device::open(device.directory()).unwrap(),
            context: context.clone(),
            key,
        };
        assert_eq!(world.key.parallelism(), 16, "{full}: no number is no limit");
        let errors = world.under_load(|| pause(300));
        assert!(errors.is_empty(), "{full}: {errors:?}");
        assert!(
            device
                .counters()
                .count(Function::C_OpenSession, full.parse().unwrap())
                > 0
        );
        world.ends_clean();
    }
}

#[test]
fn a_limit_that_the_token_says_is_kept() {
    let Some((home, device)) = with_device("a_limit_that_the_token_says_is_kept") else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    let limits = SessionLimits {
        shown: Shown::Number(2),
        ..SessionLimits::default()
    };
    device
        .update(|settings| settings.sessions = vec![limits])
        .unwrap();
    let key = home.open("token=t;object=web").unwrap();
    assert_eq!(key.parallelism(), 2);
}

#[test]
fn sessions_that_are_closed_for_being_idle_are_opened_again_when_needed() {
    let Some(world) =
        World::new("sessions_that_are_closed_for_being_idle_are_opened_again_when_needed")
    else {
        return;
    };
    world.under_load(|| pause(50));
    let limits = SessionLimits {
        idle: Some(Span::millis(50)),
        ..SessionLimits::default()
    };
    world
        .device
        .update(|settings| settings.sessions = vec![limits])
        .unwrap();
    for _ in 0..3 {
        pause(100);
        let errors = world.under_load(|| pause(20));
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert!(world.key.figures().sessions_lost > 0);
    world.ends_clean();
}

#[test]
fn one_signature_in_ten_that_fails_is_made_again() {
    let Some(world) = World::new("one_signature_in_ten_that_fails_is_made_again") else {
        return;
    };
    let codes = [
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_KEY_HANDLE_INVALID",
        "CKR_FUNCTION_FAILED",
        "CKR_OPERATION_ACTIVE",
    ];
    for code in codes {
        let rule = fault(&[Function::C_Sign], code, None, Some(0.1));
        world
            .device
            .update(|settings| settings.faults = vec![rule])
            .unwrap();
        let made = world.key.signatures();
        let errors = world.under_load(|| pause(300));
        let made = world.key.signatures() - made;
        // Twice in a row is one in a hundred.
        let few = made / 20 + 3;
        assert!(
            u64::try_from(errors.len()).unwrap() <= few,
            "{code}: {} of {made}: {errors:?}",
            errors.len()
        );
    }
    world.device.heal().unwrap();
    world.signs_again();
    world.ends_clean();
}

#[test]
fn an_error_that_trying_again_cannot_mend_is_said_as_it_is() {
    let Some(world) = World::new("an_error_that_trying_again_cannot_mend_is_said_as_it_is") else {
        return;
    };
    let before = world.count(Function::C_SignInit, Rv::OK);
    world
        .device
        .fault(fault(
            &[Function::C_Sign],
            "CKR_DATA_LEN_RANGE",
            Some(1),
            None,
        ))
        .unwrap();
    let refused = world.sign().unwrap_err();
    assert!(
        matches!(&refused, SignError::Device(said) if said == "CKR_DATA_LEN_RANGE to C_Sign"),
        "{refused}"
    );
    world.signs_again();
    // One for the refused, one for the tender's proof, one for the signature that followed.
    assert!(world.count(Function::C_SignInit, Rv::OK) <= before + 3);
    world.ends_clean();
}

#[test]
fn a_wrong_pin_costs_one_try_however_often_the_key_is_opened() {
    let Some((home, device)) =
        with_device("a_wrong_pin_costs_one_try_however_often_the_key_is_opened")
    else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    device
        .update(|settings| {
            settings.pins = vec![PinLimit {
                token: None,
                tries: 5,
            }];
        })
        .unwrap();
    fs::write(home.directory.join("pin"), "wrong-pin").unwrap();
    for _ in 0..10 {
        let refused = home.open("token=t;object=web").unwrap_err();
        assert!(
            matches!(refused, OpenError::PinIncorrect { .. }),
            "{refused}"
        );
    }
    assert_eq!(device.pin_tries("t").unwrap().left, Some(4));
    fs::write(home.directory.join("pin"), PIN).unwrap();
    home.open("token=t;object=web").unwrap();
    assert_eq!(device.pin_tries("t").unwrap().left, Some(5));
}

#[test]
fn a_wrong_pin_costs_one_try_over_ten_restarts_of_the_process() {
    // Each process below runs this test again, with the state of the one before.
    let test = "a_wrong_pin_costs_one_try_over_ten_restarts_of_the_process";
    let Some((home, device)) = with_device(test) else {
        return;
    };
    let mut config = home.config("token=t;object=web");
    config.state = Some(home.directory.clone());
    let open = || sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(config.clone())));
    if home.directory.join("started").exists() {
        let refused = open().unwrap_err();
        assert!(
            matches!(refused, OpenError::PinIncorrect { .. }),
            "{refused}"
        );
        return;
    }
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    device
        .update(|settings| {
            settings.pins = vec![PinLimit {
                token: None,
                tries: 5,
            }];
        })
        .unwrap();
    fs::write(home.directory.join("started"), "").unwrap();
    fs::write(home.directory.join("pin"), "wrong-pin").unwrap();
    for _ in 0..10 {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--test-threads=1"])
            .output()
            .unwrap();
        assert!(
            again.status.success(),
            "{}",
            String::from_utf8_lossy(&again.stdout)
        );
    }
    assert_eq!(device.pin_tries("t").unwrap().left, Some(4));
    fs::write(home.directory.join("pin"), PIN).unwrap();
    open().unwrap();
}

#[test]
fn the_last_try_of_a_pin_is_never_spent_and_a_locked_one_is_named() {
    let Some((home, device)) =
        with_device("the_last_try_of_a_pin_is_never_spent_and_a_locked_one_is_named")
    else {
        return;
    };
    home.token("t", &[("web", 1, Kind::Curve(P256))]);
    device
        .update(|settings| {
            settings.pins = vec![PinLimit {
                token: None,
                tries: 3,
            }];
        })
        .unwrap();
    let refused = |pin: &str| {
        fs::write(home.directory.join("pin"), pin).unwrap();
        home.open("token=t;object=web").unwrap_err().to_string()
    };
    refused("wrong-one");
    refused("wrong-two");
    for pin in ["wrong-three", PIN] {
        let said = refused(pin);
        assert!(said.contains("one more wrong PIN would lock it"), "{said}");
    }
    assert_eq!(device.pin_tries("t").unwrap().left, Some(1));
}

#[test]
fn a_pin_that_was_changed_is_read_again_without_a_restart() {
    let Some(world) = World::with(
        "a_pin_that_was_changed_is_read_again_without_a_restart",
        |config| config.wait = Duration::from_millis(300),
    ) else {
        return;
    };
    let pins = (AuthPin::new(PIN.into()), AuthPin::new("another-pin".into()));
    let slot = slots(&world.context, "t")[0];
    world
        .context
        .open_rw_session(slot)
        .unwrap()
        .set_pin(&pins.0, &pins.1)
        .unwrap();
    world.device.restart(None, None);
    let refused = eventually("the old PIN is refused", || world.sign().err());
    assert!(matches!(refused, SignError::Login(_)), "{refused}");
    assert!(matches!(
        world.key.health(),
        KeyHealth::Down(SignError::Login(_))
    ));
    assert_eq!(
        world.count(Function::C_Login, "CKR_PIN_INCORRECT".parse().unwrap()),
        1
    );
    fs::write(world.home.directory.join("pin"), "another-pin").unwrap();
    world.signs_again();
    world.ends_clean();
}

#[test]
fn a_key_that_is_gone_is_said_to_be_and_another_in_its_place_is_not_used() {
    let Some(world) = World::with(
        "a_key_that_is_gone_is_said_to_be_and_another_in_its_place_is_not_used",
        |config| config.wait = Duration::from_millis(300),
    ) else {
        return;
    };
    let slot = slots(&world.context, "t")[0];
    let session = world.context.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    for object in session.find_objects(&[]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    let refused = eventually("the key is missed", || world.sign().err());
    assert!(refused.needs_help() || matches!(refused, SignError::Device(_)));
    let down = eventually("the key is said to be gone", || match world.key.health() {
        KeyHealth::Down(problem @ SignError::KeyGone) => Some(problem.to_string()),
        _ => None,
    });
    assert!(down.contains("restore it, or make a new one"), "{down}");
    make_key(&session, "web", 1, Kind::Curve(P256));
    eventually("the other key is noticed", || match world.key.health() {
        KeyHealth::Down(SignError::KeyChanged) => Some(()),
        _ => None,
    });
    world.sign().unwrap_err();
}

#[test]
fn a_key_that_is_replaced_while_nobody_looks_signs_nothing() {
    let Some(world) = World::new("a_key_that_is_replaced_while_nobody_looks_signs_nothing") else {
        return;
    };
    let slot = slots(&world.context, "t")[0];
    let session = world.context.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    for object in session.find_objects(&[]).unwrap() {
        session.destroy_object(object).unwrap();
    }
    make_key(&session, "web", 1, Kind::Curve(P256));
    let refused = eventually("the other key is noticed", || world.sign().err());
    assert!(matches!(refused, SignError::KeyChanged), "{refused}");
    eventually("it is said", || match world.key.health() {
        KeyHealth::Down(SignError::KeyChanged) => Some(()),
        _ => None,
    });
}

#[test]
fn a_device_that_gives_out_no_session_at_all_is_not_called_well() {
    let Some(world) = World::with(
        "a_device_that_gives_out_no_session_at_all_is_not_called_well",
        |config| config.wait = Duration::from_millis(300),
    ) else {
        return;
    };
    let none = fault(&[Function::C_OpenSession], "CKR_SESSION_COUNT", None, None);
    world.device.fault(none).unwrap();
    world.device.restart(None, None);
    let refused = world.sign().unwrap_err();
    assert!(matches!(refused, SignError::NoSession), "{refused}");
    assert!(matches!(
        world.key.health(),
        KeyHealth::Degraded(SignError::NoSession)
    ));
    world.device.heal().unwrap();
    world.signs_again();
    world.ends_clean();
}

#[test]
fn a_module_whose_initialisation_fails_is_initialised_as_soon_as_it_can_be() {
    let test = "a_module_whose_initialisation_fails_is_initialised_as_soon_as_it_can_be";
    let Some(world) = World::with(test, |config| config.wait = Duration::from_millis(300)) else {
        return;
    };
    let device_error = "CKR_DEVICE_ERROR";
    world
        .device
        .fault(fault(&[Function::C_Initialize], device_error, None, None))
        .unwrap();
    world
        .device
        .break_until_reinitialised(device_error.parse().unwrap());
    eventually("the module is finalised", || {
        let _ = world.sign();
        (world.count(Function::C_Finalize, Rv::OK) == 1).then_some(())
    });
    world.sign().unwrap_err();
    world.device.heal().unwrap();
    let begun = Instant::now();
    world.signs_again();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "not before the floor"
    );
    assert_eq!(world.count(Function::C_Finalize, Rv::OK), 1);
    world.ends_clean();
}

#[test]
fn many_threads_sign_while_everything_happens_to_the_device() {
    let test = "many_threads_sign_while_everything_happens_to_the_device";
    let Some(world) = World::with(test, |config| {
        config.max_sessions = NonZeroUsize::new(6).unwrap();
    }) else {
        return;
    };
    let seconds = std::env::var_os("SEALWIRE_STRESS_SECONDS")
        .and_then(|seconds| seconds.to_str()?.parse().ok())
        .unwrap_or(5);
    let end = Instant::now() + Duration::from_secs(seconds);
    let device_error: Rv = "CKR_DEVICE_ERROR".parse().unwrap();
    world
        .device
        .update(|settings| settings.log = LogLevel::Off)
        .unwrap();
    let before = world.key.signatures();
    let mut reloadable = Instant::now();
    let errors = world.under_load(|| {
        while Instant::now() < end {
            match fastrand::u8(..7) {
                0 => world.device.restart(None, None),
                1 => world.device.restart(None, Some(device_error)),
                2 => world.device.log_out(None),
                // More often, it would stay broken for 30 s.
                3 if Instant::now() > reloadable => {
                    reloadable = Instant::now() + Duration::from_secs(31);
                    world.device.break_until_reinitialised(device_error);
                }
                4 => {
                    world.device.freeze().unwrap();
                    pause(20);
                    world.device.thaw().unwrap();
                }
                5 => {
                    world.device.remove(None).unwrap();
                    pause(20);
                    world.device.insert(None).unwrap();
                }
                _ => {
                    let rule = fault(&[], "CKR_FUNCTION_FAILED", Some(3), None);
                    let settings = |settings: &mut Settings| settings.faults = vec![rule];
                    world.device.update(settings).unwrap();
                }
            }
            pause(fastrand::u64(..50));
        }
        world.device.heal().unwrap();
    });
    world.signs_again();
    let made = world.key.signatures() - before;
    println!(
        "{made} signatures and {} refusals in {seconds} s, {:?}",
        errors.len(),
        world.key.figures()
    );
    assert!(made > 0);
    world.ends_clean();
}

#[test]
fn a_key_made_here_is_gone_with_the_devices_sessions_and_another_can_be_made() {
    let generate = |config: &mut Pkcs11Config| {
        config.generate = Some(Generate {
            curve: Curve::P256,
            max_age: None,
        });
    };
    let Some(world) = World::with(
        "a_key_made_here_is_gone_with_the_devices_sessions_and_another_can_be_made",
        generate,
    ) else {
        return;
    };
    world.sign().unwrap();
    world.device.restart(None, None);
    assert!(
        world.sign().is_err(),
        "a restart takes session objects along"
    );
    eventually("it is known to be gone", || {
        matches!(world.key.health(), KeyHealth::Down(SignError::KeyGone)).then_some(())
    });
    let mut config = world.home.config("token=t;object=web");
    generate(&mut config);
    let next = sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(config))).unwrap();
    assert_ne!(next.public_key(), world.key.public_key());
    next.sign(SCHEME, b"message").unwrap();
}
