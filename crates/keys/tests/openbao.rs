//! Keys in a transit mount of a real OpenBao: every kind of key, every way to log in, and what
//! goes wrong with a server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "openbao/external.rs"]
mod external;
#[path = "openbao/logins.rs"]
mod logins;
#[path = "openbao/namespaces.rs"]
mod namespaces;
#[path = "openbao/trimming.rs"]
mod trimming;
#[path = "openbao/trouble.rs"]
mod trouble;

use std::fs::{self, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sealwire_keys::{
    Algorithm, KeyConfig, OpenError, PrivateKey, Scheme, TransitConfig, Vault, VaultAuth,
    VaultConfig, open,
};
use sealwire_pods::{Bao, Storage, assert_eventually};
use serde_json::json;

/// How long something may take that happens at once, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The policy of a workload that signs with `transit/web`.
const POLICY: &str = r#"
path "transit/sign/web/*" { capabilities = ["update"] }
path "transit/keys/web" { capabilities = ["read"] }
"#;

/// A server with a key `transit/web`, and an AppRole `web` that may sign with it.
struct Ground {
    bao: Bao,
}

impl Ground {
    fn new(storage: Storage, kind: &str) -> Self {
        let bao = Bao::start(storage).unwrap();
        bao.write("sys/mounts/transit", &json!({ "type": "transit" }))
            .unwrap();
        bao.write("transit/keys/web", &json!({ "type": kind }))
            .unwrap();
        bao.write("sys/policies/acl/web", &json!({ "policy": POLICY }))
            .unwrap();
        bao.write("sys/auth/approle", &json!({ "type": "approle" }))
            .unwrap();
        let role = json!({ "token_policies": "web", "token_ttl": "1h" });
        bao.write("auth/approle/role/web", &role).unwrap();
        let ground = Self { bao };
        let id = ground.bao.read("auth/approle/role/web/role-id").unwrap();
        ground.secret("role-id", id["data"]["role_id"].as_str().unwrap());
        ground.new_secret_id();
        ground
    }

    fn new_secret_id(&self) {
        let id = self
            .bao
            .write("auth/approle/role/web/secret-id", &json!({}))
            .unwrap();
        self.secret("secret-id", id["data"]["secret_id"].as_str().unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bao.directory().join(name)
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn app_role(&self) -> VaultAuth {
        VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: self.path("role-id"),
            secret_id: self.path("secret-id"),
            wrapped: false,
        }
    }

    fn config(&self, auth: VaultAuth) -> VaultConfig {
        VaultConfig {
            address: self.bao.address(),
            ca: self.bao.ca(),
            client: None,
            namespace: None,
            auth,
            timeout: Duration::from_secs(5),
        }
    }

    fn vault(&self) -> Arc<Vault> {
        Vault::start(self.config(self.app_role())).unwrap()
    }

    fn transit(&self) -> TransitConfig {
        transit(self.vault())
    }

    fn key(&self) -> Arc<dyn PrivateKey> {
        open(&KeyConfig::Transit(self.transit())).unwrap()
    }
}

fn transit(vault: Arc<Vault>) -> TransitConfig {
    TransitConfig {
        vault,
        reference: "vault-transit:transit/web".parse().unwrap(),
        version: None,
        public_keys: None,
        allow_exportable: false,
        batch: NonZeroUsize::new(32).unwrap(),
        requests: NonZeroUsize::new(4).unwrap(),
        queue: 1024,
        wait: Duration::from_secs(5),
        look: Duration::from_millis(200),
        trim_after: None,
    }
}

fn signs(key: &dyn PrivateKey) -> bool {
    let scheme = key.schemes()[0];
    let signature = key.sign(scheme, b"message");
    signature.is_ok_and(|signature| key.public_key().verifies(scheme, b"message", &signature))
}

#[test]
fn every_kind_of_key_signs_with_every_scheme_that_suits_it() {
    let kinds = [
        ("ecdsa-p256", Algorithm::EcdsaP256),
        ("ecdsa-p384", Algorithm::EcdsaP384),
        ("rsa-2048", Algorithm::Rsa { bits: 2048 }),
        ("ed25519", Algorithm::Ed25519),
    ];
    for (kind, algorithm) in kinds {
        let ground = Ground::new(Storage::Memory, kind);
        let key = ground.key();
        assert_eq!(key.public_key().algorithm(), algorithm);
        assert_eq!(key.schemes(), algorithm.schemes(), "{kind}");
        for scheme in key.schemes() {
            let signature = key.sign(*scheme, b"message").unwrap();
            // RSA-PSS verifies only where the salt is as long as the hash.
            assert!(key.public_key().verifies(*scheme, b"message", &signature));
        }
        let custody = key.custody().unwrap();
        let transit = custody.transit.unwrap();
        assert_eq!((transit.kind.as_str(), transit.version), (kind, 1));
        assert_eq!(custody.extractable, Some(false));
    }
}

#[test]
fn signatures_that_wait_together_share_a_request_and_each_gets_its_own() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let config = TransitConfig {
        requests: NonZeroUsize::MIN,
        ..ground.transit()
    };
    let key = open(&KeyConfig::Transit(config)).unwrap();
    std::thread::scope(|scope| {
        for caller in 0..64_u32 {
            let key = &key;
            scope.spawn(move || {
                for number in 0..4_u32 {
                    let message = [caller.to_be_bytes(), number.to_be_bytes()].concat();
                    let scheme = Scheme::EcdsaP256Sha256;
                    let signature = key.sign(scheme, &message).unwrap();
                    assert!(key.public_key().verifies(scheme, &message, &signature));
                }
            });
        }
    });
    assert!(key.signatures() >= 256);
}

#[test]
fn a_key_that_can_be_taken_out_is_refused_unless_that_is_configured() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    ground
        .bao
        .write("transit/keys/web/config", &json!({ "exportable": true }))
        .unwrap();
    let config = ground.transit();
    let refused = open(&KeyConfig::Transit(config.clone())).unwrap_err();
    assert!(matches!(refused, OpenError::Transit { .. }));
    assert!(refused.to_string().contains("allowExportable"), "{refused}");
    let allowed = TransitConfig {
        allow_exportable: true,
        ..config
    };
    let key = open(&KeyConfig::Transit(allowed)).unwrap();
    assert_eq!(key.custody().unwrap().extractable, Some(true));
}

#[test]
fn a_key_stays_its_version_when_the_server_has_a_newer_one_and_says_that_it_has() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let key = ground.key();
    assert!(key.reference().ends_with("?version=1"));
    ground
        .bao
        .write("transit/keys/web/rotate", &json!({}))
        .unwrap();
    assert_eventually("the new version is noticed", SOON, || {
        key.has_successor().then_some(())
    });
    assert!(signs(key.as_ref()), "the old version signs on");
    let next = ground.key();
    assert!(next.reference().ends_with("?version=2"));
    assert_ne!(
        next.public_key().fingerprint(),
        key.public_key().fingerprint()
    );
    let pinned = TransitConfig {
        version: Some(1),
        ..ground.transit()
    };
    let pinned = open(&KeyConfig::Transit(pinned)).unwrap();
    assert_eq!(
        pinned.public_key().fingerprint(),
        key.public_key().fingerprint()
    );
}

#[test]
fn a_missing_key_and_a_missing_version_are_each_named_with_the_way_out() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let config = ground.transit();
    let other = TransitConfig {
        version: Some(9),
        ..config.clone()
    };
    let refused = open(&KeyConfig::Transit(other)).unwrap_err().to_string();
    assert!(refused.contains("no version 9, only 1"), "{refused}");
    // The policy knows no other key, and does not say whether there is one.
    let other = TransitConfig {
        reference: "vault-transit:transit/other".parse().unwrap(),
        ..config
    };
    let refused = open(&KeyConfig::Transit(other)).unwrap_err().to_string();
    assert!(
        refused.contains("transit/other") && refused.contains("policy"),
        "{refused}"
    );
}
