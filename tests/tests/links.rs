//! Sealed links between two pods, end to end: what an operator is promised, sentence by sentence.

use sealwire_pods::{Sealing, assert_eventually};
use sealwire_tests::{SOON, http_server, with_each_privilege};

#[test]
fn http_between_two_pods_is_sealed_over_ipv4_and_ipv6() {
    with_each_privilege(|mesh| {
        let (client, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (server, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let _application = http_server(&server, 8080, "hello from behind the seal");
        let capture = mesh.world().capture(&server).unwrap();
        for address in [server.v4().to_string(), format!("[{}]", server.v6())] {
            let answer = client
                .app("curl")
                .args(["-sS", "-m", "10", &format!("http://{address}:8080/")])
                .run(SOON)
                .unwrap();
            assert_eq!(
                answer.stdout,
                "hello from behind the seal",
                "{}{}",
                answer.stderr,
                out.process.stdout()
            );
        }
        let wire = capture.stop().unwrap();
        assert_eq!(
            (wire.plaintext_bytes, wire.missing_bytes),
            (0, 0),
            "{:#?}",
            wire.flows
        );
        assert!(wire.tls_bytes > 1000);
        assert!(!wire.contains(b"hello from behind the seal"));
        let record = assert_eventually("the record", SOON, || {
            inn.records()
                .into_iter()
                .find(|record| record["outcome"] == "complete")
        });
        assert_eq!(record["peer"], "spiffe://mesh.example/ns/demo/sa/client");
        assert_eq!(record["version"], "TLSv1_3");
        assert_eq!(record["group"], "X25519MLKEM768");
    });
}
