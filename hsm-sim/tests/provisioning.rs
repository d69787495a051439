//! The program, run as a user runs it, with SoftHSM behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A directory in which `hsm-sim` works.
struct Hsm(TempDir);

impl Hsm {
    fn new() -> Self {
        let hsm = Self(tempfile::tempdir().unwrap());
        hsm.json(&["init", "--trust-domain", "mesh.example"]);
        hsm
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("hsm")
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
            .arg("--dir")
            .arg(self.directory())
            .args(arguments)
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn every_kind_of_key_cannot_leave_and_its_certificate_chains_to_the_ca() {
    let hsm = Hsm::new();
    let ca = hsm.directory().join("ca.pem").display().to_string();
    for algorithm in ["p256", "p384", "rsa2048", "rsa3072", "ed25519"] {
        hsm.json(&[
            "key",
            "--token",
            algorithm,
            "--label",
            "web",
            "--algorithm",
            algorithm,
        ]);
        let out = hsm.file("web.pem");
        let id = "spiffe://mesh.example/ns/shop/sa/web";
        let key = ["issue", "--token", algorithm, "--label", "web"];
        let names = [
            "--spiffe-id",
            id,
            "--ip",
            "198.18.0.10",
            "--ip",
            "fd00::10",
            "--out",
            &out,
        ];
        let issued = hsm.json(&[&key[..], &names].concat());
        assert_eq!(issued["spiffe_id"], id);
        assert!(openssl(&["verify", "-x509_strict", "-CAfile", &ca, &out]).contains("OK"));
        let text = openssl(&["x509", "-noout", "-text", "-in", &out]);
        for part in [
            id,
            "198.18.0.10",
            "FD00",
            "Digital Signature",
            "TLS Web Client Authentication",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
    let tokens = hsm.json(&["show"]);
    let tokens = tokens.as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        let objects = token["objects"].as_array().unwrap();
        let private: Vec<_> = objects
            .iter()
            .filter(|object| object["private"] == true)
            .collect();
        assert_eq!(private.len(), 1);
        for (attribute, value) in [
            ("sensitive", true),
            ("always_sensitive", true),
            ("extractable", false),
            ("never_extractable", true),
            ("local", true),
        ] {
            assert_eq!(private[0][attribute], value, "{attribute} of {token}");
        }
    }
}

#[test]
fn a_request_is_signed_by_the_key_and_only_its_key_is_taken() {
    let hsm = Hsm::new();
    hsm.json(&["key", "--token", "web", "--label", "web"]);
    let asked = "spiffe://mesh.example/asked";
    let request = hsm.run(&[
        "request",
        "--token",
        "web",
        "--label",
        "web",
        "--spiffe-id",
        asked,
        "--ip",
        "198.18.0.1",
    ]);
    let file = hsm.file("request.pem");
    fs::write(&file, &request.stdout).unwrap();
    assert!(openssl(&["req", "-noout", "-text", "-verify", "-in", &file]).contains(asked));
    let out = hsm.file("web.pem");
    let given = "spiffe://mesh.example/given";
    hsm.json(&["issue", "--csr", &file, "--spiffe-id", given, "--out", &out]);
    let text = openssl(&["x509", "-noout", "-text", "-in", &out]);
    assert!(
        text.contains(given) && !text.contains(asked) && !text.contains("198.18.0.1"),
        "{text}"
    );
}

#[test]
fn secrets_are_for_their_owner_alone_and_in_no_output() {
    let hsm = Hsm::new();
    let output = hsm.run(&["key", "--token", "web", "--label", "web"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(hsm.directory()), 0o700);
    for name in ["web", "web.so", "ca", "ca.so"] {
        let path = hsm.directory().join("pins").join(name);
        let pin = fs::read_to_string(&path).unwrap();
        assert!(pin.len() == 32 && !said.contains(&pin));
        assert_eq!(mode(path), 0o600);
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_the_way_out() {
    let hsm = Hsm::new();
    assert!(hsm.refusal(&["init"]).contains("exists already"));
    hsm.json(&["key", "--token", "web", "--label", "web"]);
    assert!(
        hsm.refusal(&["key", "--token", "web", "--label", "web"])
            .contains("--allow-duplicate")
    );
    assert!(
        hsm.refusal(&["key", "--token", "../up", "--label", "web"])
            .contains("letters, digits")
    );
    let missing = hsm.refusal(&[
        "issue",
        "--token",
        "other",
        "--label",
        "web",
        "--spiffe-id",
        "spiffe://m/a",
    ]);
    assert!(missing.contains("other"), "{missing}");
    let never = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hsm-sim"))
        .arg("--dir")
        .arg(never.path())
        .arg("show")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("hsm-sim init"));
}

#[test]
fn a_list_counts_up_keeps_what_was_revoked_and_is_signed_by_the_ca() {
    let hsm = Hsm::new();
    let out = hsm.file("crl.pem");
    let first = hsm.json(&["crl", "--out", &out]);
    assert_eq!(
        (&first["number"], &first["entries"]),
        (&1.into(), &0.into())
    );
    hsm.json(&["crl", "--out", &out, "--revoke", "4a01"]);
    let twice = ["--revoke", "4a01", "--revoke", "4a02"];
    let third = hsm.json(&[&["crl", "--out", &out][..], &twice].concat());
    assert_eq!(
        (&third["number"], &third["entries"]),
        (&3.into(), &2.into())
    );
    let ca = fs::read(hsm.directory().join("ca.pem")).unwrap();
    let bundle = sealwire_identity::TrustBundle::from_pem(&ca).unwrap();
    let profile = sealwire_identity::Profile::by_name("default").unwrap();
    let lists = sealwire_identity::Crl::read_all(&fs::read(&out).unwrap(), &bundle, profile);
    let facts = lists.unwrap()[0].facts().clone();
    assert_eq!((facts.number.as_deref(), facts.entries), (Some("3"), 2));
    let refusal = hsm.refusal(&["crl", "--out", &out, "--revoke", "xyz"]);
    assert!(refusal.contains("hexadecimal"), "{refusal}");
}
