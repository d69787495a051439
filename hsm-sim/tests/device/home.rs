//! A token store and a device for one test. SoftHSM and the module find theirs through the
//! environment, so each test runs itself again with that environment set.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use hsm_sim::{Device, LogLevel, Rv, Settings};

pub(crate) const PIN: &str = "5318-0008-token";
pub(crate) const WRONG_PIN: &str = "5318-0009-token";

pub(crate) const OFFICER_PIN: &str = "5318-0008-officer";

/// DER of the object identifier of P-256.
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// Where a test is at home.
pub(crate) struct Home {
    pub(crate) device: Device,
    /// Has a token "web" with a P-256 key "key" when a test begins.
    pub(crate) context: Pkcs11,
    /// The slot of "web".
    pub(crate) web: Slot,
}

/// Runs a test again in a process of its own, with a store and a device of its own; there, gives
/// them.
pub(crate) fn home(test: &str) -> Option<Home> {
    if let Some(directory) = env::var_os(hsm_sim::ENVIRONMENT) {
        let device = Device::open(Path::new(&directory)).unwrap();
        let context = load();
        make_token(&context, "web");
        let web = slot(&context, "web");
        return Some(Home {
            device,
            context,
            web,
        });
    }
    let directory = tempfile::tempdir().unwrap();
    again(
        test,
        &mut command(directory.path(), &env::current_exe().unwrap()),
    );
    None
}

/// Runs a test again, by a program that is the tests' own.
pub(crate) fn again(test: &str, program: &mut Command) {
    let again = program
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned()
        + &String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// A program with a store and a device of its own, which logs all.
pub(crate) fn command(directory: &Path, program: &Path) -> Command {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    fs::write(directory.join("softhsm2.conf"), conf).unwrap();
    let settings = Settings {
        log: LogLevel::All,
        ..Settings::default()
    };
    let device = Device::create(&directory.join("device"), &settings).unwrap();
    let mut command = Command::new(program);
    command
        .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
        .env(hsm_sim::ENVIRONMENT, device.directory());
    command
}

pub(crate) fn module() -> PathBuf {
    hsm_sim::find_module().expect("libhsm_sim.so is built with the tests")
}

/// Loads and initialises the module.
pub(crate) fn load() -> Pkcs11 {
    let context = Pkcs11::new(module()).unwrap();
    context.initialize(locking()).unwrap();
    context
}

pub(crate) fn locking() -> CInitializeArgs {
    CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)
}

/// Makes a token with a P-256 key pair.
pub(crate) fn make_token(context: &Pkcs11, label: &str) {
    let empty = context
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| !context.get_token_info(*slot).unwrap().token_initialized())
        .unwrap();
    let officer = AuthPin::new(OFFICER_PIN.into());
    context.init_token(empty, &officer, label).unwrap();
    let session = context.open_rw_session(slot(context, label)).unwrap();
    session.login(UserType::So, Some(&officer)).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    log_in(&session).unwrap();
    make_key(&session, true).unwrap();
    session.logout().unwrap();
}

/// Makes a key pair "key", in the token or for the session only.
pub(crate) fn make_key(session: &Session, in_token: bool) -> Result<ObjectHandle, Error> {
    let named = [
        Attribute::Token(in_token),
        Attribute::Label(b"key".to_vec()),
        Attribute::Id(vec![1]),
    ];
    let public = [&named[..], &[Attribute::EcParams(P256.to_vec())]].concat();
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Sign(true),
    ];
    let private = [&named[..], &private[..]].concat();
    let (_, key) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    Ok(key)
}

/// The slot of a token.
pub(crate) fn slot(context: &Pkcs11, label: &str) -> Slot {
    let slots = context.get_slots_with_initialized_token().unwrap();
    let labelled = |slot: &Slot| context.get_token_info(*slot).unwrap().label() == label;
    slots.into_iter().find(labelled).unwrap()
}

pub(crate) fn log_in(session: &Session) -> Result<(), Error> {
    log_in_with(session, PIN)
}

pub(crate) fn log_in_with(session: &Session, pin: &str) -> Result<(), Error> {
    session.login(UserType::User, Some(&AuthPin::new(pin.into())))
}

/// The private key.
pub(crate) fn key(session: &Session) -> Result<ObjectHandle, Error> {
    let wanted = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(b"key".to_vec()),
    ];
    let found = session.find_objects(&wanted)?;
    Ok(*found.first().expect("the token has a key"))
}

/// How many of the objects that the tests make are seen.
pub(crate) fn keys(session: &Session) -> usize {
    let named = [Attribute::Label(b"key".to_vec())];
    session.find_objects(&named).unwrap().len()
}

pub(crate) fn sign(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, Error> {
    session.sign(&Mechanism::Ecdsa, key, &[7; 32])
}

/// The value that a call failed with.
pub(crate) fn failure<T: std::fmt::Debug>(result: Result<T, Error>) -> RvError {
    match result {
        Err(Error::Pkcs11(rv, _)) => rv,
        other => panic!("{other:?} is no return value"),
    }
}

/// A return value by its name.
pub(crate) fn rv(name: &str) -> Rv {
    name.parse().unwrap()
}

/// Waits for something to become true.
#[allow(clippy::disallowed_methods, reason = "looks again until the deadline")]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Home {
    /// A session with the token "web".
    pub(crate) fn session(&self) -> Session {
        self.try_session().unwrap()
    }

    pub(crate) fn try_session(&self) -> Result<Session, Error> {
        self.context.open_rw_session(self.web)
    }

    /// A logged-in session with the token "web", and its key.
    pub(crate) fn signer(&self) -> (Session, ObjectHandle) {
        let session = self.session();
        log_in(&session).unwrap();
        let key = key(&session).unwrap();
        (session, key)
    }
}
