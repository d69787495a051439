//! What somebody logs in with stands nowhere. After every test all that any process has written is
//! searched (`in_a_mesh`); here sidecars log in by each way, again and again, are refused, and are
//! asked for all that they tell, their arguments and their environment.

use super::names::{jwt, rsa_key};
use super::*;

/// Tokens that live for so short that logins and renewals are among what is logged.
fn short() -> Value {
    json!({ "token_ttl": "3s", "token_max_ttl": "6s" })
}

/// Starts a sidecar with this configuration, and has it say all that it can. What it says is
/// searched after the test.
fn tells_all(vaulted: &Vaulted<'_>, name: &str, changed: impl Fn(String) -> String) {
    let mesh = vaulted.mesh;
    let pod = mesh.world().pod(name).unwrap();
    let config = vaulted.prepare(&pod, "web", KeyFrom::Transit).unwrap();
    let text = vaulted.config(&pod, "web", KeyFrom::Transit);
    mesh.write(&config, &changed(text)).unwrap();
    mesh.capture(&pod, &config).unwrap();
    let mut sidecar = mesh.start(&pod, &config).unwrap();
    sidecar.wait_until_ready().unwrap();
    let figures = || {
        let (_, text) = sidecar.health("/healthz")?;
        let health: Value = serde_json::from_str(&text).ok()?;
        Some(health["health"]["online"]["vault"].clone())
    };
    assert_eventually("it has logged in again, and renewed", LONG, || {
        let figures = figures()?;
        (figures["logins"].as_u64()? >= 2 && figures["renewals"].as_u64()? >= 1).then_some(())
    });
    vaulted.bao.seal().unwrap();
    assert_eventually("it has been refused", SOON, || {
        figures()?["problem"].as_str().map(drop)
    });
    vaulted.bao.unseal().unwrap();
    assert!(sidecar.metrics().contains("sealwire_vault_logins_total"));
    for path in ["/config", "/custody", "/certificates", "/links"] {
        assert!(!sidecar.admin(path).is_null(), "{path}");
    }
    let log = sidecar.process.stdout();
    assert!(
        log.contains("logged in") && log.contains("\"level\":\"TRACE\""),
        "it is loud"
    );
    let process = format!("/proc/{}", sidecar.process.pid());
    let seen = mesh
        .world()
        .command("cat")
        .args([format!("{process}/cmdline"), format!("{process}/environ")])
        .run(SOON)
        .unwrap();
    assert!(seen.stdout.contains("sealwire-proxy"), "{}", seen.stdout);
}

#[test]
fn no_secret_of_app_role_is_in_an_output_an_argument_or_the_environment() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let path = "auth/approle/role/web";
        vaulted.bao.write(path, &short()).unwrap();
        tells_all(&vaulted, "plain", |text| text);

        let id = "5d9a6e0c-wrapped-secret-id-of-the-test";
        let further = "header = \"X-Vault-Wrap-TTL: 5m\"";
        let path = format!("{path}/custom-secret-id");
        let root = vaulted.bao.root_token();
        let asked = json!({ "secret_id": id });
        let said = vaulted
            .bao
            .ask_with("POST", &path, &asked, root, further)
            .unwrap();
        let token = said.1["wrap_info"]["token"].as_str().unwrap();
        let directory = mesh.world().directory().display().to_string();
        for (file, secret) in [("wrapping-token", token), ("wrapped-id", id)] {
            let file = mesh.world().directory().join(file);
            vaulted.secret(&file, secret, PROXY_UID).unwrap();
        }
        tells_all(&vaulted, "wrapped", |text| {
            let own = format!("secretId: {directory}/wrapped/secret-id");
            assert!(text.contains(&own));
            let wrapped = format!("secretId: {directory}/wrapping-token, wrapped: true");
            text.replace(&own, &wrapped)
        });
    });
}

#[test]
fn no_jwt_is_in_an_output_an_argument_or_the_environment() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let (signing, public) = rsa_key(mesh);
        let claims = json!({
            "iss": "kubernetes", "sub": "system:serviceaccount:shop:web", "aud": ["sealwire-vault"],
            "exp": 4_000_000_000_u64, "iat": 1_700_000_000,
            "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "web", "uid": "one" } },
        });
        let token = mesh.world().directory().join("web.jwt");
        let made = jwt(mesh, &signing, &claims);
        vaulted.secret(&token, &made, PROXY_UID).unwrap();
        vaulted.set_up_for("jwt", &["shop.web"]).unwrap();
        let keys = json!({ "jwt_validation_pubkeys": [public] });
        vaulted.bao.write("auth/jwt/config", &keys).unwrap();
        let path = "auth/jwt/role/sealwire";
        let mut role = vaulted.bao.read(path).unwrap()["data"].take();
        for (name, value) in short().as_object().unwrap() {
            role[name] = value.clone();
        }
        vaulted.bao.write(path, &role).unwrap();
        tells_all(&vaulted, "jwt", |text| {
            let app_role = text
                .lines()
                .find(|line| line.starts_with("  auth: "))
                .unwrap();
            let jwt = format!(
                "  auth: {{ jwt: {{ mount: jwt, role: sealwire, token: {} }} }}",
                token.display()
            );
            text.replace(app_role, &jwt)
                .replace("transit/web", "transit/shop.web")
                .replace("/workload/web", "/ns/shop/sa/web")
        });
    });
}

/// What is searched for after a test is found.
#[test]
#[should_panic(expected = "a secret stands in an output")]
fn a_secret_in_an_output_is_found() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let file = mesh.world().directory().join("secret");
        vaulted.secret(&file, "not like a token", 0).unwrap();
        mesh.world().command("cat").args([file]).run(SOON).unwrap();
    });
}

/// Also one that nobody has told of.
#[test]
#[should_panic(expected = "a secret stands in an output")]
fn a_token_in_an_output_is_found() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let token = vaulted.token("web").unwrap();
        let echo = mesh.world().command("cat").input(token);
        echo.run(SOON).unwrap();
    });
}
