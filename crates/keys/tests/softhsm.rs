//! The PKCS#11 provider against a real token. SoftHSM finds its tokens through the environment, so
//! each test makes its own and runs itself again with that environment set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use sealwire_keys::{
    Algorithm, KeyConfig, OpenError, Pkcs11Config, PrivateKey, Scheme, SignError, open,
};

const PIN: &str = "5318-0008-token";

/// DER of the curves' object identifiers, and SoftHSM's name for the last.
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = b"\x13\x0cedwards25519";

/// Where the token and its PIN are, in the process that has the environment.
struct Home {
    directory: PathBuf,
}

/// Runs the test again in a process of its own, with a token store of its own; in that process,
/// gives the store.
fn at_home(test: &str) -> Option<Home> {
    if let Some(conf) = env::var_os("SOFTHSM2_CONF") {
        let directory = Path::new(&conf).parent().unwrap().to_owned();
        return Some(Home { directory });
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir(path.join("tokens")).unwrap();
    let tokens = path.join("tokens");
    let conf = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    fs::write(path.join("softhsm2.conf"), conf).unwrap();
    let pin = path.join("pin");
    fs::write(&pin, PIN).unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    let again = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", path.join("softhsm2.conf"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned()
        + &String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{said}"
    );
    None
}

fn module() -> PathBuf {
    [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    ]
    .iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
    .expect("SoftHSM is installed: scripts/setup test")
}

impl Home {
    /// Makes a token with key pairs, by CKA_LABEL, CKA_ID and curve (or RSA's length).
    fn token(&self, label: &str, keys: &[(&str, u8, Kind)]) -> Pkcs11 {
        let context = Pkcs11::new(module()).unwrap();
        // The provider may have initialised it in this process already.
        let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let empty = context
            .get_slots_with_token()
            .unwrap()
            .into_iter()
            .find(|slot| !context.get_token_info(*slot).unwrap().token_initialized())
            .unwrap();
        let officer = AuthPin::new("officer-pin".into());
        context.init_token(empty, &officer, label).unwrap();
        let slot = context
            .get_slots_with_initialized_token()
            .unwrap()
            .into_iter()
            .find(|slot| context.get_token_info(*slot).unwrap().label() == label)
            .unwrap();
        let session = context.open_rw_session(slot).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&AuthPin::new(PIN.into())).unwrap();
        session.logout().unwrap();
        session
            .login(UserType::User, Some(&AuthPin::new(PIN.into())))
            .unwrap();
        for (name, id, kind) in keys {
            let named = [
                Attribute::Token(true),
                Attribute::Label(name.as_bytes().to_vec()),
                Attribute::Id(vec![*id]),
            ];
            let mut public = named.to_vec();
            let mut private = named.to_vec();
            private.extend([
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(true),
            ]);
            let mechanism = match kind {
                Kind::Curve(curve) => {
                    public.push(Attribute::EcParams(curve.to_vec()));
                    if *curve == ED25519 {
                        Mechanism::EccEdwardsKeyPairGen
                    } else {
                        Mechanism::EccKeyPairGen
                    }
                }
                Kind::Rsa(bits) => {
                    public.extend([
                        Attribute::ModulusBits((*bits).into()),
                        Attribute::PublicExponent(vec![1, 0, 1]),
                    ]);
                    Mechanism::RsaPkcsKeyPairGen
                }
            };
            session
                .generate_key_pair(&mechanism, &public, &private)
                .unwrap();
        }
        session.logout().unwrap();
        context
    }

    fn config(&self, uri: &str) -> Pkcs11Config {
        let uri = format!(
            "pkcs11:{uri}?pin-source=file:{}/pin",
            self.directory.display()
        );
        Pkcs11Config {
            module: module(),
            uri: uri.parse().unwrap(),
            max_sessions: NonZeroUsize::new(4).unwrap(),
            queue: 64,
            wait: Duration::from_secs(5),
            state: None,
        }
    }

    fn open(&self, uri: &str) -> Result<Arc<dyn PrivateKey>, OpenError> {
        open(&KeyConfig::Pkcs11(Box::new(self.config(uri))))
    }
}

#[derive(Copy, Clone)]
enum Kind {
    Curve(&'static [u8]),
    Rsa(std::ffi::c_ulong),
}

#[test]
fn every_kind_of_key_signs_with_every_scheme_it_offers_and_says_that_it_cannot_leave() {
    let Some(home) = at_home(
        "every_kind_of_key_signs_with_every_scheme_it_offers_and_says_that_it_cannot_leave",
    ) else {
        return;
    };
    home.token(
        "t",
        &[
            ("p256", 1, Kind::Curve(P256)),
            ("p384", 2, Kind::Curve(P384)),
            ("ed", 3, Kind::Curve(ED25519)),
            ("rsa2048", 4, Kind::Rsa(2048)),
            ("rsa3072", 5, Kind::Rsa(3072)),
        ],
    );
    let expected = [
        ("p256", Algorithm::EcdsaP256, 1),
        ("p384", Algorithm::EcdsaP384, 1),
        ("ed", Algorithm::Ed25519, 1),
        ("rsa2048", Algorithm::Rsa { bits: 2048 }, 3),
        ("rsa3072", Algorithm::Rsa { bits: 3072 }, 3),
    ];
    for (label, algorithm, schemes) in expected {
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
    home.open("token=t;object=twin;id=%03").unwrap();
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
    let mut config = home.config("token=t;object=web");
    config.max_sessions = NonZeroUsize::MIN;
    config.queue = 1;
    config.wait = Duration::from_millis(1);
    let key = open(&KeyConfig::Pkcs11(Box::new(config))).unwrap();
    let begun = Instant::now();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..20)
                        .map(|_| key.sign(Scheme::RsaPssSha256, b"x"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let count = |wanted: fn(&SignError) -> bool| {
        outcomes
            .iter()
            .filter(|outcome| outcome.as_ref().is_err_and(wanted))
            .count()
    };
    assert!(outcomes.iter().any(Result::is_ok));
    assert!(
        count(|error| matches!(error, SignError::Overloaded { limit: 1 })) > 0,
        "nobody was refused"
    );
    assert!(
        count(|error| matches!(error, SignError::Deadline { .. })) > 0,
        "nobody waited in vain"
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    // And afterwards all is as before.
    key.sign(Scheme::RsaPssSha256, b"x").unwrap();
}
