//! Programs that are not ours read what we write.

use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;

/// The manual, whose command lines are run here as they stand there.
const MANUAL: &str = include_str!("../../../../../docs/evidence.md");

/// The commands that the manual has under this heading, with what comes before them all.
fn commands(heading: &str) -> String {
    let block = |heading: &str| {
        let (_, after) = MANUAL.split_once(heading).unwrap();
        let (_, after) = after.split_once("```sh\n").unwrap();
        after.split_once("```").unwrap().0.to_owned()
    };
    format!(
        "set -eu\n{}{}",
        block("### A checkpoint's signature by hand"),
        block(heading)
    )
}

fn run(directory: &Path, commands: &str) -> Output {
    Command::new("bash")
        .args(["-c", commands])
        .current_dir(directory)
        .output()
        .unwrap()
}

#[test]
fn openssl_verifies_a_checkpoint_as_the_manual_says() {
    for (kind, heading) in [
        (Kind::P256, "#### P-256"),
        (Kind::P384, "#### P-384"),
        (Kind::Ed25519, "#### Ed25519"),
        (Kind::Rsa, "#### RSA"),
    ] {
        let world = World::new();
        let credentials = world.authority.issue(kind, YEAR);
        let leaf = credentials.chain()[0].to_vec();
        let config = config(world.path(), &world.clock, 1);
        Run::begin(config, &world.clock, credentials).stop();
        let at = world.path();
        fs::write(at.join("certificate.txt"), BASE64.encode(leaf)).unwrap();
        let commands = commands(heading);
        let output = run(at, &commands);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.to_lowercase().contains("verified"),
            "{kind:?}: {output:?}"
        );
        // Another size of the tree is not what was signed.
        let checkpoint = fs::read_to_string(at.join(CHECKPOINT)).unwrap();
        fs::write(
            at.join(CHECKPOINT),
            checkpoint.replacen("\n4\n", "\n5\n", 1),
        )
        .unwrap();
        assert!(!run(at, &commands).status.success(), "{kind:?}");
    }
}

#[test]
#[ignore = "wants Go and its modules: scripts/evidence runs it"]
fn an_independent_reader_of_tlog_tiles_accepts_a_log() {
    let world = World::new();
    let credentials = world.authority.issue(Kind::P256, YEAR);
    let key = BASE64.encode(credentials.key().public_key().spki_der());
    let mut run = Run::begin(
        config(world.path(), &world.clock, 1),
        &world.clock,
        credentials,
    );
    for _ in 0..100 {
        (0..10).for_each(|_| run.window());
        run.sign();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let earlier = elsewhere.path().join("earlier");
    fs::copy(world.path().join(CHECKPOINT), &earlier).unwrap();
    run.windows(300);
    run.stop();
    let pem = elsewhere.path().join("key.pem");
    let text = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n");
    fs::write(&pem, text).unwrap();
    let check = || {
        Command::new("go")
            .args(["run", "-mod=readonly", "."])
            .args([world.path(), &pem, &earlier])
            .current_dir(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../tests/evidence/tlog"
            ))
            .output()
            .unwrap()
    };
    let output = check();
    assert!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
    let bundle = world.path().join("tile/entries/001");
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[100] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    assert!(!check().status.success(), "it sees nothing");
}
