//! Certificates from the PKI mount of a real OpenBao: chains, several issuers, cross-signing, and
//! what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs::{self, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use sealwire_identity::{
    Authority, IssueError, Issuer, Profile, Renewing, RenewingConfig, Role, TrustBundle, VaultPki,
    VaultPkiConfig, Verifier,
};
use sealwire_keys::{KeyConfig, PrivateKey, TransitConfig, Vault, VaultAuth, VaultConfig, open};
use sealwire_pods::{Bao, Storage, assert_eventually};
use serde_json::{Value, json};

const WEB: &str = "spiffe://mesh.example/workload/web";

/// A server with an issuer, a role that signs for `web`, and a key.
struct Ground {
    bao: Bao,
    vault: Arc<Vault>,
    key: Arc<dyn PrivateKey>,
}

impl Ground {
    fn new() -> Self {
        let bao = Bao::start(Storage::Memory).unwrap();
        for kind in ["transit", "pki"] {
            let mount = json!({ "type": kind, "config": { "max_lease_ttl": "87600h" } });
            bao.write(&format!("sys/mounts/{kind}"), &mount).unwrap();
        }
        bao.write("transit/keys/web", &json!({ "type": "ecdsa-p256" }))
            .unwrap();
        let token = bao.directory().join("token");
        fs::write(&token, bao.root_token()).unwrap();
        fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        let vault = Vault::start(VaultConfig {
            address: bao.address(),
            ca: bao.ca(),
            client: None,
            namespace: None,
            auth: VaultAuth::TokenFile { path: token },
            timeout: Duration::from_secs(5),
        })
        .unwrap();
        let key = open(&KeyConfig::Transit(TransitConfig {
            vault: vault.clone(),
            reference: "vault-transit:transit/web".parse().unwrap(),
            version: None,
            public_keys: None,
            allow_exportable: false,
            batch: NonZeroUsize::MIN,
            requests: NonZeroUsize::MIN,
            queue: 8,
            wait: Duration::from_secs(5),
            look: Duration::from_secs(60),
            trim_after: None,
        }))
        .unwrap();
        let ground = Self { bao, vault, key };
        ground.root("one");
        ground.role(&json!({}));
        ground
    }

    /// Makes a root, and gives it in PEM.
    fn root(&self, name: &str) -> String {
        let root = json!({
            "common_name": name, "uri_sans": "spiffe://mesh.example", "key_type": "ec",
            "issuer_name": name, "key_name": name, "ttl": "87600h",
        });
        let made = self.bao.write("pki/root/generate/internal", &root).unwrap();
        made["data"]["certificate"].as_str().unwrap().to_owned()
    }

    fn role(&self, changed: &Value) {
        let mut role = json!({
            "allowed_uri_sans": WEB, "allow_ip_sans": false, "require_cn": false, "key_type": "any",
            "key_usage": "DigitalSignature", "use_csr_common_name": false, "ttl": "1h",
        });
        for (name, value) in changed.as_object().unwrap() {
            role[name] = value.clone();
        }
        self.bao.write("pki/roles/web", &role).unwrap();
    }

    fn default_issuer(&self, name: &str) {
        self.bao
            .write("pki/config/issuers", &json!({ "default": name }))
            .unwrap();
    }

    /// Has the issuer `one` sign a request, and imports what it signed.
    fn signed_by_one(&self, request: &Value, name: &str) -> Value {
        let asked = json!({
            "csr": request["data"]["csr"], "common_name": name, "ttl": "8760h", "format": "pem",
        });
        let signed = self
            .bao
            .write("pki/issuer/one/sign-intermediate", &asked)
            .unwrap();
        let imported = json!({ "certificate": signed["data"]["certificate"] });
        self.bao
            .write("pki/intermediate/set-signed", &imported)
            .unwrap()
    }

    fn pki(&self) -> VaultPki {
        VaultPki::new(VaultPkiConfig {
            vault: self.vault.clone(),
            mount: "pki".to_owned(),
            role: "web".to_owned(),
            id: WEB.parse().unwrap(),
            addresses: Vec::new(),
            ttl: None,
            profile: Profile::by_name("default").unwrap(),
        })
    }
}

/// Whether somebody who trusts these roots alone accepts the chain.
fn accepted_by(chain: &[CertificateDer<'static>], roots: &str) -> bool {
    let bundle = Arc::new(TrustBundle::from_pem(roots.as_bytes()).unwrap());
    let profile = Profile::by_name("default").unwrap();
    let verifier = Verifier::new(bundle, vec!["mesh.example".parse().unwrap()], profile);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(now.unwrap());
    verifier
        .verify(&chain[0], &chain[1..], Role::Client, now)
        .is_ok()
}

#[test]
fn a_certificate_names_the_workload_and_the_bundle_is_every_issuer_of_the_mount() {
    let ground = Ground::new();
    let issued = ground.pki().issue(&ground.key).unwrap();
    assert_eq!(issued.credentials.facts().spiffe_id.as_str(), WEB);
    assert_eq!(issued.credentials.chain().len(), 1);
    assert_eq!(issued.bundle.len(), 1);
    ground.root("two");
    let (bundle, pem) = ground.pki().bundle().unwrap();
    assert_eq!(bundle.len(), 2);
    assert_eq!(ground.pki().bundle().unwrap().1, pem, "the same each time");
    // It issues only from when it is the default.
    let issuer = |ground: &Ground| {
        let issued = ground.pki().issue(&ground.key).unwrap();
        issued.credentials.facts().issuer.clone()
    };
    assert!(issuer(&ground).contains("one"));
    ground.default_issuer("two");
    assert!(issuer(&ground).contains("two"));
}

#[test]
fn an_issuer_below_a_root_comes_with_the_chain_that_leads_there() {
    let ground = Ground::new();
    let root = ground.bao.read("pki/issuer/one/json").unwrap();
    let root = root["data"]["certificate"].as_str().unwrap();
    let asked = json!({ "common_name": "below", "key_type": "ec", "key_name": "below" });
    let asked = ground
        .bao
        .write("pki/intermediate/generate/internal", &asked)
        .unwrap();
    let imported = ground.signed_by_one(&asked, "below");
    let id = imported["data"]["imported_issuers"][0].as_str().unwrap();
    ground.default_issuer(id);
    let issued = ground.pki().issue(&ground.key).unwrap();
    let chain = issued.credentials.chain();
    assert_eq!(chain.len(), 2, "the leaf and who issued it");
    assert!(accepted_by(chain, root));
}

#[test]
fn a_cross_signed_issuer_is_accepted_by_whoever_trusts_the_old_root_alone() {
    let ground = Ground::new();
    let old = ground.bao.read("pki/issuer/one/json").unwrap();
    let old = old["data"]["certificate"].as_str().unwrap();
    let new = ground.root("two");
    let cross = json!({ "common_name": "two", "key_ref": "two" });
    let cross = ground
        .bao
        .write("pki/intermediate/cross-sign", &cross)
        .unwrap();
    ground.signed_by_one(&cross, "two");
    ground.default_issuer("two");
    let issued = ground.pki().issue(&ground.key).unwrap();
    let chain = issued.credentials.chain();
    assert!(accepted_by(chain, &new));
    assert!(accepted_by(chain, old), "by the cross-signed certificate");
}

#[test]
fn a_role_that_refuses_and_one_whose_life_is_too_short_are_named() {
    let ground = Ground::new();
    ground.role(&json!({ "allowed_uri_sans": "spiffe://mesh.example/workload/api" }));
    let refused = ground.pki().issue(&ground.key).unwrap_err();
    assert!(matches!(refused, IssueError::Vault(_)), "{refused}");
    assert!(refused.to_string().contains("URI"), "{refused}");

    ground.role(&json!({ "ttl": "30s" }));
    let config = RenewingConfig {
        least: Duration::from_secs(60),
        bundle_every: Duration::from_secs(60),
    };
    let renewing = Renewing::start(Box::new(ground.pki()), config).unwrap();
    assert_eventually("it is refused", Duration::from_secs(20), || {
        let said = renewing.obtain(&ground.key).unwrap_err().to_string();
        said.contains("too short to renew in peace").then_some(())
    });
}

#[test]
fn a_certificate_that_no_peer_would_accept_is_not_put_to_use() {
    let ground = Ground::new();
    // Without the client's usage no peer lets it dial.
    ground.role(&json!({ "client_flag": false }));
    let refused = ground.pki().issue(&ground.key).unwrap_err();
    assert!(matches!(refused, IssueError::Untrusted { .. }), "{refused}");
}
