//! Keys in OpenBao's transit mount and certificates from its PKI mount: two pods and a real server,
//! set up by `sealwire vault setup`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use sealwire_pods::{KeyFrom, Mesh, Sidecar, Storage, Vaulted, assert_eventually};
use sealwire_tests::{LONG, SOON, client, in_a_mesh, record, server, with_each_privilege};
use serde_json::{Value, json};

fn vaulted<'a>(mesh: &'a Mesh, ttl: &'static str) -> Vaulted<'a> {
    Vaulted::new(mesh, Storage::Memory, ttl, &["web", "api"]).unwrap()
}

/// The serial of the certificate in force.
fn serial(sidecar: &Sidecar) -> String {
    sidecar.admin("/certificates")["own"]["serial"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn two_pods_are_sealed_with_every_mix_of_keys() {
    with_each_privilege(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        for (number, (left, right)) in [
            (KeyFrom::Transit, KeyFrom::Transit),
            (KeyFrom::Transit, KeyFrom::Pkcs11),
        ]
        .into_iter()
        .enumerate()
        {
            // Pods have names of their own; the workloads are the same two.
            let seal = |name: String, workload: &str, key| {
                let pod = mesh.world().pod(&name).unwrap();
                let config = vaulted.prepare(&pod, workload, key).unwrap();
                mesh.capture(&pod, &config).unwrap();
                let mut sidecar = mesh.start(&pod, &config).unwrap();
                sidecar.wait_until_ready().unwrap();
                (pod, sidecar)
            };
            let (web, web_car) = seal(format!("web{number}"), "web", left);
            let (api, _api_car) = seal(format!("api{number}"), "api", right);
            let _server = server(&api, 8080, "echo");
            for address in [api.v4(), api.v6()] {
                let done = client(&web, address, 8080, "echo").run(SOON).unwrap();
                assert!(done.success(), "{}{}", done.stdout, done.stderr);
            }
            let seen = record(&web_car, &[("treatment", "seal"), ("outcome", "complete")]);
            assert_eq!(seen["peer"], "spiffe://mesh.example/workload/api");
            assert_eq!(seen["identity"], "spiffe://mesh.example/workload/web");
        }
    });
}

/// Under the policies that `sealwire vault setup` writes.
#[test]
fn a_workload_that_asks_for_anothers_name_key_or_address_is_refused_by_the_server() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let ask = |method: &str, path: &str, body: &Value| {
            let (status, said) = vaulted.ask_as("web", method, path, body).unwrap();
            (status, said.to_string())
        };
        let sign = |names: &str| {
            let asked = json!({ "csr": csr(mesh, names), "exclude_cn_from_sans": true });
            ask("POST", "pki/sign/sealwire", &asked)
        };
        let web = "spiffe://mesh.example/workload/web";
        let own = sign(web);
        assert_eq!(own.0, 200, "its own name: {own:?}");
        for (what, names) in [
            ("another's name", "spiffe://mesh.example/workload/api"),
            ("a pattern", "spiffe://mesh.example/workload/*"),
            ("another domain", "spiffe://other.example/workload/web"),
            ("an address", &format!("{web},IP:198.18.0.11")),
            ("a host name", &format!("{web},DNS:api.example")),
        ] {
            let said = sign(names);
            assert_eq!(said.0, 400, "{what}: {said:?}");
        }
        let input = json!({ "input": "AAAA", "prehashed": false });
        assert_eq!(ask("POST", "transit/sign/web/sha2-256", &input).0, 200);
        for (method, path) in [
            ("POST", "transit/sign/api/sha2-256"),
            ("GET", "transit/keys/api"),
            ("POST", "transit/keys/api/rotate"),
            ("POST", "transit/keys/web/config"),
            ("GET", "transit/export/signing-key/web"),
            ("POST", "transit/keys/other"),
            ("DELETE", "transit/keys/web"),
            ("POST", "pki/sign/other"),
            ("POST", "pki/sign-verbatim/sealwire"),
            ("POST", "pki/issue/sealwire"),
            ("POST", "pki/roles/sealwire"),
            ("POST", "pki/root/generate/internal"),
            ("GET", "auth/approle/role/api/role-id"),
            ("POST", "auth/approle/role/api/secret-id"),
            ("GET", "sys/policies/acl/sealwire-workload"),
        ] {
            let said = ask(method, path, &input);
            assert_eq!(said.0, 403, "{method} {path}: {said:?}");
        }
    });
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

#[test]
fn the_certificate_is_renewed_and_the_key_rotated_while_links_go_on() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "24s");
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let echo = || client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(echo().success());
        let first = serial(&web_car);
        assert_eventually("the certificate is renewed", SOON, || {
            assert!(echo().success());
            (serial(&web_car) != first).then_some(())
        });
        let version = || {
            let custody = web_car.admin("/custody");
            custody["custody"]["transit"]["version"].as_u64()
        };
        assert_eq!(version(), Some(1));
        vaulted
            .bao
            .write("transit/keys/web/rotate", &json!({}))
            .unwrap();
        assert_eventually("the new version is in use", SOON, || {
            let done = echo();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
            (version() == Some(2)).then_some(())
        });
        // New links are made with it.
        let now = serial(&web_car);
        assert_eventually("the peer has seen the new certificate", SOON, || {
            assert!(echo().success());
            let records = api_car.records();
            let seen = records.iter().any(|record| record["peer_serial"] == now);
            (seen || serial(&web_car) != now).then_some(())
        });
    });
}

#[test]
fn a_new_issuer_is_trusted_before_it_issues_and_then_moved_to() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "24s");
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let echo = || {
            let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
        };
        echo();
        let bao = &vaulted.bao;
        let root = json!({
            "common_name": "next root", "uri_sans": "spiffe://mesh.example", "key_type": "ec",
            "issuer_name": "next", "ttl": "87600h",
        });
        let epochs = [&web_car, &api_car].map(|car| car.admin("/certificates")["epoch"].clone());
        bao.write("pki/root/generate/internal", &root).unwrap();
        assert_eventually("both trust it", SOON, || {
            echo();
            let now = [&web_car, &api_car].map(|car| car.admin("/certificates")["epoch"].clone());
            (now[0] != epochs[0] && now[1] != epochs[1]).then_some(())
        });
        bao.write("pki/config/issuers", &json!({ "default": "next" }))
            .unwrap();
        assert_eventually("both have certificates of the next", LONG, || {
            echo();
            let moved = |car: &Sidecar| {
                let issuer = car.admin("/certificates")["own"]["issuer"].clone();
                issuer
                    .as_str()
                    .is_some_and(|issuer| issuer.contains("next"))
            };
            (moved(&web_car) && moved(&api_car)).then_some(())
        });
    });
}

#[test]
fn what_is_sealed_goes_on_while_the_server_is_sealed_and_all_recovers_alone() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let steady = client(&web, api.v4(), 8080, "steady").args(["15"]);
        let mut steady = steady.spawn().unwrap();
        assert_eventually("it moves", SOON, || {
            (!web_car.admin("/links").as_array()?.is_empty()).then_some(())
        });
        vaulted.bao.seal().unwrap();
        let health =
            || serde_json::from_str::<Value>(&web_car.health("/healthz").unwrap().1).unwrap();
        assert_eventually("health names it", SOON, || {
            let text = health()["health"]["key"].to_string();
            (text.contains("degraded") && text.contains("sealed")).then_some(())
        });
        assert!(web_car.metrics().contains("sealwire_vault_up 0"));
        assert!(web_car.is_ready(), "sealed links and sessions go on");
        vaulted.bao.unseal().unwrap();
        assert_eventually("it recovers alone", SOON, || {
            (health()["health"]["key"]["state"] == "ready").then_some(())
        });
        assert!(steady.wait(LONG).unwrap().success());
        assert!(
            steady.stdout().contains("none broken"),
            "{}",
            steady.stdout()
        );
        let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
    });
}

#[test]
fn readiness_falls_before_the_certificate_ends_when_it_cannot_be_renewed() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "24s");
        let (_web, web_car) = vaulted.sealed_pod("web", KeyFrom::Pkcs11).unwrap();
        vaulted.bao.delete("pki/roles/sealwire").unwrap();
        assert_eventually("it is named", LONG, || {
            let text = web_car.health("/healthz")?.1;
            text.contains("unknown role").then_some(())
        });
        assert!(web_car.is_ready());
        assert_eventually("readiness falls", LONG, || {
            let (status, text) = web_car.health("/readyz")?;
            (status == 503 && text.contains("certificate")).then_some(())
        });
        vaulted.set_up(&["web"]).unwrap();
        assert_eventually("it recovers alone", LONG, || {
            web_car.is_ready().then_some(())
        });
    });
}
