//! Old versions are trimmed when nothing needs them, and not before.

use super::*;

const TRIM: &str = include_str!("../../../../deploy/vault/trim.hcl");

impl Ground {
    fn lets_trim(&self) {
        let trim = TRIM.replace("TRANSIT", "transit").replace("NAME", "web");
        let policy = json!({ "policy": format!("{POLICY}{trim}") });
        self.bao.write("sys/policies/acl/web", &policy).unwrap();
    }

    fn rotate(&self) {
        let path = "transit/keys/web/rotate";
        self.bao.write(path, &json!({})).unwrap();
    }

    /// The oldest versions that may sign and verify.
    fn oldest(&self) -> [u64; 2] {
        let key = self.bao.read("transit/keys/web").unwrap();
        ["min_encryption_version", "min_decryption_version"]
            .map(|name| key["data"][name].as_u64().unwrap())
    }
}

fn trimming(vault: &Arc<Vault>, after: Duration) -> KeyConfig {
    KeyConfig::Transit(TransitConfig {
        trim_after: Some(after),
        ..transit(vault.clone())
    })
}

#[test]
fn old_versions_are_trimmed_once_nothing_in_the_process_holds_one() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground.lets_trim();
    let vault = ground.vault();
    let config = trimming(&vault, Duration::from_millis(1));
    let first = open(&config).unwrap();
    ground.rotate();
    assert_eventually("a successor is seen", SOON, || {
        first.has_successor().then_some(())
    });
    let second = open(&config).unwrap();
    second.certified(Duration::from_secs(1));
    // Two looks by each of them, which is when they would trim.
    let requests = Duration::from_secs(1);
    wait(requests);
    assert_eq!(ground.oldest(), [0, 1], "the first version is in use");
    assert!(signs(first.as_ref()));
    drop(first);
    assert_eventually("it is trimmed", SOON, || {
        (ground.oldest() == [2, 2]).then_some(())
    });
    assert!(signs(second.as_ref()));
}

#[test]
fn old_versions_are_kept_for_replicas_until_their_time_is_over() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground.lets_trim();
    ground.rotate();
    let vault = ground.vault();
    let key = open(&trimming(&vault, Duration::from_secs(3600))).unwrap();
    key.certified(Duration::from_secs(1));
    wait(Duration::from_secs(1));
    assert_eq!(ground.oldest(), [0, 1]);
    drop(key);
    let again = open(&trimming(&vault, Duration::from_millis(1))).unwrap();
    wait(Duration::from_secs(1));
    assert_eq!(ground.oldest(), [0, 1], "it has no certificate yet");
    again.certified(Duration::from_secs(1));
    assert_eventually("it is trimmed after a restart", SOON, || {
        (ground.oldest() == [2, 2]).then_some(())
    });
}

#[test]
fn old_versions_are_kept_as_long_as_a_certificate_lives_whatever_is_configured() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground.lets_trim();
    ground.rotate();
    let key = open(&trimming(&ground.vault(), Duration::from_millis(1))).unwrap();
    key.certified(Duration::from_secs(3600));
    // A shorter one does not count.
    key.certified(Duration::from_secs(1));
    wait(Duration::from_secs(2));
    assert_eq!(ground.oldest(), [0, 1]);
}

#[test]
fn a_server_that_does_not_let_it_takes_nothing_down_and_it_is_done_once_that_is_mended() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground.rotate();
    let key = open(&trimming(&ground.vault(), Duration::from_millis(1))).unwrap();
    key.certified(Duration::from_secs(1));
    wait(Duration::from_secs(1));
    assert!(matches!(key.health(), sealwire_keys::KeyHealth::Ready));
    assert!(signs(key.as_ref()));
    assert_eq!(ground.oldest(), [0, 1]);
    ground.lets_trim();
    assert_eventually("it is trimmed", SOON, || {
        (ground.oldest() == [2, 2]).then_some(())
    });
}

#[test]
fn the_policy_for_trimming_lets_nothing_else_be_changed() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground.lets_trim();
    let login = |file: &str| fs::read_to_string(ground.path(file)).unwrap();
    let ids = json!({ "role_id": login("role-id"), "secret_id": login("secret-id") });
    let (_, said) = ground
        .bao
        .ask("POST", "auth/approle/login", &ids, "")
        .unwrap();
    let token = said["auth"]["client_token"].as_str().unwrap();
    let write = |body: &serde_json::Value| {
        let path = "transit/keys/web/config";
        ground.bao.ask("POST", path, body, token).unwrap().0
    };
    for forbidden in [
        json!({ "exportable": true }),
        json!({ "allow_plaintext_backup": true }),
        json!({ "deletion_allowed": true }),
        json!({ "auto_rotate_period": "1h" }),
        json!({ "min_encryption_version": 1, "deletion_allowed": true }),
    ] {
        assert_eq!(write(&forbidden), 403, "{forbidden}");
    }
    assert_eq!(write(&json!({ "min_encryption_version": 1 })), 200);
}

/// That something does not happen shows only in time.
#[allow(
    clippy::disallowed_methods,
    reason = "there is no condition to wait for where nothing may happen"
)]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
