//! `hsm-sim ctl`, run as a user runs it. What its changes do to applications is tested with the
//! module (`device.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use hsm_sim::{Device, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A place for a device.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_device() -> Self {
        let place = Self::new();
        place.json(&["new"]);
        place
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("device")
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
            .args(["ctl", "--device"])
            .arg(self.directory())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have ended without reading.
        let _ = program.stdin.take().unwrap().write_all(input.as_bytes());
        program.wait_with_output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat(), "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(!output.status.success(), "{arguments:?} is not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn settings(&self) -> Value {
        self.json(&["show"])["settings"].clone()
    }
}

#[test]
fn a_new_device_is_for_its_owner_alone_and_is_not_made_twice() {
    let place = Place::new();
    let made = place.json(&["new", "--profile", "usb-hsm-16-sessions", "--log", "all"]);
    let directory = place.directory();
    assert!(made["module"].as_str().unwrap().ends_with("libhsm_sim.so"));
    assert_eq!(made["device"], json!(directory));
    let mode = fs::metadata(&directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(place.settings()["sessions"][0]["max"], 16);
    assert!(
        place
            .refusal(&["new"], "")
            .contains("choose another directory")
    );
}

#[test]
fn every_command_changes_what_it_says() {
    let place = Place::with_device();
    place.json(&["latency", "--fixed", "5ms", "--parallel", "2"]);
    place.json(&[
        "latency", "C_Login", "--name", "login", "--median", "1ms", "--p99", "9ms",
    ]);
    place.json(&["latency", "--mean", "5ms", "--deviation", "1ms"]);
    place.json(&[
        "fault",
        "C_Sign",
        "C_Decrypt",
        "CKR_DEVICE_ERROR",
        "--next",
        "3",
    ]);
    place.json(&[
        "fault",
        "CKR_DEVICE_MEMORY",
        "--probability",
        "0.1",
        "--token",
        "web",
    ]);
    place.json(&["freeze", "C_Login", "--token", "db"]);
    place.json(&["remove", "--token", "ca"]);
    place.json(&[
        "sessions",
        "--max",
        "8",
        "--shown",
        "unavailable",
        "--idle",
        "30s",
    ]);
    place.json(&["sessions", "--token", "web", "--max", "4", "--shown", "4"]);
    place.json(&["log", "--level", "all"]);
    assert_eq!(place.json(&["pin", "web", "--tries", "3"])["left"], 3);
    let settings = place.settings();
    assert_eq!(
        settings["latency"],
        json!([
            { "name": "login", "functions": ["C_Login"],
              "time": { "long-tailed": { "median": "1ms", "p99": "9ms" } } },
            { "name": "latency",
              "time": { "normal": { "mean": "5ms", "deviation": "1ms" } } },
        ])
    );
    assert_eq!(
        settings["faults"],
        json!([
            { "name": "fault-1", "functions": ["C_Sign", "C_Decrypt"],
              "rv": "CKR_DEVICE_ERROR", "next": 3 },
            { "name": "fault-2", "token": "web", "rv": "CKR_DEVICE_MEMORY", "probability": 0.1 },
        ])
    );
    assert_eq!(
        settings["frozen"],
        json!([{ "functions": ["C_Login"], "token": "db" }])
    );
    assert_eq!(settings["removed"], json!([{ "token": "ca" }]));
    assert_eq!(settings["sessions"][0]["token"], "web");
    assert_eq!(settings["sessions"][0]["shown"], json!({ "number": 4 }));
    assert_eq!(settings["sessions"][1]["idle"], "30s");
    assert_eq!(settings["log"], "all");

    place.json(&["thaw"]);
    place.json(&["insert", "--token", "ca"]);
    place.json(&["latency", "--name", "login", "--off"]);
    place.json(&["clear"]);
    let settings = place.settings();
    for gone in ["faults", "frozen", "removed"] {
        assert_eq!(settings[gone], Value::Null);
    }
    assert_eq!(settings["latency"].as_array().unwrap().len(), 1);
    assert_eq!(settings["pins"], json!([{ "token": "web", "tries": 3 }]));
    for event in [
        "restart",
        "log-out",
        "hide-until-reinit",
        "break-until-reinit",
    ] {
        place.json(&[event]);
    }
    assert_eq!(place.json(&["counters", "--reset"])["signatures"], 0);
    assert_eq!(place.json(&["log"]), json!([]));
}

#[test]
fn settings_are_set_as_a_whole_or_not_at_all() {
    let place = Place::with_device();
    let wanted = "pins: [{tries: 3}]\nscript: {steps: [{after: 1s, do: freeze}]}\n";
    assert!(place.run(&["set"], wanted).status.success());
    let settings = place.settings();
    assert_eq!(settings["pins"], json!([{ "tries": 3 }]));
    assert!(settings["script"]["started"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(place.refusal(&["set"], "pin: []").contains("pins"));
    assert!(place.refusal(&["fault", "CKR_OK"], "").contains("CKR_OK"));
    assert!(
        place
            .refusal(&["fault", "C_Sing", "CKR_CANCEL"], "")
            .contains("C_Sign")
    );
    assert!(
        place
            .refusal(&["latency", "--fixed", "5"], "")
            .contains("5ms")
    );
    assert_eq!(place.settings(), settings);
}

#[test]
fn without_a_device_it_says_how_to_make_one() {
    let place = Place::new();
    assert!(place.refusal(&["show"], "").contains("hsm-sim ctl new"));
    let output = Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
        .args(["ctl", "show"])
        .env_remove(hsm_sim::ENVIRONMENT)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("HSM_SIM"));
}

#[test]
fn profiles_say_where_their_figures_come_from() {
    let place = Place::with_device();
    let listed = place.json(&["profile"]);
    assert_eq!(listed.as_array().unwrap().len(), 4);
    place.json(&["fault", "CKR_DEVICE_ERROR"]);
    place.json(&["profile", "cloudhsm"]);
    let settings = place.settings();
    assert_eq!(settings["sessions"][0]["full"], "CKR_ARGUMENTS_BAD");
    assert_eq!(settings["faults"].as_array().unwrap().len(), 1);
}

#[test]
fn many_that_change_the_settings_at_once_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let device = Device::create(&directory.path().join("device"), &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let device = Device::open(device.directory()).unwrap();
                for _ in 0..4 {
                    device
                        .update(|settings| settings.removed.push(hsm_sim::Removed::default()))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(device.settings().unwrap().removed.len(), 32);
}
