//! `sealwire verify` and `sealwire evidence` as people and scripts run them, on a log that the real
//! writer has written.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are outside of what clippy takes for tests"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use sealwire_evidence::record::{
    Boot, Certificate, CertificateEvent, Custody, CustodyOccasion, Event, Pod, Policy, Start, Stop,
    StopCause, Timestamp, Window,
};
use sealwire_evidence::{LogConfig, LogWriter, RetentionLimits, SystemClock};
use sealwire_identity::Credentials;
use sealwire_keys::{KeyConfig, MemoryConfig};

/// What clears the screen of whoever prints it, and turns the text after it around.
const CLEARS: &str = "\u{1b}[2J\u{202e}";

/// A log, and the bundle that it is to be checked with.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let credentials = issue(directory.path());
        write(&directory.path().join("logs/web-0"), &credentials);
        Self { directory }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("logs/web-0")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sealwire"))
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_log_in_order_ends_with_0_and_an_edited_one_with_1_and_the_place() {
    let world = World::new();
    let said = world.says(&["verify", "logs", "--trust", "bundle.pem"]);
    assert!(said.contains("1 logs, nothing wrong"), "{said}");

    let bundle = world.log().join("tile/entries/000.p/7");
    let mut bytes = fs::read(&bundle).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let output = world.run(&["verify", "logs", "--trust", "bundle.pem"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("tile/entries/000.p/7: it is not the one that was signed"),
        "{said}"
    );

    let output = world.run(&["verify", "logs", "--trust", "bundle.pem", "--json"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(r#""problem":"record""#) && said.contains(r#""good":false"#),
        "{said}"
    );
}

#[test]
fn what_is_expected_of_the_end_is_demanded() {
    let world = World::new();
    let arguments = [
        "verify",
        "logs",
        "--trust",
        "bundle.pem",
        "--expect-until",
        "2999-01-01T00:00:00Z",
    ];
    // It ends with a stop record, and nothing is to be expected after that.
    world.says(&arguments);
    let kept = world.directory.path().join("kept");
    fs::copy(world.log().join("checkpoint"), &kept).unwrap();
    world.says(&[
        "verify",
        "logs",
        "--trust",
        "bundle.pem",
        "--checkpoint",
        "kept",
    ]);
    let output = world.run(&[
        "verify",
        "logs",
        "--trust",
        "bundle.pem",
        "--expect-until",
        "yesterday",
    ]);
    assert_eq!(
        output.status.code(),
        Some(2),
        "a time that is none: {output:?}"
    );
}

#[test]
fn a_log_that_nobody_has_signed_shows_nothing() {
    let world = World::new();
    let arguments = ["verify", "logs", "--trust", "bundle.pem"];
    // Records of anybody's making, with the checksums of a journal: no key is needed for that.
    fs::remove_file(world.log().join("checkpoint")).unwrap();
    fs::remove_dir_all(world.log().join("tile")).unwrap();
    fs::remove_file(world.log().join("journal")).unwrap();
    let boot = Boot::new([9; 16]);
    drop(begin(&world.log(), boot));
    let output = world.run(&arguments);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing shows who wrote this"), "{said}");
}

#[test]
fn a_place_without_a_log_is_an_error() {
    let world = World::new();
    fs::create_dir(world.directory.path().join("empty")).unwrap();
    let output = world.run(&["verify", "empty", "--trust", "bundle.pem"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no log in it"), "{said}");
}

#[test]
fn records_are_shown_a_line_each_or_as_they_are() {
    let world = World::new();
    let said = world.says(&["evidence", "show", "logs/web-0"]);
    let kinds: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let expected = [
        "start",
        "certificate",
        "custody",
        "window",
        "window",
        "window",
        "stop",
    ];
    assert_eq!(kinds, expected, "{said}");
    let said = world.says(&[
        "evidence",
        "show",
        "logs/web-0",
        "--kind",
        "window",
        "--json",
    ]);
    assert_eq!(said.lines().count(), 3);
    assert!(said.starts_with(r#"{"boot":"#), "{said}");
    let said = world.says(&["evidence", "tail", "logs/web-0", "-n", "2"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    let said = world.says(&["evidence", "show", "logs/web-0", "--checkpoints"]);
    assert_eq!(
        said.matches("— m.example/ns/shop/pod/web-0/6f1a ").count(),
        4,
        "{said}"
    );
}

#[test]
fn what_records_say_is_shown_and_does_nothing_to_the_terminal() {
    let world = World::new();
    let said = world.says(&["evidence", "show", "logs/web-0", "--kind", "stop"]);
    assert!(
        !said.contains('\u{1b}') && !said.contains('\u{202e}'),
        "{said:?}"
    );
    assert!(said.contains(r"asked to\u{1b}[2J\u{202e}"), "{said:?}");
    // Machines get the record as it is.
    let said = world.says(&["evidence", "show", "logs/web-0", "--kind", "stop", "--json"]);
    assert!(said.contains(r"asked to\u001b[2J"), "{said:?}");
}

#[test]
fn the_schema_knows_every_kind_of_record() {
    let said = World::new().says(&["evidence", "schema"]);
    for kind in [
        "start",
        "stop",
        "policy",
        "window",
        "refusal",
        "custody",
        "certificate",
        "gap",
        "retention",
    ] {
        assert!(said.contains(&format!("\"{kind}\"")), "{kind}");
    }
}

/// A CA in `bundle.pem`, and a workload's key and certificate.
fn issue(directory: &Path) -> Credentials {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(directory.join("bundle.pem"), issuer.pem()).unwrap();

    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let name = "spiffe://m.example/ns/shop/sa/web".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(name)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&pair, &issuer).unwrap();

    let path = directory.join("key.pem");
    fs::write(&path, pair.serialize_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let key = sealwire_keys::open(&KeyConfig::Memory(MemoryConfig {
        path,
        development: true,
    }));
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    Credentials::new(key.unwrap(), chain).unwrap()
}

/// A log with nothing but a start in it.
fn begin(directory: &Path, boot: Boot) -> LogWriter {
    let config = LogConfig {
        directory: directory.to_owned(),
        origin: "m.example/ns/shop/pod/web-0/6f1a".to_owned(),
        pod: Pod::default(),
        boot,
        clock: Arc::new(SystemClock),
        retention: RetentionLimits::default(),
        pending: 1 << 20,
        durable: true,
    };
    let start = Start {
        version: "0.1.0".to_owned(),
        build_sha256: None,
        capture_sha256: None,
        policy: Policy {
            config_sha256: "00".repeat(32),
            profile: "default".to_owned(),
            exceptions: Vec::new(),
            exceptions_more: 0,
        },
        key: None,
        window_seconds: 60,
        previous: None,
    };
    LogWriter::open(config, start).unwrap()
}

fn write(directory: &Path, credentials: &Credentials) {
    let boot = Boot::new([7; 16]);
    let mut log = begin(directory, boot);
    let now = Timestamp::new(time::OffsetDateTime::now_utc());
    let key = credentials.key().as_ref();
    log.identity(Some(credentials.facts().spiffe_id.to_string()));
    let certificate = Certificate::of(credentials, CertificateEvent::Issued);
    log.append(Event::Certificate(Box::new(certificate)))
        .unwrap();
    let custody = Custody::ask(key, CustodyOccasion::Start, boot, now).unwrap();
    log.append(Event::Custody(Box::new(custody))).unwrap();
    for _ in 0..3 {
        let window = Window {
            from: now,
            to: now,
            part: 1,
            parts: 1,
            links: Vec::new(),
            exceptions: Vec::new(),
            refusals: Vec::new(),
            census: None,
            aggregated: None,
        };
        log.append(Event::Window(Box::new(window))).unwrap();
        log.checkpoint(key).unwrap();
    }
    let stop = Stop {
        cause: StopCause::Drained,
        detail: format!("asked to{CLEARS}"),
        open: 0,
    };
    log.append(Event::Stop(stop)).unwrap();
    log.checkpoint(key).unwrap();
}
