//! Nobody can ask for another's name, key or address, by whatever way of logging in.

use sealwire_tests::names::{Workload, may_be_nobody_else};

use super::*;

const WEB: Workload<'_> = Workload {
    key: "web",
    path: "workload/web",
};
const API: Workload<'_> = Workload {
    key: "api",
    path: "workload/api",
};

#[test]
fn a_workload_that_asks_for_anothers_name_key_or_address_is_refused_by_app_role() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let token = vaulted.token("web").unwrap();
        may_be_nobody_else(&vaulted.bao, &token, WEB, API);
    });
}

#[test]
fn a_client_certificate_is_its_common_name_and_nobody_else() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let at = mesh.world().directory().join("clients");
        let script = "
            mkdir -m 755 $0 && cd $0
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \\
                -subj /CN=clients -addext keyUsage=critical,keyCertSign
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout web.key -out web.csr -subj /CN=web
            printf 'extendedKeyUsage=clientAuth\\nkeyUsage=critical,digitalSignature\\n' > ext
            openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out web.pem
            chmod 644 *";
        let made = mesh
            .world()
            .command("sh")
            .args(["-ec", script])
            .args([&at])
            .run(SOON)
            .unwrap();
        assert!(made.success(), "{}", made.stderr);
        let ca = at.join("ca.pem").display().to_string();
        let root = vaulted.bao.root_token();
        vaulted
            .set_up_as(root, "cert", &["web", "api"], &["--client-ca", &ca])
            .unwrap();
        let at = at.display();
        let certificate = format!("cert = \"{at}/web.pem\"\nkey = \"{at}/web.key\"");
        let role = json!({ "name": "sealwire" });
        let (status, said) = vaulted
            .bao
            .ask_with("POST", "auth/cert/login", &role, "", &certificate)
            .unwrap();
        let token = said["auth"]["client_token"].as_str();
        let token = token.unwrap_or_else(|| panic!("{status} {said}"));
        may_be_nobody_else(&vaulted.bao, token, WEB, API);
    });
}

#[test]
fn a_service_account_is_its_namespace_and_name_and_nobody_else() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let workloads = ["shop.web", "shop.api"];
        let (signing, public) = rsa_key(mesh);
        let claims = json!({
            "iss": "kubernetes", "sub": "system:serviceaccount:shop:web", "aud": ["sealwire-vault"],
            "exp": 4_000_000_000_u64, "iat": 1_700_000_000,
            "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "web", "uid": "one" } },
        });
        let jwt = jwt(mesh, &signing, &claims);

        vaulted.set_up_for("jwt", &workloads).unwrap();
        let keys = json!({ "jwt_validation_pubkeys": [public] });
        vaulted.bao.write("auth/jwt/config", &keys).unwrap();
        let login = json!({ "role": "sealwire", "jwt": jwt });
        let token = vaulted.bao.login("jwt", &login).unwrap();
        let [own, other] = [
            ("shop.web", "ns/shop/sa/web"),
            ("shop.api", "ns/shop/sa/api"),
        ]
        .map(|(key, path)| Workload { key, path });
        may_be_nobody_else(&vaulted.bao, &token, own, other);
    });
}

/// An RSA key and its public half, both in PEM.
pub(super) fn rsa_key(mesh: &Mesh) -> (String, String) {
    let made = mesh
        .world()
        .command("sh")
        .args(["-c", "openssl genrsa 2048 2>/dev/null"])
        .run(SOON)
        .unwrap()
        .stdout;
    let public = mesh
        .world()
        .command("openssl")
        .args(["pkey", "-pubout"])
        .input(made.clone())
        .run(SOON)
        .unwrap();
    (made, public.stdout)
}

/// A JWT with RS256.
pub(super) fn jwt(mesh: &Mesh, key: &str, claims: &Value) -> String {
    let path = mesh.world().directory().join("issuer.key");
    std::fs::write(&path, key).unwrap();
    let script = format!(
        "url() {{ openssl base64 -A | tr '+/' '-_' | tr -d =; }}
         signed=$(printf '{{\"alg\":\"RS256\",\"typ\":\"JWT\"}}' | url).$(cat | url)
         printf %s.%s $signed $(printf %s $signed | openssl dgst -sha256 -sign {} | url)",
        path.display()
    );
    let made = mesh
        .world()
        .command("sh")
        .args(["-c", &script])
        .input(claims.to_string())
        .in_confidence()
        .run(SOON)
        .unwrap();
    made.stdout
}
