//! Several processes with one device, and changes from outside.

use std::fs;
use std::process::{Command, Output};

use cryptoki::error::RvError;
use hsm_sim::{Fault, Function, LogLevel, PinLimit};

use crate::home::{
    Home, OFFICER_PIN, WRONG_PIN, eventually, failure, home, log_in, log_in_with, rv, sign,
};

impl Home {
    /// Another process that uses the device.
    fn pkcs11_tool(&self, pin: &str) -> Output {
        Command::new("pkcs11-tool")
            .arg("--module")
            .arg(crate::home::module())
            .args(["--token-label", "web", "--login", "--pin", "env:PIN", "-O"])
            .env("PIN", pin)
            .output()
            .unwrap()
    }

    fn ctl(&self, arguments: &[&str]) -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
            .args(["ctl", "--json"])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn two_processes_share_the_tries_of_a_pin() {
    let Some(home) = home("processes::two_processes_share_the_tries_of_a_pin") else {
        return;
    };
    let limit = PinLimit {
        token: None,
        tries: 2,
    };
    home.device
        .update(|settings| settings.pins.push(limit))
        .unwrap();
    let session = home.session();
    assert!(!home.pkcs11_tool(WRONG_PIN).status.success());
    assert_eq!(
        failure(log_in_with(&session, WRONG_PIN)),
        RvError::PinIncorrect
    );
    assert_eq!(failure(log_in(&session)), RvError::PinLocked);
    let refused = home.pkcs11_tool(crate::home::PIN);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("CKR_PIN_LOCKED"));
    home.ctl(&["pin", "web", "--reset"]);
    assert!(home.pkcs11_tool(crate::home::PIN).status.success());
    log_in(&session).unwrap();
}

#[test]
fn processes_share_the_number_of_calls_that_fail() {
    let Some(home) = home("processes::processes_share_the_number_of_calls_that_fail") else {
        return;
    };
    let fault = Fault::new(&[Function::C_Login], rv("CKR_DEVICE_ERROR"));
    home.device.fault(fault.next(2)).unwrap();
    let session = home.session();
    assert_eq!(failure(log_in(&session)), RvError::DeviceError);
    assert!(!home.pkcs11_tool(crate::home::PIN).status.success());
    assert!(home.pkcs11_tool(crate::home::PIN).status.success());
    log_in(&session).unwrap();
}

#[test]
fn what_the_tool_changes_is_in_force_with_the_next_call() {
    let Some(home) = home("processes::what_the_tool_changes_is_in_force_with_the_next_call") else {
        return;
    };
    let (session, key) = home.signer();
    home.ctl(&["fault", "C_Sign", "CKR_DEVICE_ERROR", "--next", "1"]);
    assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
    sign(&session, key).unwrap();
    home.ctl(&["fault", "CKR_DEVICE_MEMORY"]);
    assert_eq!(failure(sign(&session, key)), RvError::DeviceMemory);
    home.ctl(&["clear"]);
    sign(&session, key).unwrap();
    home.ctl(&["sessions", "--max", "1", "--full", "CKR_ARGUMENTS_BAD"]);
    assert_eq!(failure(home.try_session()), RvError::ArgumentsBad);
    home.ctl(&["remove", "--token", "web"]);
    assert_eq!(failure(sign(&session, key)), RvError::DeviceRemoved);
    home.ctl(&["insert"]);
    home.ctl(&["restart", "--first", "CKR_DEVICE_ERROR"]);
    assert_eq!(failure(sign(&session, key)), RvError::SessionHandleInvalid);
    home.ctl(&["break-until-reinit"]);
    assert_eq!(failure(sign(&session, key)), RvError::GeneralError);
    let shown = home.ctl(&["show"]);
    assert_eq!(shown["settings"]["sessions"][0]["max"], 1);
    assert_eq!(
        shown["counters"]["operations"]["C_Sign"]["CKR_DEVICE_ERROR"],
        1
    );
}

#[test]
fn an_edited_file_is_followed_and_a_bad_one_is_not() {
    let Some(home) = home("processes::an_edited_file_is_followed_and_a_bad_one_is_not") else {
        return;
    };
    let (session, key) = home.signer();
    let file = home.device.directory().join("device.yaml");
    fs::write(
        &file,
        "log: all\nfaults: [{functions: [C_Sign], rv: CKR_DEVICE_ERROR}]\n",
    )
    .unwrap();
    eventually("the fault is in force", || sign(&session, key).is_err());
    fs::write(&file, "log: all\nfrozen: [{function: [C_Sign]}]\n").unwrap();
    let begun = std::time::Instant::now();
    eventually("the bad file has been looked at", || {
        assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
        begun.elapsed() > std::time::Duration::from_millis(50)
    });
    fs::write(&file, "log: all\n").unwrap();
    eventually("the fault is gone", || sign(&session, key).is_ok());
}

#[test]
fn the_log_holds_what_its_level_says_and_never_a_pin() {
    let Some(home) = home("processes::the_log_holds_what_its_level_says_and_never_a_pin") else {
        return;
    };
    let (session, key) = home.signer();
    let _ = log_in_with(&session, WRONG_PIN);
    let file = home.device.directory().join("operations.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"C_Login\"") && text.contains("\"token\":\"web\""));
    for secret in [crate::home::PIN, WRONG_PIN, OFFICER_PIN] {
        assert!(!text.contains(secret));
    }
    for (level, lines) in [
        (LogLevel::All, 4),
        (LogLevel::Errors, 1),
        (LogLevel::Off, 0),
    ] {
        home.device.update(|settings| settings.log = level).unwrap();
        home.device.clear_log().unwrap();
        sign(&session, key).unwrap();
        assert_eq!(failure(log_in(&session)), RvError::UserAlreadyLoggedIn);
        assert_eq!(home.device.log().unwrap().len(), lines, "{level:?}");
    }
}
