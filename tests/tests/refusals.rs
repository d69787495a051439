//! Who is refused, in and out: each with its reason in log and metric, and without one byte to or
//! from an application.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use sealwire_pods::{Mesh, Pod, Process, Sidecar, assert_eventually};
use sealwire_tests::peers::{Peer, of_another_ca, of_the_mesh, s_client, s_server};
use sealwire_tests::{Home, SOON, client, curl, in_a_mesh, record, server, with_each_home};

const STRANGER: &str = "spiffe://mesh.example/ns/demo/sa/stranger";

/// A sealed server whose application writes down what it gets, and a pod without a sidecar.
struct Scene {
    stranger: Pod,
    server: Pod,
    sidecar: Sidecar,
    application: Process,
}

impl Scene {
    fn set(home: &Home<'_>) -> Self {
        home.trust_peers();
        let (pod, sidecar) = home.sealed("server");
        Self {
            stranger: home.mesh().world().pod("stranger").unwrap(),
            application: server(&pod, 7000, "log"),
            server: pod,
            sidecar,
        }
    }

    /// Dials with a certificate and sends; what came of it has to be a refusal for `reason`.
    fn refuses(&self, mesh: &Mesh, peer: Option<&Peer>, reason: &str, detail: &[&str]) {
        let address = format!("{}:7000", self.server.v4());
        // In TLS 1.3 a client learns of its refusal after it may have sent.
        s_client(mesh, &self.stranger, &address, peer)
            .input("not one byte of this\n")
            .run(SOON)
            .unwrap();
        let refusal = record(
            &self.sidecar,
            &[("reason", reason), ("direction", "inbound")],
        );
        let said = refusal["detail"].as_str().unwrap();
        for part in detail {
            assert!(said.contains(part), "{said} does not name {part}");
        }
        assert_eq!(
            self.application.stdout(),
            "",
            "the application got something"
        );
        let metric = format!("sealwire_refused_total{{direction=\"inbound\",reason=\"{reason}\"}}");
        assert!(
            self.sidecar.metrics().contains(&metric),
            "{}",
            self.sidecar.metrics()
        );
    }
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    with_each_home(|home| {
        let scene = Scene::set(home);
        let detail = ["workloads of the mesh"];
        scene.refuses(home.mesh(), None, "no_certificate", &detail);
    });
}

#[test]
fn a_peer_from_another_ca_is_refused() {
    with_each_home(|home| {
        let (mesh, scene) = (home.mesh(), Scene::set(home));
        let peer = of_another_ca(mesh, "other", STRANGER, &scene.stranger.v4().to_string());
        scene.refuses(mesh, Some(&peer), "unknown_issuer", &["identity.bundle"]);
    });
}

#[test]
fn a_peer_of_another_trust_domain_is_refused() {
    with_each_home(|home| {
        let (mesh, scene) = (home.mesh(), Scene::set(home));
        let peer = of_the_mesh(
            mesh,
            "foreign",
            &["--spiffe-id", "spiffe://other.example/web"],
        );
        scene.refuses(mesh, Some(&peer), "trust_domain", &["other.example"]);
    });
}

#[test]
fn an_expired_peer_and_one_not_yet_valid_are_refused_with_both_times() {
    with_each_home(|home| {
        let (mesh, scene) = (home.mesh(), Scene::set(home));
        let times = |name, from, to| {
            let arguments = [
                "--spiffe-id",
                STRANGER,
                "--unsafe-not-before",
                from,
                "--unsafe-not-after",
                to,
            ];
            of_the_mesh(mesh, name, &arguments)
        };
        let expired = times("expired", "2020-01-01T00:00:00Z", "2020-02-01T00:00:00Z");
        scene.refuses(mesh, Some(&expired), "expired", &["2020-02-01", "now is"]);
        let early = times("early", "2090-01-01T00:00:00Z", "2090-02-01T00:00:00Z");
        scene.refuses(
            mesh,
            Some(&early),
            "not_yet_valid",
            &["2090-01-01", "now is"],
        );
    });
}

#[test]
fn a_peer_with_two_spiffe_ids_is_refused() {
    with_each_home(|home| {
        let (mesh, scene) = (home.mesh(), Scene::set(home));
        let second = "spiffe://mesh.example/ns/demo/sa/admin";
        let peer = of_the_mesh(
            mesh,
            "two",
            &["--spiffe-id", STRANGER, "--unsafe-extra-uri", second],
        );
        scene.refuses(mesh, Some(&peer), "uri_names", &["2 URI names"]);
    });
}

#[test]
fn plaintext_that_comes_in_is_refused() {
    with_each_home(|home| {
        let scene = Scene::set(home);
        for address in [
            scene.server.v4().to_string(),
            format!("[{}]", scene.server.v6()),
        ] {
            let answer = curl(&scene.stranger, &[&format!("http://{address}:7000/")]);
            assert!(!answer.success());
        }
        record(&scene.sidecar, &[("reason", "plaintext")]);
        assert_eq!(scene.application.stdout(), "");
    });
}

#[test]
fn a_peer_of_the_mesh_that_no_rule_allows_is_refused_by_identity_and_port() {
    with_each_home(|home| {
        let (mesh, _) = home.open_mesh().split_once("inbound:").unwrap();
        let rule = format!("{{ from: [\"{}\"], ports: [7000] }}", home.id("client"));
        let guarded = format!("{mesh}inbound: {{ allow: [{rule}] }}");
        let (to, inn) = home.sealed_with("server", &guarded);
        let (friend, out) = home.sealed("client");
        let (other, _others) = home.sealed("other");
        let allowed = server(&to, 7000, "echo");
        let closed = server(&to, 7001, "log");
        let answer = client(&friend, to.v4(), 7000, "echo").run(SOON).unwrap();
        assert!(answer.success(), "{:#?}{:#?}", out.records(), inn.records());
        for (pod, port) in [(&friend, 7001), (&other, 7000)] {
            assert!(
                !client(pod, to.v4(), port, "echo")
                    .run(SOON)
                    .unwrap()
                    .success()
            );
            let destination = format!("{}:{port}", to.v4());
            let refusal = record(
                &inn,
                &[("reason", "not_allowed"), ("destination", &destination)],
            );
            let said = refusal["detail"].as_str().unwrap();
            assert!(
                said.contains(pod.name()) && said.contains(&port.to_string()),
                "{said}"
            );
        }
        assert_eq!(closed.stdout(), "");
        drop(allowed);
    });
}

/// Dials from a sealed pod to a server of our own making in a pod without a sidecar.
fn refuses_who_answers(
    home: &Home<'_>,
    make: impl Fn(&Pod) -> Peer,
    reason: &str,
    detail: &[&str],
) {
    let mesh = home.mesh();
    home.trust_peers();
    let (from, out) = home.sealed("client");
    let stranger = mesh.world().pod("stranger").unwrap();
    let peer = make(&stranger);
    let answering = s_server(mesh, &stranger, 7000, &peer).spawn().unwrap();
    assert_eventually("openssl listens", SOON, || {
        stranger.listens(7000).then_some(())
    });
    let answer = client(&from, stranger.v4(), 7000, "echo")
        .run(SOON)
        .unwrap();
    assert!(!answer.success(), "{}", answer.stdout);
    let refusal = record(&out, &[("reason", reason), ("direction", "outbound")]);
    let said = refusal["detail"].as_str().unwrap();
    for part in detail {
        assert!(said.contains(part), "{said} does not name {part}");
    }
    assert!(!answering.stdout().contains("there and back"));
}

#[test]
fn a_workload_that_answers_at_anothers_address_is_refused_with_both_addresses() {
    in_a_mesh(|mesh| {
        let elsewhere = |_: &Pod| {
            of_the_mesh(
                mesh,
                "elsewhere",
                &["--spiffe-id", STRANGER, "--ip", "198.18.0.99"],
            )
        };
        refuses_who_answers(
            &Home::Tokens(mesh),
            elsewhere,
            "address",
            &["198.18.0.99", "198.18.0.11"],
        );
    });
}

#[test]
fn a_server_from_another_ca_is_refused() {
    with_each_home(|home| {
        let mesh = home.mesh();
        let other = |pod: &Pod| of_another_ca(mesh, "other", STRANGER, &pod.v4().to_string());
        refuses_who_answers(home, other, "unknown_issuer", &[]);
    });
}

#[test]
fn an_expired_server_is_refused() {
    with_each_home(|home| {
        let mesh = home.mesh();
        let expired = |pod: &Pod| {
            let address = pod.v4().to_string();
            let times = [
                "--unsafe-not-before",
                "2020-01-01T00:00:00Z",
                "--unsafe-not-after",
                "2020-02-01T00:00:00Z",
            ];
            of_the_mesh(
                mesh,
                "expired",
                &[&["--spiffe-id", STRANGER, "--ip", &address], &times[..]].concat(),
            )
        };
        refuses_who_answers(home, expired, "expired", &["2020-02-01"]);
    });
}

#[test]
fn a_server_behind_a_shared_address_has_to_be_who_the_rule_expects() {
    with_each_home(|home| {
        let mesh = home.mesh();
        home.trust_peers();
        let stranger = mesh.world().pod("stranger").unwrap();
        let address = stranger.v4();
        let expecting = |name: &str| {
            format!(
                "mesh: {{ services: [{{ destination: {address}/32, ports: [7000], identities: [\"{name}\"] }}] }}"
            )
        };
        let (wrong, out) =
            home.sealed_with("client", &expecting("spiffe://mesh.example/ns/shop/**"));
        let (right, rights) = home.sealed_with("server", &expecting(STRANGER));
        let peer = of_the_mesh(mesh, "stranger", &["--spiffe-id", STRANGER]);
        let listen = || {
            let process = s_server(mesh, &stranger, 7000, &peer).spawn().unwrap();
            assert_eventually("openssl listens", SOON, || {
                stranger.listens(7000).then_some(())
            });
            process
        };
        let answering = listen();
        client(&wrong, address, 7000, "echo").run(SOON).unwrap();
        let refusal = record(&out, &[("reason", "identity")]);
        let said = refusal["detail"].as_str().unwrap();
        assert!(
            said.contains(STRANGER) && said.contains("ns/shop/**"),
            "{said}"
        );
        assert!(!answering.stdout().contains("there and back"));
        drop(answering);
        let _answering = listen();
        client(&right, address, 7000, "echo").run(SOON).unwrap();
        let record = record(&rights, &[("treatment", "seal")]);
        assert_eq!(record["peer"], STRANGER);
    });
}

#[test]
fn an_unknown_destination_and_an_expired_exception_are_refused_with_the_way_out() {
    with_each_home(|home| {
        let (mesh, _) = home.open_mesh().split_once("inbound:").unwrap();
        let sections = format!(
            "{mesh}
exceptions:
  - {{ name: old, kind: passthrough, destination: 198.18.0.99/32, ports: [80], reason: r, owner: team-a, expires: 2026-01-01T00:00:00Z }}"
        );
        let (pod, out) = home.sealed_with("client", &sections);
        for address in ["203.0.113.9", "[2001:db8:1::9]"] {
            assert!(!curl(&pod, &[&format!("http://{address}/")]).success());
        }
        let refusal = record(
            &out,
            &[("reason", "undeclared"), ("destination", "203.0.113.9:80")],
        );
        assert!(
            refusal["detail"]
                .as_str()
                .unwrap()
                .contains("mesh.services"),
            "{refusal}"
        );
        record(
            &out,
            &[
                ("reason", "undeclared"),
                ("destination", "[2001:db8:1::9]:80"),
            ],
        );
        assert!(!curl(&pod, &["http://198.18.0.99/"]).success());
        let refusal = record(&out, &[("reason", "exception_expired")]);
        assert!(
            refusal["detail"].as_str().unwrap().contains("team-a"),
            "{refusal}"
        );
    });
}

#[test]
fn exceptions_pass_what_they_declare_and_no_more() {
    with_each_home(|home| {
        let mesh = home.mesh();
        let outside = mesh.world().pod("outside").unwrap();
        let rule = |name: &str, kind: &str, port: u16| {
            format!(
                "  - {{ name: {name}, kind: {kind}, destination: {}/32, ports: [{port}], reason: r, owner: o, expires: 2099-01-01T00:00:00Z }}\n",
                outside.v4()
            )
        };
        let sections = format!(
            "exceptions:\n{}{}{}",
            rule("plain", "passthrough", 7000),
            rule("tls", "require-tls", 7443),
            rule("tls-to-plain", "require-tls", 7002)
        );
        let (pod, out) = home.sealed_with("client", &sections);
        let _echo = server(&outside, 7000, "echo");
        let _other = server(&outside, 7001, "echo");
        let plain = server(&outside, 7002, "log");
        assert!(
            client(&pod, outside.v4(), 7000, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        record(&out, &[("treatment", "passthrough"), ("rule", "plain")]);
        assert!(
            !client(&pod, outside.v4(), 7001, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );

        let peer = of_another_ca(mesh, "outside", STRANGER, &outside.v4().to_string());
        let _tls = outside
            .app("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", "7443", "-cert"])
            .args([&peer.certificate])
            .args(["-key"])
            .args([&peer.key])
            .spawn()
            .unwrap();
        assert_eventually("openssl listens", SOON, || {
            outside.listens(7443).then_some(())
        });
        let url = format!("https://{}:7443/", outside.v4());
        for (version, observed) in [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")] {
            let answer = curl(&pod, &["-k", "--tls-max", version, &url]);
            assert!(answer.success(), "{}", answer.stderr);
            assert_eventually("what was negotiated is recorded", SOON, || {
                out.records().into_iter().find(|record| {
                    record["observed_tls"]
                        .as_str()
                        .is_some_and(|seen| seen.starts_with(observed))
                })
            });
        }
        assert!(
            !client(&pod, outside.v4(), 7002, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        record(&out, &[("reason", "no_tls")]);
        assert_eq!(plain.stdout().replace("<end>", "").trim(), "");
    });
}
