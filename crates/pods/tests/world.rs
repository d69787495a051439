//! The worlds themselves: what can speak, who is who, and that nothing is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::path::Path;
use std::time::Duration;

use sealwire_pods::{Privilege, World, assert_eventually};

const SOON: Duration = Duration::from_secs(10);

fn with_each_privilege(test: impl Fn(World)) {
    for privilege in Privilege::available() {
        test(World::new(privilege).unwrap());
    }
}

#[test]
fn two_pods_speak_over_both_families_and_the_capture_sees_every_byte() {
    with_each_privilege(|world| {
        let (one, other) = (world.pod("one").unwrap(), world.pod("other").unwrap());
        let capture = world.capture(&other).unwrap();
        for (address, family) in [(other.v4(), "TCP4"), (other.v6(), "TCP6")] {
            let listen = format!("{family}-LISTEN:7000,reuseaddr");
            let server = other
                .app("socat")
                .args(["-u", &listen, "STDOUT"])
                .spawn()
                .unwrap();
            assert_eventually("socat listens", SOON, || other.listens(7000).then_some(()));
            let target = match address {
                std::net::IpAddr::V4(v4) => format!("TCP4:{v4}:7000"),
                std::net::IpAddr::V6(v6) => format!("TCP6:[{v6}]:7000"),
            };
            let sent = one
                .app("socat")
                .args(["-u", "STDIN", &target])
                .input("in the clear")
                .run(SOON)
                .unwrap();
            assert!(sent.success(), "{}", sent.stderr);
            assert_eventually("it arrives", SOON, || {
                (server.stdout() == "in the clear").then_some(())
            });
        }
        let wire = capture.stop().unwrap();
        assert_eq!(
            (wire.plaintext_bytes, wire.tls_bytes, wire.missing_bytes),
            (24, 0, 0)
        );
        assert!(wire.contains(b"in the clear"));
    });
}

#[test]
fn users_differ_and_applications_have_no_capability() {
    with_each_privilege(|world| {
        let pod = world.pod("pod").unwrap();
        for uid in [1000, 1337] {
            let id = pod.command("id").user(uid).args(["-u"]).run(SOON).unwrap();
            assert_eq!(id.stdout.trim(), uid.to_string());
        }
        let refused = pod.app("nft").args(["list", "ruleset"]).run(SOON).unwrap();
        assert!(!refused.success());
        let allowed = pod
            .command("nft")
            .args(["list", "ruleset"])
            .run(SOON)
            .unwrap();
        assert!(allowed.success(), "{}", allowed.stderr);
    });
}

#[test]
fn a_world_leaves_no_process_and_no_file_behind() {
    with_each_privilege(|world| {
        let pod = world.pod("pod").unwrap();
        let directory = world.directory().to_owned();
        let mut sleeper = pod.app("sleep").args(["1000"]).spawn().unwrap();
        assert!(sleeper.is_running());
        let pid = sleeper.pid();
        drop(sleeper);
        drop(pod);
        drop(world);
        assert!(!directory.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    });
}
