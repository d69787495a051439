//! Any mutual TLS peer with a certificate of the mesh can speak with a sealed pod, and none
//! without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use sealwire_pods::{Sealing, assert_eventually};
use sealwire_tests::peers::{of_the_mesh, s_client, s_server};
use sealwire_tests::{SOON, in_a_mesh, python, record, server};

const GATEWAY: &str = "spiffe://mesh.example/ns/edge/sa/gateway";

#[test]
fn openssl_with_a_certificate_of_the_mesh_reaches_a_sealed_application() {
    in_a_mesh(|mesh| {
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let gateway = mesh.world().pod("gateway").unwrap();
        let _application = server(&to, 7000, "speaks-first");
        let peer = of_the_mesh(mesh, "gateway", &["--spiffe-id", GATEWAY]);
        for address in [format!("{}:7000", to.v4()), format!("[{}]:7000", to.v6())] {
            let openssl = s_client(mesh, &gateway, &address, Some(&peer))
                .spawn()
                .unwrap();
            assert_eventually("what the application says first arrives", SOON, || {
                openssl.stdout().contains("ready").then_some(())
            });
        }
        let sealed = record(&inn, &[("treatment", "seal")]);
        assert_eq!(sealed["peer"], GATEWAY);
    });
}

#[test]
fn a_sealed_application_reaches_openssl_with_a_certificate_of_the_mesh() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let gateway = mesh.world().pod("gateway").unwrap();
        let address = gateway.v4().to_string();
        let peer = of_the_mesh(mesh, "gateway", &["--spiffe-id", GATEWAY, "--ip", &address]);
        // Sends each line back, reversed.
        let _openssl = s_server(mesh, &gateway, 7000, &peer)
            .args(["-rev"])
            .spawn()
            .unwrap();
        assert_eventually("openssl listens", SOON, || {
            gateway.listens(7000).then_some(())
        });
        let script = format!(
            "import socket\ns = socket.create_connection(('{address}', 7000), 10)\n\
             s.sendall(b'sealed\\n')\nprint(s.makefile().readline())"
        );
        let answer = python(&from, &script);
        assert_eq!(answer.stdout.trim(), "delaes", "{}", answer.stderr);
        let sealed = record(&out, &[("treatment", "seal")]);
        assert_eq!(sealed["peer"], GATEWAY);
    });
}

#[test]
fn a_sealed_application_does_not_speak_to_a_tls_server_of_anybody_else() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let stranger = mesh.world().pod("stranger").unwrap();
        let made = stranger
            .app("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1 -subj /CN=x -keyout /tmp/sealwire-x.key -out /tmp/sealwire-x.pem".split(' '))
            .run(SOON)
            .unwrap();
        assert!(made.success(), "{}", made.stderr);
        let _openssl = stranger
            .app("openssl")
            .args("s_server -accept 7000 -rev -quiet -key /tmp/sealwire-x.key -cert /tmp/sealwire-x.pem".split(' '))
            .spawn()
            .unwrap();
        assert_eventually("openssl listens", SOON, || {
            stranger.listens(7000).then_some(())
        });
        let script = format!(
            "import socket\ns = socket.create_connection(('{}', 7000), 10)\nprint(s.recv(1))",
            stranger.v4()
        );
        assert!(!python(&from, &script).success());
        let refusal = record(&out, &[("outcome", "refused")]);
        let said = refusal["detail"].as_str().unwrap();
        assert!(said.starts_with("peer refused"), "{said}");
    });
}
