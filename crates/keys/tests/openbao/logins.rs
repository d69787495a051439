//! Every way to log in, renewal, and logging in again.

use std::process::Command;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sealwire_keys::KeyHealth;

use super::trouble::Faulty;
use super::*;

/// A JWT by a key of the test's own, and the public half in PEM.
fn jwt(subject: &str) -> (String, String) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "issuer", "sub": subject, "aud": "sealwire", "exp": 4_000_000_000_u64, "iat": 1_700_000_000,
    });
    let signed = format!(
        "{}.{}",
        part(json!({ "alg": "EdDSA", "typ": "JWT" })),
        part(claims)
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()).as_ref());
    // SubjectPublicKeyInfo of Ed25519 (RFC 8410).
    let spki = [
        &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..],
        pair.public_key().as_ref(),
    ]
    .concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(spki)
    );
    (format!("{signed}.{signature}"), pem)
}

fn opens(config: VaultConfig) -> Arc<dyn PrivateKey> {
    open(&KeyConfig::Transit(transit(Vault::start(config).unwrap()))).unwrap()
}

fn refuses(config: VaultConfig) -> String {
    let config = TransitConfig {
        wait: Duration::from_secs(3),
        ..transit(Vault::start(config).unwrap())
    };
    open(&KeyConfig::Transit(config)).unwrap_err().to_string()
}

#[test]
fn a_token_file_is_read_and_read_again_when_it_changes() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let token = || {
        let made = json!({ "policies": ["web"], "ttl": "1h" });
        let made = ground.bao.write("auth/token/create", &made).unwrap();
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let first = token();
    let path = ground.secret("token", &format!("{first}\n"));
    let vault = Vault::start(ground.config(VaultAuth::TokenFile { path: path.clone() })).unwrap();
    let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
    assert!(signs(key.as_ref()));
    ground.secret("token", &token());
    assert_eventually("the new token is in use", SOON, || {
        (vault.figures().logins == 2).then_some(())
    });
    ground
        .bao
        .write("auth/token/revoke", &json!({ "token": first }))
        .unwrap();
    assert!(signs(key.as_ref()));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let said = refuses(ground.config(VaultAuth::TokenFile { path }));
    assert!(said.contains("mode 0644"), "{said}");
    assert!(!said.contains(&first));
}

#[test]
fn app_role_logs_in_by_files_and_a_wrong_secret_id_is_refused_without_repeating_it() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    assert!(signs(ground.key().as_ref()));
    ground.secret("secret-id", "not-the-one");
    let said = refuses(ground.config(ground.app_role()));
    assert!(said.contains("refuses the login by AppRole"), "{said}");
    assert!(!said.contains("not-the-one"), "{said}");
}

#[test]
fn a_wrapped_secret_id_is_opened_once_and_serves_for_logging_in_again() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let wrap = |path: &str| {
        let output = Command::new("curl")
            .args(["-s", "--cacert"])
            .arg(ground.bao.ca())
            .args(["-H", "X-Vault-Wrap-TTL: 60", "-X", "POST", "-H"])
            .arg(format!("X-Vault-Token: {}", ground.bao.root_token()))
            .arg(format!("{}/v1/{path}", ground.bao.address()))
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        said["wrap_info"]["token"].as_str().unwrap().to_owned()
    };
    ground.secret("wrapped", &wrap("auth/approle/role/web/secret-id"));
    let auth = || VaultAuth::AppRole {
        mount: "approle".to_owned(),
        role_id: ground.path("role-id"),
        secret_id: ground.path("wrapped"),
        wrapped: true,
    };
    let vault = Vault::start(ground.config(auth())).unwrap();
    let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
    ground
        .bao
        .write("sys/leases/revoke-prefix/auth/approle", &json!({}))
        .unwrap();
    assert!(signs(key.as_ref()), "logged in again by the same secret id");
    assert_eq!(vault.figures().logins, 2);
    // For anybody else the wrapping is empty now, which is worth an alarm.
    let said = refuses(ground.config(auth()));
    assert!(said.contains("somebody else did"), "{said}");
    ground.secret("wrapped", &wrap("auth/token/create"));
    let said = refuses(ground.config(auth()));
    assert!(said.contains("no secret id"), "{said}");
}

#[test]
fn a_wrapping_is_opened_only_after_it_was_seen_to_hold_a_secret_id() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    // Somebody has put a good secret id into a wrapping of their own, and the question what it is
    // gets no answer.
    let id = fs::read_to_string(ground.path("secret-id")).unwrap();
    let (_, said) = ground
        .bao
        .ask_with(
            "POST",
            "sys/wrapping/wrap",
            &json!({ "secret_id": id }),
            ground.bao.root_token(),
            "header = \"X-Vault-Wrap-TTL: 60\"",
        )
        .unwrap();
    ground.secret("wrapped", said["wrap_info"]["token"].as_str().unwrap());
    let mut faulty = Faulty::before(&ground);
    faulty.answers("hold before sys/wrapping/lookup 1 x");
    let vault = Vault::start(VaultConfig {
        address: faulty.address.clone(),
        ..ground.config(VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: ground.path("role-id"),
            secret_id: ground.path("wrapped"),
            wrapped: true,
        })
    })
    .unwrap();
    faulty.wait_until_it_holds();
    faulty.answers("ok");
    assert_eventually("it is refused", SOON, || {
        let figures = vault.figures();
        assert!(!figures.logged_in);
        figures.problem?.contains("no secret id").then_some(())
    });
}

#[test]
fn a_jwt_logs_in_to_its_role_and_not_to_anothers() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let (token, public) = jwt("web");
    let path = ground.secret("jwt", &token);
    ground
        .bao
        .write("sys/auth/jwt", &json!({ "type": "jwt" }))
        .unwrap();
    let config = json!({ "jwt_validation_pubkeys": [public], "bound_issuer": "issuer" });
    ground.bao.write("auth/jwt/config", &config).unwrap();
    for subject in ["web", "other"] {
        let role = json!({
            "role_type": "jwt", "bound_audiences": ["sealwire"], "user_claim": "sub", "bound_subject": subject,
            "token_policies": "web",
        });
        ground
            .bao
            .write(&format!("auth/jwt/role/{subject}"), &role)
            .unwrap();
    }
    let auth = |role: &str| VaultAuth::Jwt {
        mount: "jwt".to_owned(),
        role: role.to_owned(),
        token: path.clone(),
    };
    assert!(signs(opens(ground.config(auth("web"))).as_ref()));
    let said = refuses(ground.config(auth("other")));
    assert!(said.contains("refuses the login by JWT"), "{said}");
    assert!(!said.contains(&token), "{said}");
}

#[test]
fn a_client_certificate_logs_in() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let (certificate, key) = (ground.path("client.pem"), ground.path("client.key"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2", "-subj", "/CN=web",
        ])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-addext"])
        .args(["extendedKeyUsage=clientAuth", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    ground
        .bao
        .write("sys/auth/cert", &json!({ "type": "cert" }))
        .unwrap();
    let role = json!({
        "certificate": fs::read_to_string(&certificate).unwrap(), "token_policies": "web",
    });
    ground.bao.write("auth/cert/certs/web", &role).unwrap();
    let config = |role: &str| VaultConfig {
        client: Some((certificate.clone(), key.clone())),
        ..ground.config(VaultAuth::Certificate {
            mount: "cert".to_owned(),
            role: role.to_owned(),
        })
    };
    assert!(signs(opens(config("web")).as_ref()));
    let said = refuses(config("other"));
    assert!(said.contains("refuses the login by certificate"), "{said}");
}

#[test]
fn a_short_lease_is_renewed_and_at_its_end_replaced_without_a_failed_signature() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let role = json!({ "token_policies": "web", "token_ttl": "2s", "token_max_ttl": "6s" });
    ground.bao.write("auth/approle/role/web", &role).unwrap();
    let vault = ground.vault();
    let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
    assert_eventually(
        "renewed and replaced, twice",
        Duration::from_secs(60),
        || {
            assert!(signs(key.as_ref()), "{:?}", vault.figures());
            let figures = vault.figures();
            (figures.renewals >= 2 && figures.logins >= 3).then_some(())
        },
    );
    assert!(matches!(key.health(), KeyHealth::Ready));
}

#[test]
fn a_server_with_another_certificate_is_not_spoken_to() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let other = Ground::new(Storage::Memory, "ecdsa-p256");
    let config = VaultConfig {
        ca: other.bao.ca(),
        ..ground.config(ground.app_role())
    };
    let said = refuses(config);
    assert!(said.contains("does not answer"), "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
}
