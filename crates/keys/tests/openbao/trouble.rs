//! What goes wrong with a server: the state is named, and what can recover does so by itself.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

use sealwire_keys::{KeyHealth, SignError, sign_by};

use super::*;

fn until_ready(key: &dyn PrivateKey) {
    assert_eventually("the key signs again by itself", SOON, || {
        matches!(key.health(), KeyHealth::Ready).then_some(())
    });
    assert!(signs(key));
}

#[test]
fn a_sealed_server_degrades_the_key_and_once_unsealed_it_signs_again() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    ground.bao.seal().unwrap();
    let error = key.sign(key.schemes()[0], b"message").unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
    let KeyHealth::Degraded(problem) = key.health() else {
        panic!("{:?}", key.health())
    };
    assert!(problem.to_string().contains("sealed"), "{problem}");
    ground.bao.unseal().unwrap();
    until_ready(key.as_ref());
    assert!(key.figures().recoveries >= 1);
}

#[test]
fn a_server_that_is_away_is_noticed_though_nobody_asks_and_is_met_again_after_its_restart() {
    let mut ground = Ground::new(Storage::Raft, "ecdsa-p256");
    let key = ground.key();
    ground.bao.stop();
    assert_eventually("it is noticed", SOON, || {
        matches!(key.health(), KeyHealth::Degraded(SignError::Unusable(_))).then_some(())
    });
    ground.bao.restart().unwrap();
    ground.bao.unseal().unwrap();
    until_ready(key.as_ref());
}

#[test]
fn a_signature_waits_in_bounds_for_a_server_that_comes_back() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    ground.bao.seal().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| signs(key.as_ref()));
        ground.bao.unseal().unwrap();
        assert!(waiting.join().unwrap(), "it was asked for again in time");
    });
}

#[test]
fn a_revoked_token_is_replaced_within_the_same_signature() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let vault = ground.vault();
    let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
    ground
        .bao
        .write("sys/leases/revoke-prefix/auth/approle", &json!({}))
        .unwrap();
    assert!(signs(key.as_ref()));
    assert_eq!(vault.figures().logins, 2);
    assert!(matches!(key.health(), KeyHealth::Ready));
}

#[test]
fn a_reduced_policy_takes_the_key_down_until_it_is_restored() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    let policy = |text: &str| {
        let policy = json!({ "policy": text });
        ground.bao.write("sys/policies/acl/web", &policy).unwrap();
    };
    policy("path \"transit/keys/web\" { capabilities = [\"read\"] }");
    let error = key.sign(key.schemes()[0], b"message").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("does not allow this workload to sign"),
        "{error}"
    );
    assert!(matches!(key.health(), KeyHealth::Down(_)));
    policy(POLICY);
    until_ready(key.as_ref());
}

#[test]
fn a_deleted_role_keeps_what_is_logged_in_and_is_named_once_its_token_has_ended() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    ground.bao.delete("auth/approle/role/web").unwrap();
    assert!(signs(key.as_ref()), "the token lives on");
    ground
        .bao
        .write("sys/leases/revoke-prefix/auth/approle", &json!({}))
        .unwrap();
    assert!(!signs(key.as_ref()));
    assert_eventually("it is named", SOON, || {
        let _ = key.sign(key.schemes()[0], b"message");
        let health = key.health();
        let problem = health.problem()?.to_string();
        problem
            .contains("refuses the login by AppRole")
            .then_some(())
    });
}

#[test]
fn a_deleted_key_is_gone_and_a_version_below_the_minimum_is_refused() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    let config = |value: &serde_json::Value| {
        ground.bao.write("transit/keys/web/config", value).unwrap();
    };
    ground
        .bao
        .write("transit/keys/web/rotate", &json!({}))
        .unwrap();
    config(&json!({ "min_encryption_version": 2 }));
    let error = key.sign(key.schemes()[0], b"message").unwrap_err();
    assert!(
        error.to_string().contains("min_encryption_version"),
        "{error}"
    );
    assert!(matches!(key.health(), KeyHealth::Down(_)));
    config(&json!({ "min_encryption_version": 0, "deletion_allowed": true }));
    until_ready(key.as_ref());
    ground.bao.delete("transit/keys/web").unwrap();
    assert!(!signs(key.as_ref()));
    assert_eventually("it is gone", SOON, || {
        matches!(key.health(), KeyHealth::Down(SignError::KeyGone)).then_some(())
    });
}

#[test]
fn more_signatures_than_may_wait_are_refused_as_overload() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let config = TransitConfig {
        requests: NonZeroUsize::MIN,
        batch: NonZeroUsize::MIN,
        queue: 1,
        wait: Duration::from_secs(2),
        ..ground.transit()
    };
    let key = open(&KeyConfig::Transit(config)).unwrap();
    ground.bao.seal().unwrap();
    let refused = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| key.sign(key.schemes()[0], b"message").unwrap_err()))
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap())
            .filter(|error| matches!(error, SignError::Overloaded { limit: 1 }))
            .count()
    });
    assert!(refused > 0);
}

/// Something before the server that answers in its place.
pub(super) struct Faulty {
    process: std::process::Child,
    said: BufReader<ChildStdout>,
    pub(super) address: String,
    mode: PathBuf,
}

impl Faulty {
    pub(super) fn before(ground: &Ground) -> Self {
        let mode = ground.path("mode");
        fs::write(&mode, "ok").unwrap();
        let mut process = Command::new("/usr/bin/python3")
            .args(["-c", include_str!("faulty.py")])
            .arg(ground.bao.address().trim_start_matches("https://"))
            .args([ground.bao.ca(), ground.path("server.key"), mode.clone()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut port).unwrap();
        Self {
            process,
            said,
            address: format!("https://127.0.0.1:{}", port.trim()),
            mode,
        }
    }

    /// Waits until it holds the request that it was told to.
    pub(super) fn wait_until_it_holds(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert!(line.starts_with("held"), "{line}");
    }

    pub(super) fn answers(&self, mode: &str) {
        // In one step: it is read at any moment.
        let fresh = self.mode.with_extension("fresh");
        fs::write(&fresh, mode).unwrap();
        fs::rename(fresh, &self.mode).unwrap();
    }

    fn key(&self, ground: &Ground) -> Arc<dyn PrivateKey> {
        let config = VaultConfig {
            address: self.address.clone(),
            ..ground.config(ground.app_role())
        };
        open(&KeyConfig::Transit(transit(Vault::start(config).unwrap()))).unwrap()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn answers_that_pass_are_asked_for_again_within_the_same_signature() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let faulty = Faulty::before(&ground);
    let key = faulty.key(&ground);
    for status in ["500", "503", "429", "412", "473", "502"] {
        faulty.answers(&format!("{status} 3"));
        assert!(signs(key.as_ref()), "{status}");
        assert_eq!(fs::read_to_string(&faulty.mode).unwrap(), "ok");
        assert!(matches!(key.health(), KeyHealth::Ready), "{status}");
    }
    faulty.answers("slow");
    assert!(signs(key.as_ref()), "two seconds are within the five");
}

#[test]
fn a_server_that_keeps_failing_degrades_the_key_within_the_deadline_until_it_is_well() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let faulty = Faulty::before(&ground);
    let key = faulty.key(&ground);
    for (status, said) in [("500", "failing"), ("429", "busy")] {
        faulty.answers(status);
        let error = key.sign(key.schemes()[0], b"message").unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(matches!(key.health(), KeyHealth::Degraded(_)));
        faulty.answers("ok");
        until_ready(key.as_ref());
    }
}

#[test]
fn nobody_waits_for_a_signature_beyond_the_deadline_of_what_it_is_for() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let config = TransitConfig {
        wait: Duration::from_secs(60),
        ..ground.transit()
    };
    let key = open(&KeyConfig::Transit(config)).unwrap();
    ground.bao.seal().unwrap();
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(300);
    let refused = sign_by(deadline, || key.sign(key.schemes()[0], b"message"));
    assert!(refused.is_err());
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(30), "{waited:?} of a minute");
}

#[test]
fn a_key_that_can_be_taken_out_since_then_is_used_no_more() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    let backup = json!({ "allow_plaintext_backup": true });
    ground
        .bao
        .write("transit/keys/web/config", &backup)
        .unwrap();
    assert_eventually("it is seen", SOON, || match key.health() {
        KeyHealth::Down(problem) => {
            let problem = problem.to_string();
            problem.contains("allow_plaintext_backup").then_some(())
        }
        _ => None,
    });
    let refused = key.sign(key.schemes()[0], b"message").unwrap_err();
    assert!(refused.to_string().contains("taken out"), "{refused}");
}

/// Lets the workload make versions of its key.
fn let_rotate(ground: &Ground) {
    let rotate = "path \"transit/keys/web/rotate\" { capabilities = [\"update\"] }";
    let policy = json!({ "policy": format!("{POLICY}{rotate}") });
    ground.bao.write("sys/policies/acl/web", &policy).unwrap();
}

fn newest(ground: &Ground) -> u64 {
    let key = ground.bao.read("transit/keys/web").unwrap();
    key["data"]["latest_version"].as_u64().unwrap()
}

#[test]
fn a_rotation_whose_answer_is_lost_makes_one_version() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let_rotate(&ground);
    let mut faulty = Faulty::before(&ground);
    let key = faulty.key(&ground);
    faulty.answers("hold after keys/web/rotate 1 x");
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| key.rotate());
        faulty.wait_until_it_holds();
        faulty.answers("ok");
        rotating.join().unwrap().unwrap();
    });
    assert_eq!(newest(&ground), 2);
    assert!(key.has_successor());
}

#[test]
fn whoever_asks_for_a_rotation_at_once_gets_one_version() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let_rotate(&ground);
    let key = ground.key();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| key.rotate().unwrap());
        }
    });
    assert_eq!(newest(&ground), 2);
}

#[test]
fn a_disk_that_does_not_answer_holds_no_signature_up() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let ca = ground.path("ca.pem");
    fs::copy(ground.bao.ca(), &ca).unwrap();
    let config = VaultConfig {
        ca: ca.clone(),
        timeout: Duration::from_secs(1),
        ..ground.config(ground.app_role())
    };
    let vault = Vault::start(config).unwrap();
    let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
    // Whoever opens a pipe waits for somebody who writes.
    fs::remove_file(&ca).unwrap();
    let made = Command::new("mkfifo").arg(&ca).status().unwrap();
    assert!(made.success());
    // When something is wrong with the server, its CA is read again.
    ground.bao.seal().unwrap();
    assert_eventually("it is seen", SOON, || {
        let problem = vault.figures().problem?;
        problem.contains("sealed").then_some(())
    });
    ground.bao.unseal().unwrap();
    assert_eventually("and that it is over", SOON, || {
        vault.figures().problem.is_none().then_some(())
    });
    until_ready(key.as_ref());
    // So that the thread that waits can end.
    fs::write(&ca, "").unwrap();
}

#[test]
fn another_key_by_the_same_name_is_not_taken_for_it() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    // Another key by the same name: its version 1 is not ours.
    let allow = json!({ "deletion_allowed": true });
    ground.bao.write("transit/keys/web/config", &allow).unwrap();
    ground.bao.delete("transit/keys/web").unwrap();
    ground
        .bao
        .write("transit/keys/web", &json!({ "type": "ecdsa-p256" }))
        .unwrap();
    let refused = key.sign(key.schemes()[0], b"message").unwrap_err();
    assert!(
        matches!(refused, SignError::KeyChanged | SignError::KeyGone),
        "{refused}"
    );
    assert_eventually("it is seen that it is another key", SOON, || {
        matches!(key.health(), KeyHealth::Down(SignError::KeyChanged)).then_some(())
    });
}
