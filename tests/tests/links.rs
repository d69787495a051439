//! Sealed links between two pods, end to end: what an application may rely on, wherever the keys are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::time::Duration;

use sealwire_pods::{Sidecar, assert_eventually};
use sealwire_tests::{
    LONG, SOON, client, record, server, server_on, with_each_home, with_each_home_and_privilege,
};

#[test]
fn bytes_between_two_pods_are_sealed_over_ipv4_and_ipv6_and_each_connection_has_a_record() {
    with_each_home_and_privilege(|home| {
        let [(from, out), (to, inn)] = home.pair();
        let _echo = server(&to, 7000, "echo");
        let capture = home.mesh().world().capture(&to).unwrap();
        for address in [to.v4(), to.v6()] {
            let answer = client(&from, address, 7000, "echo").run(SOON).unwrap();
            assert_eq!(
                answer.stdout.trim(),
                "there and back",
                "{}",
                out.process.stdout()
            );
            let destination = std::net::SocketAddr::new(address, 7000).to_string();
            let sent = record(
                &out,
                &[("outcome", "complete"), ("destination", &destination)],
            );
            assert_eq!(sent["peer"], home.id("server"));
            assert_eq!((&sent["sent"], &sent["received"]), (&14.into(), &14.into()));
        }
        let wire = capture.stop().unwrap();
        assert_eq!(
            (wire.plaintext_bytes, wire.missing_bytes),
            (0, 0),
            "{:#?}",
            wire.flows
        );
        assert!(wire.tls_bytes > 1000);
        assert!(!wire.contains(b"there and back"));
        let received = record(&inn, &[("outcome", "complete")]);
        assert_eq!(received["peer"], home.id("client"));
        assert_eq!(received["version"], "TLSv1_3");
        assert_eq!(received["group"], "X25519MLKEM768");
        assert_eq!(received["key"], home.key("server"));
    });
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    with_each_home(|home| {
        let [(from, _out), (to, _inn)] = home.pair();
        let _application = server(&to, 7000, "speaks-first");
        let answer = client(&from, to.v4(), 7000, "listen").run(SOON).unwrap();
        assert_eq!(answer.stdout.trim(), "ready");
    });
}

#[test]
fn each_direction_ends_by_itself() {
    with_each_home(|home| {
        let [(from, _out), (to, _inn)] = home.pair();
        // The client ends first and still gets its answer.
        let _digest = server(&to, 7000, "digest");
        let answer = client(&from, to.v4(), 7000, "digest").run(LONG).unwrap();
        assert_eq!(answer.stdout.trim(), "same");
        // The server ends first and still gets what the client sends.
        let log = server(&to, 7001, "ends-first");
        let answer = client(&from, to.v4(), 7001, "after-their-end")
            .run(SOON)
            .unwrap();
        assert_eq!(answer.stdout.trim(), "sent");
        assert_eventually("what was sent arrives", SOON, || {
            log.stdout()
                .contains("sent after their end<end>")
                .then_some(())
        });
    });
}

#[test]
fn a_hundred_megabytes_arrive_unchanged_in_either_direction() {
    with_each_home(|home| {
        let [(from, _out), (to, inn)] = home.pair();
        let _digest = server(&to, 7000, "digest");
        let _source = server(&to, 7001, "source");
        for address in [to.v4(), to.v6()] {
            for (port, mode) in [(7000, "digest"), (7001, "source")] {
                let answer = client(&from, address, port, mode).run(LONG).unwrap();
                assert_eq!(answer.stdout.trim(), "same", "{mode} over {address}");
            }
        }
        let moved = record(&inn, &[("outcome", "complete")]);
        let total = moved["sent"].as_u64().unwrap() + moved["received"].as_u64().unwrap();
        assert!(total >= 100 << 20, "{moved}");
    });
}

#[test]
fn a_thousand_connections_at_once_are_all_served() {
    with_each_home(|home| {
        let [(from, out), (to, _inn)] = home.pair();
        let _echo = server(&to, 7000, "echo");
        let answer = client(&from, to.v4(), 7000, "many").run(LONG).unwrap();
        assert_eq!(answer.stdout.trim(), "1000 of 1000");
        assert_eventually("each has ended well", SOON, || {
            let metrics = out.metrics();
            metrics.contains("outcome=\"complete\"} 1000").then_some(())
        });
    });
}

#[test]
fn the_pods_own_address_is_reached_without_leaving_the_pod() {
    with_each_home(|home| {
        let [(pod, _sidecar), _] = home.pair();
        let _echo = server(&pod, 7000, "echo");
        for address in [pod.v4(), pod.v6()] {
            let answer = client(&pod, address, 7000, "echo").run(SOON).unwrap();
            assert_eq!(answer.stdout.trim(), "there and back");
        }
    });
}

#[test]
fn what_listens_on_loopback_is_not_reached_from_outside() {
    with_each_home(|home| {
        let [(from, _out), (to, inn)] = home.pair();
        let private = server_on(&to, "127.0.0.1", 7000, "log");
        let answer = client(&from, to.v4(), 7000, "echo").run(SOON).unwrap();
        assert!(!answer.success());
        record(&inn, &[("reason", "application_unreachable")]);
        assert_eq!(private.stdout(), "");
        // The application itself reaches it as ever.
        let own = client(&to, "127.0.0.1", 7000, "echo").run(SOON).unwrap();
        assert!(own.success(), "{}", own.stdout);
    });
}

#[test]
fn a_link_that_is_cut_reaches_the_application_as_a_reset_and_never_as_a_clean_end() {
    with_each_home(|home| {
        let [(from, out), (to, inn)] = home.pair();
        let _drip = server(&to, 7000, "drip");
        let mut reader = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        assert_eventually("bytes flow", SOON, || {
            reader.stdout().contains("reading").then_some(())
        });
        inn.process.signal("KILL");
        reader.wait(SOON).expect("the reader ends");
        assert!(
            reader.stdout().contains("ConnectionResetError"),
            "{}",
            reader.stdout()
        );
        record(&out, &[("outcome", "reset")]);
    });
}

#[test]
fn two_signatures_serve_all_connections_of_a_pair_one_on_each_side() {
    with_each_home(|home| {
        let [(from, out), (to, inn)] = home.pair();
        let _echo = server(&to, 7000, "echo");
        let count = |sidecar: &Sidecar| sidecar.admin("/custody")["signatures"].as_u64().unwrap();
        let before = (count(&out), count(&inn));
        for _ in 0..5 {
            assert!(
                client(&from, to.v4(), 7000, "echo")
                    .run(Duration::from_secs(10))
                    .unwrap()
                    .success()
            );
        }
        // The first handshake is a full one, and the others resume it.
        assert_eq!((count(&out), count(&inn)), (before.0 + 1, before.1 + 1));
    });
}
