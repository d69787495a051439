use proptest::prelude::*;

use super::*;
use crate::device::script::{Action, Step};

const EVERYTHING: &str = "
module: /usr/lib/softhsm/libsofthsm2.so
log: all
latency:
  - name: signing
    functions: [C_Sign, C_SignFinal]
    token: web
    time: {long-tailed: {median: 4ms, p99: 40ms}}
    per-second: 300
    burst: 10
    parallel: 4
  - time: {fixed: 250us}
  - time: {normal: {mean: 5ms, deviation: 1.5ms}}
sessions:
  - {token: web, max: 16, full: CKR_ARGUMENTS_BAD, shown: {number: 16}, idle: 30s}
  - {shown: unavailable}
pins:
  - {tries: 3}
faults:
  - {functions: [C_Login], token: web, rv: CKR_DEVICE_ERROR, next: 3}
  - {rv: 0x80000382, probability: 0.1, after: 2s}
frozen:
  - {functions: [C_Sign], token: db}
removed:
  - {token: ca}
script:
  steps:
    - {after: 1s, do: freeze}
    - {after: 2s, do: thaw}
    - {after: 3s, do: {fault: {rv: CKR_GENERAL_ERROR}}}
    - {after: 4s, do: {break: CKR_GENERAL_ERROR}}
    - {after: 5s, do: heal}
";

#[test]
fn all_settings_are_read_as_the_documentation_writes_them() {
    let settings = Settings::parse(EVERYTHING).unwrap();
    assert_eq!(settings.latency[0].burst, Some(10));
    assert_eq!(settings.latency[1].name.as_deref(), Some("latency-at-1"));
    assert_eq!(settings.sessions[0].shown, Shown::Number(16));
    assert_eq!(settings.faults[1].rv, Rv(0x8000_0382));
    let steps = &settings.script.as_ref().unwrap().steps;
    let last = Step {
        after: Span::millis(5_000),
        action: Action::Heal,
    };
    assert_eq!(steps.last(), Some(&last));
    let written = serde_saphyr::to_string(&settings).unwrap();
    assert_eq!(Settings::parse(&written), Ok(settings));
}

#[test]
fn settings_that_make_no_sense_are_refused_with_the_fix() {
    for (text, fix) in [
        ("", "log"),
        ("latency: [{}]", "give time or per-second"),
        ("latency: [{parallel: 4, per-second: 1}]", "add time"),
        (
            "latency: [{parallel: 99, time: {fixed: 1ms}}]",
            "from 1 to 64",
        ),
        ("latency: [{burst: 2, time: {fixed: 1ms}}]", "per-second"),
        ("latency: [{per-second: 0}]", "from 0.001"),
        (
            "latency: [{time: {long-tailed: {median: 5ms, p99: 5ms}}}]",
            "0 < median < p99",
        ),
        ("faults: [{rv: CKR_OK}]", "name another value"),
        ("faults: [{rv: CKR_CANCEL, probability: 2}]", "from 0 to 1"),
        (
            "faults: [{name: a, rv: CKR_CANCEL}, {name: a, rv: CKR_CANCEL}]",
            "another name",
        ),
        ("sessions: [{full: CKR_OK}]", "name another value"),
        ("pins: [{tries: 0}]", "at least 1"),
        ("frozen: [{function: C_Sign}]", "functions"),
        (
            "script: {steps: [{after: 2s, do: thaw}, {after: 1s, do: freeze}]}",
            "sort them",
        ),
    ] {
        let problem = Settings::parse(text).unwrap_err();
        assert!(problem.contains(fix), "{text}: {problem}");
    }
}

#[test]
fn a_rule_matches_what_it_names_or_what_its_kind_is_for() {
    let latency = |functions: &[Function], token: Option<&str>| Latency {
        functions: functions.to_vec(),
        token: token.map(str::to_owned),
        ..Latency::default()
    };
    let all = latency(&[], None);
    assert!(all.matches(Function::C_Sign, None));
    assert!(!all.matches(Function::C_SignInit, None));
    assert!(!all.matches(Function::C_FindObjects, Some("web")));
    let inits = latency(&[Function::C_SignInit], Some("web"));
    assert!(inits.matches(Function::C_SignInit, Some("web")));
    assert!(!inits.matches(Function::C_SignInit, Some("db")));
    assert!(!inits.matches(Function::C_SignInit, None));
    assert!(!inits.matches(Function::C_Sign, Some("web")));
    let fault = Fault::new(&[], Rv(cryptoki_sys::CKR_DEVICE_ERROR));
    assert!(fault.matches(Function::C_FindObjects, None));
    assert!(!fault.matches(Function::C_GetInfo, None));
    assert!(!fault.matches(Function::C_Finalize, None));
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in ".{0,200}") {
        let _ = Settings::parse(&text);
    }

    #[test]
    fn no_change_of_a_valid_file_makes_reading_panic(
        at in 0..EVERYTHING.len(),
        text in "[ -~\\n]{0,8}",
    ) {
        let mut changed = EVERYTHING.to_owned();
        changed.insert_str(at, &text);
        let _ = Settings::parse(&changed);
    }
}
