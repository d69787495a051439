//! Keys in OpenBao's transit mount and certificates from its PKI mount: two pods and a real server,
//! set up by `sealwire vault setup`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "vault/clock.rs"]
mod clock;
#[path = "vault/crashes.rs"]
mod crashes;
#[path = "vault/faults.rs"]
mod faults;
#[path = "vault/front.rs"]
mod front;
#[path = "vault/names.rs"]
mod names;
#[path = "vault/namespaces.rs"]
mod namespaces;
#[path = "vault/reports.rs"]
mod reports;
#[path = "vault/resumption.rs"]
mod resumption;
#[path = "vault/secrets.rs"]
mod secrets;
#[path = "vault/trimming.rs"]
mod trimming;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use self::trimming::begin_when_issued;
use sealwire_pods::{KeyFrom, Mesh, PROXY_UID, Sidecar, Storage, Vaulted, assert_eventually};
use sealwire_tests::{LONG, SOON, client, in_a_mesh, record, server, with_each_privilege};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
fn the_operators_policy_is_enough_for_the_setup_and_running_it_again_changes_no_key() {
    in_a_mesh(|mesh| {
        // What is there already is another setup's; its paths are not this one's.
        let vaulted = vaulted(mesh, "1h");
        let policy = include_str!("../../deploy/vault/operator.hcl");
        let policy = policy.replace("TRANSIT", "transit").replace("PKI", "pki");
        let bao = &vaulted.bao;
        bao.write("sys/policies/acl/operator", &json!({ "policy": policy }))
            .unwrap();
        for path in ["sys/mounts/transit", "sys/mounts/pki", "sys/auth/approle"] {
            bao.delete(path).unwrap();
        }
        let token = json!({ "policies": ["operator"], "no_default_policy": true });
        let token = bao.write("auth/token/create", &token).unwrap();
        let token = token["auth"]["client_token"].as_str().unwrap();
        vaulted.set_up_as(token, "approle", &["web"], &[]).unwrap();
        let (_web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let key = public_key(&web_car);
        let said = vaulted.set_up_as(token, "approle", &["web"], &[]).unwrap();
        assert!(said.contains("kept     transit/keys/web"), "{said}");
        assert_eq!(public_key(&web_car), key);
        let issuers = bao.ask("LIST", "pki/issuers", &Value::Null, token).unwrap();
        assert_eq!(issuers.1["data"]["keys"].as_array().unwrap().len(), 1);
    });
}

/// SHA-256 of the public key in use.
fn public_key(sidecar: &Sidecar) -> String {
    sidecar.admin("/custody")["custody"]["public_key_sha256"].to_string()
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

#[test]
fn the_certificate_is_renewed_and_the_key_rotated_while_links_go_on() {
    for from in [KeyFrom::Transit, KeyFrom::Pkcs11] {
        in_a_mesh(|mesh| renewed_and_rotated(mesh, from));
    }
}

fn renewed_and_rotated(mesh: &Mesh, from: KeyFrom) {
    let vaulted = vaulted(mesh, "24s");
    let (web, web_car) = vaulted.sealed_pod("web", from).unwrap();
    let (api, _api_car) = vaulted.sealed_pod("api", from).unwrap();
    let _server = server(&api, 8080, "echo");
    let echo = || {
        let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
    };
    echo();
    let first = serial(&web_car);
    assert_eventually("the certificate is renewed", LONG, || {
        echo();
        (serial(&web_car) != first).then_some(())
    });
    let before = public_key(&web_car);
    let asked = web
        .app(&mesh.programs().cli)
        .args(["keys", "rotate"])
        .run(SOON)
        .unwrap();
    assert!(asked.success(), "{}{}", asked.stdout, asked.stderr);
    assert_eventually("another key is in use", LONG, || {
        echo();
        (public_key(&web_car) != before).then_some(())
    });
    // New links are made with it, and with nothing else.
    let epoch = web_car.admin("/certificates")["epoch"].as_u64();
    let key = web_car.admin("/custody")["custody"]["reference"].clone();
    assert_eventually("a link with the new key", SOON, || {
        echo();
        let records = web_car.records().into_iter();
        let mut since = records
            .filter(|record| record["epoch"].as_u64() >= epoch)
            .peekable();
        since.peek()?;
        assert!(since.all(|record| record["key"] == key));
        Some(())
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
fn what_is_sealed_goes_on_while_the_server_is_sealed_or_away_and_all_recovers_alone() {
    in_a_mesh(|mesh| {
        let workloads = ["web", "api"];
        let mut vaulted = Vaulted::new(mesh, Storage::Raft, "1h", &workloads).unwrap();
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let steady = client(&web, api.v4(), 8080, "steady").args(["40"]);
        let mut steady = steady.spawn().unwrap();
        assert_eventually("it moves", SOON, || {
            (!web_car.admin("/links").as_array()?.is_empty()).then_some(())
        });
        let key = || {
            let (_, text) = web_car.health("/healthz").unwrap();
            let health: Value = serde_json::from_str(&text).unwrap();
            health["health"]["key"].to_string()
        };
        let named = |what: &str| {
            assert_eventually("health names it", LONG, || {
                let key = key();
                (key.contains("degraded") && key.contains(what)).then_some(())
            });
            assert!(web_car.metrics().contains("sealwire_vault_up 0"));
            assert!(web_car.is_ready(), "sealed links and sessions go on");
        };
        let recovers = || {
            assert_eventually("it recovers alone", LONG, || {
                key().contains("ready").then_some(())
            });
        };

        vaulted.bao.seal().unwrap();
        named("sealed");
        vaulted.bao.unseal().unwrap();
        recovers();
        vaulted.bao.stop();
        named("does not answer");
        vaulted.bao.restart().unwrap();
        vaulted.bao.unseal().unwrap();
        recovers();
        // The token is of the server's storage; without it the sidecar logs in again.
        let revoke = "sys/leases/revoke-prefix/auth/approle";
        vaulted.bao.write(revoke, &json!({})).unwrap();
        let renewed = web
            .app("curl")
            .args(["-sfX", "POST", "http://127.0.0.1:15000/renew"]);
        let before = serial(&web_car);
        assert!(renewed.run(SOON).unwrap().success());
        assert_eventually("it has logged in again", LONG, || {
            (serial(&web_car) != before).then_some(())
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
        let until_it_falls = || {
            assert_eventually("readiness falls", LONG, || {
                let (status, text) = web_car.health("/readyz")?;
                (status == 503 && text.contains("certificate")).then_some(())
            });
        };
        until_it_falls();
        let end = web_car.admin("/certificates")["own"]["not_after"].clone();
        let fell = assert_eventually("readiness is in the log", SOON, || {
            let mut log = web_car.log().into_iter().rev();
            let line = log.find(|line| line["message"] == "not ready any more")?;
            line["timestamp"].as_str().map(str::to_owned)
        });
        let [fell, end] = [fell.as_str(), end.as_str().unwrap()]
            .map(|time| OffsetDateTime::parse(time, &Rfc3339).unwrap());
        assert!(fell < end, "{fell} is before {end}");
        assert!(
            (end - fell).whole_seconds() < 10,
            "and not long before: {fell}, {end}"
        );
        vaulted.set_up(&["web"]).unwrap();
        assert_eventually("it recovers alone", LONG, || {
            web_car.is_ready().then_some(())
        });
    });
}

#[test]
fn a_key_that_was_deleted_and_made_anew_is_taken_without_a_restart() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let (_web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let public = || web_car.admin("/custody")["custody"]["public_key_sha256"].to_string();
        let first = public();
        let allow = json!({ "deletion_allowed": true });
        vaulted
            .bao
            .write("transit/keys/web/config", &allow)
            .unwrap();
        vaulted.bao.delete("transit/keys/web").unwrap();
        assert_eventually("it is named", LONG, || {
            let (status, text) = web_car.health("/readyz")?;
            (status == 503 && text.contains("not in its place")).then_some(())
        });
        vaulted.set_up(&["web"]).unwrap();
        assert_eventually("the new one is in use", LONG, || {
            (web_car.is_ready() && public() != first).then_some(())
        });
    });
}

/// Steady load of both kinds for a minute: exchanges on one connection, and a new connection for
/// each exchange; meanwhile key, certificate and issuing CA are rotated on both sides.
#[test]
fn nothing_fails_in_a_minute_of_load_while_key_certificate_and_issuer_are_rotated() {
    in_a_mesh(|mesh| {
        // A link ends with the certificate that it was made with: longer than the load.
        let vaulted = vaulted(mesh, "10m");
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, api_car) = vaulted.sealed_pod("api", KeyFrom::Pkcs11).unwrap();
        let _server = server(&api, 8080, "echo");
        let start = |mode: &str| {
            let load = client(&web, api.v4(), 8080, mode).args(["60"]);
            load.spawn().unwrap()
        };
        let mut loads = [start("steady"), start("churn")];
        let begun = Instant::now();
        let cars = [&web_car, &api_car];
        let serials = || cars.map(serial);
        let differ = |before: &[String; 2]| {
            let now = serials();
            (now[0] != before[0] && now[1] != before[1]).then_some(())
        };

        let renew = || {
            for pod in [&web, &api] {
                let asked = ["-sfX", "POST", "http://127.0.0.1:15000/renew"];
                let asked = pod.app("curl").args(asked).run(SOON).unwrap();
                assert!(asked.success(), "{}", asked.stderr);
            }
        };

        let first = serials();
        renew();
        assert_eventually("certificates are replaced", LONG, || differ(&first));

        let keys = || cars.map(public_key);
        let keys_before = keys();
        let before = serials();
        for pod in [&web, &api] {
            let asked = pod.app(&mesh.programs().cli).args(["keys", "rotate"]);
            assert!(asked.run(SOON).unwrap().success());
        }
        assert_eventually("keys are replaced", LONG, || {
            let now = keys();
            (now[0] != keys_before[0] && now[1] != keys_before[1]).then_some(())
        });
        differ(&before).expect("a new key has a new certificate");

        let next = json!({
            "common_name": "next root", "uri_sans": "spiffe://mesh.example", "key_type": "ec",
            "issuer_name": "next", "ttl": "87600h",
        });
        vaulted
            .bao
            .write("pki/root/generate/internal", &next)
            .unwrap();
        let trusting = || cars.map(|car| car.admin("/certificates")["epoch"].as_u64().unwrap_or(0));
        let epochs = trusting();
        assert_eventually("both trust the next", LONG, || {
            let now = trusting();
            (now[0] > epochs[0] && now[1] > epochs[1]).then_some(())
        });
        let default = json!({ "default": "next" });
        vaulted.bao.write("pki/config/issuers", &default).unwrap();
        renew();
        assert_eventually("both have certificates of the next", LONG, || {
            let issued = cars.map(|car| car.admin("/certificates")["own"]["issuer"].to_string());
            issued
                .iter()
                .all(|issuer| issuer.contains("next"))
                .then_some(())
        });
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "all of it under load"
        );

        for load in &mut loads {
            let ended = load.wait(LONG).unwrap();
            let broken = |car: &Sidecar| {
                let records = car.records().into_iter();
                records
                    .filter(|record| record["outcome"] != "complete")
                    .collect::<Vec<_>>()
            };
            assert!(
                ended.success(),
                "{}: {:#?} {:#?}",
                load.stdout(),
                broken(&web_car),
                broken(&api_car)
            );
            assert!(load.stdout().contains("none broken"), "{}", load.stdout());
        }
        let records = web_car.records();
        let used = |name: &str| -> HashSet<_> {
            let values = records.iter().map(|record| record[name].to_string());
            values.collect()
        };
        assert!(used("serial").len() >= 3, "{:?}", used("serial"));
        assert_eq!(used("key").len(), 2, "{:?}", used("key"));
        // No session outlives its epoch: each begins with a full handshake.
        let epochs: HashSet<_> = records
            .iter()
            .map(|record| record["epoch"].as_u64())
            .collect();
        for epoch in epochs {
            let mut of_epoch = records
                .iter()
                .filter(|record| record["epoch"].as_u64() == epoch);
            assert!(
                of_epoch.any(|record| record["resumed"] == false),
                "{epoch:?}"
            );
        }
    });
}
