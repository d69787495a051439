//! Everything in a namespace of the server: login, token and key.

use super::*;

/// Makes a key and an AppRole `web` in a namespace, and gives the configuration of who logs in there.
fn in_namespace(ground: &Ground, namespace: &str) -> VaultConfig {
    let bao = &ground.bao;
    let within = |path: &str| format!("{namespace}/{path}");
    for (path, body) in [
        ("sys/mounts/transit", json!({ "type": "transit" })),
        ("transit/keys/web", json!({ "type": "ecdsa-p384" })),
        ("sys/policies/acl/web", json!({ "policy": POLICY })),
        ("sys/auth/approle", json!({ "type": "approle" })),
        (
            "auth/approle/role/web",
            json!({ "token_policies": "web", "token_ttl": "2s", "token_max_ttl": "6s" }),
        ),
    ] {
        bao.write(&within(path), &body).unwrap();
    }
    let role = bao.read(&within("auth/approle/role/web/role-id")).unwrap();
    let secret = bao
        .write(&within("auth/approle/role/web/secret-id"), &json!({}))
        .unwrap();
    VaultConfig {
        namespace: Some(namespace.to_owned()),
        ..ground.config(VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: ground.secret("role", role["data"]["role_id"].as_str().unwrap()),
            secret_id: ground.secret("secret", secret["data"]["secret_id"].as_str().unwrap()),
            wrapped: false,
        })
    }
}

#[test]
fn a_login_and_a_key_in_a_namespace_are_those_of_the_namespace() {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    for namespace in ["team", "team/shop"] {
        let made = format!("sys/namespaces/{}", namespace.rsplit('/').next().unwrap());
        let made = match namespace.rsplit_once('/') {
            Some((above, _)) => format!("{above}/{made}"),
            None => made,
        };
        ground.bao.write(&made, &json!({})).unwrap();
        let config = in_namespace(&ground, namespace);
        let vault = Vault::start(config.clone()).unwrap();
        let key = open(&KeyConfig::Transit(transit(vault.clone()))).unwrap();
        // Above it there is another of that name.
        assert_eq!(key.public_key().algorithm(), Algorithm::EcdsaP384);
        assert_eventually("renewed and replaced", Duration::from_secs(60), || {
            assert!(signs(key.as_ref()), "{:?}", vault.figures());
            let figures = vault.figures();
            (figures.renewals >= 1 && figures.logins >= 2).then_some(())
        });
        // Who is of the namespace is nobody outside of it.
        let outside = Vault::start(VaultConfig {
            namespace: None,
            ..config
        });
        let config = TransitConfig {
            wait: Duration::from_secs(1),
            ..transit(outside.unwrap())
        };
        let refused = open(&KeyConfig::Transit(config)).unwrap_err().to_string();
        assert!(refused.contains("refuses the login"), "{refused}");
    }
}
