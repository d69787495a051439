//! Nobody can ask for another's name, key or address, by whatever way of logging in.

use super::*;

/// Under the policies that `sealwire vault setup` writes, by whatever way somebody logs in. `name`
/// is the caller's own, `other` somebody else's, `path` and `other_path` those of their SPIFFE IDs.
fn may_be_nobody_else(vaulted: &Vaulted<'_>, token: &str, own: (&str, &str), other: (&str, &str)) {
    let mesh = vaulted.mesh;
    let ask = |method: &str, path: &str, body: &Value| {
        let (status, said) = vaulted.bao.ask(method, path, body, token).unwrap();
        (status, said.to_string())
    };
    let sign = |names: &str| {
        let asked = json!({ "csr": csr(mesh, names), "exclude_cn_from_sans": true });
        ask("POST", "pki/sign/sealwire", &asked)
    };
    let id = |path: &str| format!("spiffe://mesh.example/{path}");
    let own_id = id(own.1);
    let said = sign(&own_id);
    assert_eq!(said.0, 200, "its own name: {said:?}");
    for names in [
        id(other.1),
        own_id.replace("mesh.example", "other.example"),
        format!("{own_id}/more"),
        format!("{own_id},URI:{}", id(other.1)),
        format!("{own_id},IP:198.18.0.11"),
        format!("{own_id},DNS:api.example"),
        id("*"),
    ] {
        let said = sign(&names);
        assert_eq!(said.0, 400, "{names}: {said:?}");
    }
    let (own, other) = (own.0, other.0);
    let input = json!({ "input": "AAAA" });
    let said = ask("POST", &format!("transit/sign/{own}/sha2-256"), &input);
    assert_eq!(said.0, 200, "its own key: {said:?}");
    for (method, path) in [
        ("POST", format!("transit/sign/{other}/sha2-256")),
        ("GET", format!("transit/keys/{other}")),
        ("POST", format!("transit/keys/{other}/rotate")),
        ("POST", format!("transit/keys/{own}/config")),
        ("GET", format!("transit/export/signing-key/{own}")),
        ("POST", "transit/keys/fresh".to_owned()),
        ("DELETE", format!("transit/keys/{own}")),
        ("POST", "pki/sign/other".to_owned()),
        ("POST", "pki/sign-verbatim/sealwire".to_owned()),
        ("POST", "pki/issue/sealwire".to_owned()),
        ("POST", "pki/roles/sealwire".to_owned()),
        ("POST", "pki/root/generate/internal".to_owned()),
        ("GET", format!("auth/approle/role/{other}/role-id")),
        ("POST", format!("auth/approle/role/{other}/secret-id")),
        ("GET", "sys/policies/acl/sealwire-workload".to_owned()),
    ] {
        let said = ask(method, &path, &input);
        assert_eq!(said.0, 403, "{method} {path}: {said:?}");
    }
}

#[test]
fn a_workload_that_asks_for_anothers_name_key_or_address_is_refused_by_app_role() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let token = vaulted.token("web").unwrap();
        may_be_nobody_else(
            &vaulted,
            &token,
            ("web", "workload/web"),
            ("api", "workload/api"),
        );
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
        may_be_nobody_else(
            &vaulted,
            token,
            ("web", "workload/web"),
            ("api", "workload/api"),
        );
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
        let token = vaulted.login("jwt", &login).unwrap();
        let own = ("shop.web", "ns/shop/sa/web");
        let other = ("shop.api", "ns/shop/sa/api");
        may_be_nobody_else(&vaulted, &token, own, other);

        // The same by the method that asks Kubernetes, for which a server stands in here.
        vaulted.set_up_for("kubernetes", &workloads).unwrap();
        let _reviewer = mesh
            .world()
            .command("/usr/bin/python3")
            .args(["-c", include_str!("../../src/programs/token_review.py")])
            .spawn()
            .unwrap();
        let config = json!({
            "kubernetes_host": "http://198.18.255.1:9000", "token_reviewer_jwt": "reviewer",
            "disable_local_ca_jwt": true,
            // Not used, since the stand-in speaks plain HTTP; the server insists.
            "kubernetes_ca_cert": std::fs::read_to_string(vaulted.bao.ca()).unwrap(),
        });
        vaulted
            .bao
            .write("auth/kubernetes/config", &config)
            .unwrap();
        let token = assert_eventually("Kubernetes answers", SOON, || {
            vaulted.login("kubernetes", &login).ok()
        });
        may_be_nobody_else(&vaulted, &token, own, other);
        let stranger = json!({ "role": "sealwire", "jwt": jwt.replace('.', "x.") });
        assert!(vaulted.login("kubernetes", &stranger).is_err());
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

/// A request, by a key of the test's own.
fn csr(mesh: &Mesh, names: &str) -> String {
    let key = mesh.world().directory().join("other.key");
    let made = mesh
        .world()
        .command("openssl")
        .args(["req", "-new", "-newkey", "ec", "-nodes", "-subj", "/"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"])
        .args([key])
        .args(["-addext", &format!("subjectAltName=URI:{names}")])
        .run(SOON)
        .unwrap();
    assert!(made.success(), "{}", made.stderr);
    made.stdout
}
