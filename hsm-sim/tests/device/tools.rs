//! The module as programs load it that are not ours, and what it says when it cannot work.

use std::process::Command;

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki_sys::{CKF_INTERFACE_FORK_SAFE, CKR_BUFFER_TOO_SMALL, CKR_FUNCTION_FAILED, CKR_OK};

use crate::home::{PIN, failure, home, locking, log_in, module};
use crate::raw::Raw;

#[test]
fn pkcs11_tool_finds_nothing_wrong_with_it() {
    let Some(home) = home("tools::pkcs11_tool_finds_nothing_wrong_with_it") else {
        return;
    };
    let session = home.session();
    log_in(&session).unwrap();
    let named = [
        Attribute::Token(true),
        Attribute::Id(vec![9]),
        Attribute::Label(b"rsa".to_vec()),
    ];
    let public = [
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Verify(true),
        // SoftHSM refuses the tool's OAEP parameters, with or without us.
        Attribute::Encrypt(false),
    ];
    let private = [
        Attribute::Private(true),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
    ];
    session
        .generate_key_pair(
            &Mechanism::RsaPkcsKeyPairGen,
            &[&named[..], &public[..]].concat(),
            &[&named[..], &private[..]].concat(),
        )
        .unwrap();
    let tool = |module: &std::path::Path| {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(module)
            .args([
                "--token-label",
                "web",
                "--login",
                "--pin",
                "env:PIN",
                "--test",
            ])
            .env("PIN", PIN)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    };
    let through = tool(&module());
    assert!(through.contains("No errors"), "{through}");
    assert_eq!(through, tool(&softhsm()), "as without the simulator");
    assert!(home.device.violations().unwrap().is_empty());
}

fn softhsm() -> std::path::PathBuf {
    [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ]
    .iter()
    .map(std::path::PathBuf::from)
    .find(|path| path.exists())
    .expect("SoftHSM is installed: scripts/setup test")
}

#[test]
fn its_interfaces_are_those_of_the_real_module() {
    let Some(_home) = home("tools::its_interfaces_are_those_of_the_real_module") else {
        return;
    };
    let raw = Raw::new();
    assert_eq!(raw.count_interfaces(), 1, "SoftHSM has 2.40 alone");
    assert_eq!(raw.interfaces(0), (CKR_BUFFER_TOO_SMALL, vec![]));
    assert_eq!(raw.interfaces(1), (CKR_OK, vec![(2, 40)]));
    let name = Some(c"PKCS 11");
    assert_eq!(raw.interface(None, None, 0), Ok((2, 40)));
    assert_eq!(raw.interface(name, Some((2, 40)), 0), Ok((2, 40)));
    let none = Err(CKR_FUNCTION_FAILED);
    assert_eq!(raw.interface(name, Some((3, 0)), 0), none);
    assert_eq!(raw.interface(Some(c"Vendor"), None, 0), none);
    assert_eq!(raw.interface(None, None, CKF_INTERFACE_FORK_SAFE), none);
}

/// Runs a program that initialises the module, and gives what it said.
fn initialise_elsewhere(device: Option<&std::path::Path>) -> String {
    let mut tool = Command::new("pkcs11-tool");
    tool.arg("--module").arg(module()).arg("-L");
    match device {
        Some(device) => tool.env(hsm_sim::ENVIRONMENT, device),
        None => tool.env_remove(hsm_sim::ENVIRONMENT),
    };
    let output = tool.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_device_it_says_what_to_do() {
    let said = initialise_elsewhere(None);
    assert!(
        said.contains("HSM_SIM is not set") && said.contains("hsm-sim ctl new"),
        "{said}"
    );
    let directory = tempfile::tempdir().unwrap();
    let said = initialise_elsewhere(Some(directory.path()));
    assert!(
        said.contains("device.yaml") && said.contains("hsm-sim ctl new"),
        "{said}"
    );
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "a directory that is no device is left alone"
    );
}

#[test]
fn bad_settings_are_refused_with_the_field_the_value_and_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    for (settings, words) in [
        ("latencies: []", ["latencies", "latency"]),
        ("faults: [{rv: CKR_NOPE}]", ["CKR_NOPE", "CKR_DEVICE_ERROR"]),
        ("latency: [{time: {fixed: 5}}]", ["5", "5ms"]),
        ("latency: [{parallel: 3}]", ["parallel", "add time"]),
        (
            "module: /nonexistent.so",
            ["/nonexistent.so", "device.yaml"],
        ),
    ] {
        std::fs::write(directory.path().join("device.yaml"), settings).unwrap();
        let said = initialise_elsewhere(Some(directory.path()));
        for word in words {
            assert!(said.contains(word), "{word} is missing in {said}");
        }
    }
}

#[test]
fn it_does_not_stand_before_itself() {
    let directory = tempfile::tempdir().unwrap();
    let settings = format!("module: {}\n", module().display());
    std::fs::write(directory.path().join("device.yaml"), settings).unwrap();
    let said = initialise_elsewhere(Some(directory.path()));
    assert!(said.contains("the simulator itself"), "{said}");
}

#[test]
fn initialising_twice_is_answered_as_the_standard_says() {
    let Some(_home) = home("tools::initialising_twice_is_answered_as_the_standard_says") else {
        return;
    };
    let again = Pkcs11::new(module()).unwrap();
    assert_eq!(
        failure(again.initialize(locking())),
        RvError::CryptokiAlreadyInitialized
    );
}
