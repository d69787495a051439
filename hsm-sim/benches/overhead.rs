//! What the simulator itself costs: signatures straight from SoftHSM and through the module, in
//! turns and by medians. `cargo bench -p hsm-sim`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails loudly and prints what it found"
)]

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use hsm_sim::{Device, ENVIRONMENT, LogLevel, Settings, Store, find_module};

/// Tokens, and the algorithms of the keys in them.
const ALGORITHMS: [&str; 2] = ["p256", "rsa2048"];
const ROUNDS: usize = 40;
const SIGNATURES: usize = 250;
/// cryptoki makes three calls for a signature: C_SignInit, C_Sign for the length, C_Sign.
const CALLS: u32 = 3;

fn main() {
    match env::var_os(ENVIRONMENT) {
        Some(directory) => {
            let device = Device::open(Path::new(&directory)).unwrap();
            let simulated = Pkcs11::new(find_module().unwrap()).unwrap();
            let flags = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
            simulated.initialize(flags).unwrap();
            // SoftHSM is one in a process, whoever has initialised it.
            let store = Store::open(&device.directory().with_file_name("hsm"), None).unwrap();
            let real = Pkcs11::new(store.module()).unwrap();
            for algorithm in ALGORITHMS {
                measure(&device, &store, &simulated, &real, algorithm);
            }
        }
        None => prepare(),
    }
}

/// Makes keys and a device, and runs itself again with both: they are found through the
/// environment, which a process cannot safely change.
fn prepare() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("hsm");
    let tool = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
            .arg("--dir")
            .arg(&store)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    tool(&["init"]);
    for name in ALGORITHMS {
        tool(&[
            "key",
            "--token",
            name,
            "--label",
            "key",
            "--algorithm",
            name,
        ]);
    }
    let device = Device::create(&directory.path().join("device"), &Settings::default()).unwrap();
    let status = Command::new(env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", store.join("softhsm2.conf"))
        .env(ENVIRONMENT, device.directory())
        .status();
    assert!(status.unwrap().success());
}

fn measure(device: &Device, store: &Store, simulated: &Pkcs11, real: &Pkcs11, algorithm: &str) {
    let pin = std::fs::read_to_string(store.pin_file(algorithm)).unwrap();
    let direct = signer(real, algorithm, pin.trim());
    let through = signer(simulated, algorithm, pin.trim());
    let mechanism = match algorithm {
        "rsa2048" => Mechanism::RsaPkcs,
        _ => Mechanism::Ecdsa,
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (variant, times) in times.iter_mut().enumerate() {
            let level = [LogLevel::Off, LogLevel::Off, LogLevel::All][variant];
            device.update(|settings| settings.log = level).unwrap();
            let signer = if variant == 0 { &direct } else { &through };
            sign(signer, &mechanism, SIGNATURES / 10);
            times.extend(sign(signer, &mechanism, SIGNATURES));
            device.clear_log().unwrap();
        }
    }
    let [direct, off, all] = times.map(median);
    println!("{algorithm}: direct {direct:?} a signature");
    for (name, time) in [("log off", off), ("log all", all)] {
        let ratio = time.as_secs_f64() / direct.as_secs_f64();
        let call = time.saturating_sub(direct) / CALLS;
        println!("  {name}: {time:?}, {ratio:.3} times as long, {call:?} a call");
    }
}

fn signer(context: &Pkcs11, token: &str, pin: &str) -> (Session, ObjectHandle) {
    let slot = context
        .get_slots_with_initialized_token()
        .unwrap()
        .into_iter()
        .find(|slot| context.get_token_info(*slot).unwrap().label() == token)
        .unwrap();
    let session = context.open_ro_session(slot).unwrap();
    // Logged in already, the second time.
    let _ = session.login(UserType::User, Some(&AuthPin::new(pin.into())));
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    let key = session.find_objects(&wanted).unwrap()[0];
    (session, key)
}

fn sign(
    (session, key): &(Session, ObjectHandle),
    mechanism: &Mechanism<'_>,
    signatures: usize,
) -> Vec<Duration> {
    let one = |_| {
        let begun = Instant::now();
        session.sign(mechanism, *key, &[7; 32]).unwrap();
        begun.elapsed()
    };
    (0..signatures).map(one).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
