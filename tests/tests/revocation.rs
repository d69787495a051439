//! Revocation lists in real sidecars: who was revoked is out at once, a list past its time keeps
//! everybody out, and nobody else notices. And resumption, which must open no way around that; and
//! rules, which live links answer to as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sealwire_pods::{Mesh, OPEN_MESH, Pod, Process, Sealing, Sidecar, assert_eventually};
use sealwire_tests::{SOON, client, in_a_mesh, record, server, with_each_privilege};
use serde_json::Value;

/// A sealed pod with a section `identity.revocation`.
fn pod(mesh: &Mesh, name: &str, revocation: &str, sections: &str) -> (Pod, Sidecar) {
    let sealing = Sealing {
        sections: format!("{OPEN_MESH}{sections}"),
        ..Sealing::default()
    };
    let pod = mesh.world().pod(name).unwrap();
    let config = mesh.prepare(&pod, &sealing).unwrap();
    let section = format!("identity:\n  revocation: {{ {revocation} }}\n");
    let text = mesh.config(&pod, &sealing);
    let text = text.replacen("identity:\n", &section, 1);
    mesh.write(&config, &text).unwrap();
    mesh.capture(&pod, &config).unwrap();
    let sidecar = mesh.start(&pod, &config).unwrap();
    (pod, sidecar)
}

/// Where the CA publishes its lists: a directory that is named nowhere else.
fn published(mesh: &Mesh) -> PathBuf {
    let directory = mesh.world().directory().join("lists");
    if !directory.exists() {
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    }
    directory.join("crl.pem")
}

/// Publishes a list that revokes these certificates beside those before.
fn publish(mesh: &Mesh, revoked: &[&Sidecar], next_update: &str) -> Value {
    let out = published(mesh).display().to_string();
    let serials: Vec<_> = revoked.iter().map(|sidecar| serial(sidecar)).collect();
    let mut arguments = vec!["crl", "--out", &out, "--next-update", next_update];
    for serial in &serials {
        arguments.extend(["--revoke", serial]);
    }
    mesh.hsm(&arguments).unwrap()
}

fn serial(sidecar: &Sidecar) -> String {
    let own = sidecar.admin("/certificates");
    own["own"]["serial"].as_str().unwrap().to_owned()
}

fn from_file(mesh: &Mesh) -> String {
    format!("crls: [{{ file: {} }}]", published(mesh).display())
}

/// An exchange that goes on until it is broken off.
fn drip(from: &Pod, to: &Pod) -> Process {
    let reader = client(from, to.v4(), 7000, "until-it-ends");
    let reader = reader.spawn().unwrap();
    assert_eventually("bytes flow", SOON, || {
        reader.stdout().contains("reading").then_some(())
    });
    reader
}

fn echoes(from: &Pod, to: &Pod) -> bool {
    let echo = client(from, to.v4(), 7001, "echo").run(SOON).unwrap();
    echo.success()
}

fn note(sidecar: &Sidecar, parts: &[&str]) {
    assert_eventually("it is said", SOON, || {
        let details = sidecar.health("/healthz")?.1;
        parts
            .iter()
            .all(|part| details.contains(part))
            .then_some(())
    });
}

#[test]
fn a_revoked_peer_loses_its_live_links_and_gets_no_new_one_and_nobody_else_notices() {
    with_each_privilege(|mesh| {
        let _ = publish(mesh, &[], "1h");
        let (to, mut inn) = pod(mesh, "server", &from_file(mesh), "");
        let (good, _good) = mesh.sealed_pod("good", &Sealing::default()).unwrap();
        let (bad, out) = mesh.sealed_pod("bad", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let (_drip, _echo) = (server(&to, 7000, "drip"), server(&to, 7001, "echo"));
        let mut stays = drip(&good, &to);
        let mut goes = drip(&bad, &to);
        assert!(echoes(&bad, &to) && echoes(&bad, &to));
        record(&inn, &[("outcome", "complete")]);

        publish(mesh, &[&out], "1h");
        goes.wait(SOON).expect("the link of the revoked peer ends");
        assert!(
            goes.stdout().contains("ConnectionResetError"),
            "{}",
            goes.stdout()
        );
        let closed = record(&inn, &[("outcome", "closed"), ("reason", "revocation")]);
        assert_eq!(closed["peer_serial"], serial(&out), "{closed}");
        let metrics = inn.metrics();
        let counted = "sealwire_links_closed_total{direction=\"inbound\",reason=\"revocation\"} 1";
        assert!(metrics.contains(counted), "{metrics}");

        // It still holds tickets of before, and tries them.
        assert!(!echoes(&bad, &to));
        let refused = record(&inn, &[("outcome", "refused"), ("reason", "revoked")]);
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(&serial(&out)), "{refused}");
        assert!(
            echoes(&good, &to) && stays.is_running(),
            "{}",
            stays.stdout()
        );
        assert!(inn.is_ready());
    });
}

#[test]
fn a_new_list_that_revokes_nobody_new_breaks_no_link_and_is_shown() {
    in_a_mesh(|mesh| {
        publish(mesh, &[], "1h");
        let (to, mut inn) = pod(mesh, "server", &from_file(mesh), "");
        let (from, _out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let (_drip, _echo) = (server(&to, 7000, "drip"), server(&to, 7001, "echo"));
        let mut link = drip(&from, &to);
        let issued = publish(mesh, &[], "2h");
        let lists = assert_eventually("the new list is in force", SOON, || {
            let lists = inn.admin("/certificates")["revocationLists"].clone();
            (lists[0]["number"] == "2").then_some(lists)
        });
        assert_eq!(lists[0]["entries"], 0);
        assert_eq!(lists[0]["issuer"], "CN=mesh.example CA");
        let due = issued["next_update"].as_str().unwrap();
        assert!(
            due.starts_with(
                lists[0]["next_update"]
                    .as_str()
                    .unwrap()
                    .trim_end_matches('Z')
            )
        );
        assert!(inn.metrics().contains("sealwire_crl_next_update_seconds"));
        assert!(echoes(&from, &to) && link.is_running(), "{}", link.stdout());
    });
}

#[test]
fn a_list_past_its_time_keeps_everybody_out_until_there_is_a_new_one() {
    in_a_mesh(|mesh| {
        publish(mesh, &[], "6s");
        let grace = format!("{}, graceSeconds: 2", from_file(mesh));
        let (to, mut inn) = pod(mesh, "server", &grace, "");
        let (from, _out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let (_drip, _echo) = (server(&to, 7000, "drip"), server(&to, 7001, "echo"));
        let mut link = drip(&from, &to);
        assert!(echoes(&from, &to));
        note(&inn, &["is due to be replaced at", "mesh.example CA"]);
        let said = assert_eventually("readiness falls", SOON, || {
            let (status, said) = inn.health("/readyz")?;
            (status == 503).then_some(said)
        });
        for part in [
            "mesh.example CA",
            "should have been replaced",
            "graceSeconds",
        ] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
        assert!(!echoes(&from, &to));
        assert!(link.is_running(), "a live link was cut: {}", link.stdout());
        publish(mesh, &[], "1h");
        inn.wait_until_ready().unwrap();
        assert!(echoes(&from, &to) && link.is_running(), "{}", link.stdout());
    });
}

#[test]
fn without_a_list_nothing_flows_and_a_bad_or_an_older_one_leaves_the_last_good_one_in_force() {
    in_a_mesh(|mesh| {
        let list = published(mesh);
        let (to, mut inn) = pod(mesh, "server", &from_file(mesh), "");
        let said = assert_eventually("it says what is missing", SOON, || {
            let (_, said) = inn.health("/readyz")?;
            said.contains("crl.pem").then_some(said)
        });
        assert!(said.contains("identity.revocation.crls"), "{said}");
        publish(mesh, &[], "1h");
        inn.wait_until_ready().unwrap();
        let older = fs::read_to_string(&list).unwrap();
        let (bad, out) = mesh.sealed_pod("bad", &Sealing::default()).unwrap();
        let _echo = server(&to, 7001, "echo");
        assert!(echoes(&bad, &to));
        publish(mesh, &[&out], "1h");
        assert_eventually("it is revoked", SOON, || (!echoes(&bad, &to)).then_some(()));
        mesh.write(&list, &older).unwrap();
        note(&inn, &["number 2 is in force", "last good one"]);
        mesh.write(&list, "nonsense").unwrap();
        note(&inn, &["no CRL in it", "last good one"]);
        assert!(!echoes(&bad, &to) && inn.is_ready());
    });
}

#[test]
fn a_bad_certificate_keeps_no_revocation_from_taking_effect() {
    in_a_mesh(|mesh| {
        publish(mesh, &[], "1h");
        let (to, mut inn) = pod(mesh, "server", &from_file(mesh), "");
        let (bad, out) = mesh.sealed_pod("bad", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let _drip = server(&to, 7000, "drip");
        let mut link = drip(&bad, &to);
        let tls = mesh.world().directory().join("server/tls.pem");
        let spoil = format!("echo nonsense > {}", tls.display());
        let spoilt = mesh.world().command("sh").args(["-c", &spoil]).run(SOON);
        assert!(spoilt.unwrap().success());
        note(&inn, &["tls.pem", "last good one"]);
        publish(mesh, &[&out], "1h");
        link.wait(SOON).expect("the link of the revoked peer ends");
        record(&inn, &[("outcome", "closed"), ("reason", "revocation")]);
        note(&inn, &["tls.pem", "last good one"]);
        assert!(inn.is_ready());
    });
}

#[test]
fn our_own_certificate_revoked_ends_everything_and_a_new_one_mends_it() {
    in_a_mesh(|mesh| {
        publish(mesh, &[], "1h");
        let (to, mut inn) = pod(mesh, "server", &from_file(mesh), "");
        let (from, _out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let (_drip, _echo) = (server(&to, 7000, "drip"), server(&to, 7001, "echo"));
        let mut link = drip(&from, &to);
        publish(mesh, &[&inn], "1h");
        link.wait(SOON).expect("the link ends");
        let said = inn.health("/readyz").unwrap().1;
        assert!(
            said.contains("own certificate") && said.contains("was revoked"),
            "{said}"
        );
        assert!(!echoes(&from, &to));
        mesh.issue(&to, &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        assert!(echoes(&from, &to));
    });
}

#[test]
fn a_list_is_fetched_from_a_declared_server_and_what_it_revokes_is_out() {
    in_a_mesh(|mesh| {
        publish(mesh, &[], "1h");
        let ca = mesh.world().pod("ca").unwrap();
        let web = ca.app("/usr/bin/python3");
        let web = web
            .args(["-m", "http.server", "8000", "--directory"])
            .args([published(mesh).parent().unwrap()])
            .spawn()
            .unwrap();
        assert_eventually("the server listens", SOON, || {
            ca.listens(8000).then_some(())
        });
        let by_url = format!(
            "crls: [{{ url: \"http://{}:8000/crl.pem\" }}], refreshSeconds: 1",
            ca.v4()
        );
        let declared = format!(
            "exceptions: [{{ name: lists, kind: passthrough, destination: {}/32, ports: [8000], \
             reason: revocation lists, owner: ca, expires: 2099-01-01T00:00:00Z }}]\n",
            ca.v4()
        );
        let (to, mut inn) = pod(mesh, "server", &by_url, &declared);
        let (bad, out) = mesh.sealed_pod("bad", &Sealing::default()).unwrap();
        inn.wait_until_ready().unwrap();
        let (_drip, _echo) = (server(&to, 7000, "drip"), server(&to, 7001, "echo"));
        let mut link = drip(&bad, &to);
        assert!(echoes(&bad, &to));
        publish(mesh, &[&out], "1h");
        link.wait(SOON).expect("the link of the revoked peer ends");
        record(&inn, &[("outcome", "closed"), ("reason", "revocation")]);
        assert!(!echoes(&bad, &to));
        // The server goes; what it gave stays in force.
        web.signal("KILL");
        note(&inn, &["cannot connect", "last good one"]);
        assert!(inn.is_ready() && !echoes(&bad, &to));
        // Whose server is not declared gets no list.
        let (_pod, undeclared) = pod(mesh, "other", &by_url, "");
        assert_eventually("it says what to declare", SOON, || {
            let said = undeclared.health("/readyz")?.1;
            said.contains("declare it under exceptions").then_some(())
        });
    });
}

#[test]
fn a_rule_that_goes_takes_its_live_links_along_on_either_side_and_no_others() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let (other, _other) = mesh.sealed_pod("other", &Sealing::default()).unwrap();
        let _drips = [&to, &other].map(|pod| server(pod, 7000, "drip"));
        let closed = |sidecar: &Sidecar, link: &mut Process| {
            link.wait(SOON).expect("the link ends");
            assert!(
                link.stdout().contains("ConnectionResetError"),
                "{}",
                link.stdout()
            );
            record(sidecar, &[("outcome", "closed"), ("reason", "epoch")]);
        };
        let mut stays = drip(&from, &other);
        // The server lets nobody in any more.
        let mut link = drip(&from, &to);
        let rules = mesh.config(&to, &Sealing::default());
        mesh.write(&inn.config, &rules.replace("/**", "/nobody"))
            .unwrap();
        closed(&inn, &mut link);
        mesh.write(&inn.config, &rules).unwrap();
        // The client expects somebody else at the server's address.
        let mut link = assert_eventually("it is let in again", SOON, || {
            inn.admin("/config")["inbound"]
                .to_string()
                .contains("/**")
                .then(|| drip(&from, &to))
        });
        let expects = format!(
            "mesh: {{ ranges: [198.18.0.0/16], services: [{{ destination: {}/32, identities: [\"spiffe://mesh.example/db\"] }}] }}",
            to.v4()
        );
        let rules = mesh.config(&from, &Sealing::default());
        let open = rules
            .lines()
            .find(|line| line.starts_with("mesh:"))
            .unwrap();
        mesh.write(&out.config, &rules.replace(open, &expects))
            .unwrap();
        closed(&out, &mut link);
        assert!(stays.is_running(), "{}", stays.stdout());
    });
}

#[test]
fn connections_between_two_pods_resume_and_the_record_says_so() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let _echo = server(&to, 7001, "echo");
        for _ in 0..5 {
            assert!(echoes(&from, &to));
        }
        let resumed = |sidecar: &Sidecar| {
            let records = sidecar.records().into_iter();
            records.filter(|record| record["resumed"] == true).count()
        };
        assert_eventually("four of five have resumed", SOON, || {
            (resumed(&out) == 4 && resumed(&inn) == 4).then_some(())
        });
        assert!(inn.metrics().contains("kind=\"resumed\""));
        // A change of the certificate on one side, and the next handshake is a full one.
        mesh.issue(&to, &Sealing::default()).unwrap();
        assert_eventually("the new certificate is in force", SOON, || {
            (inn.admin("/certificates")["epoch"] == 2).then_some(())
        });
        assert!(echoes(&from, &to) && echoes(&from, &to));
        assert_eventually("one of two has resumed", SOON, || {
            (resumed(&out) == 5 && resumed(&inn) == 5).then_some(())
        });
    });
}
