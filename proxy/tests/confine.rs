//! The sandbox, from inside. Each test runs itself again in a process of its own, which locks
//! itself in and tries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail loudly"
)]

use std::collections::{HashMap, HashSet};
use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netlink, socket};
use sealwire_evidence::record::SocketClass;
use sealwire_proxy::census::{Known, Taker, own_sockets};
use sealwire_proxy::config::Config;
use sealwire_proxy::confine::{Confinement, Measure, Report, confine};
use time::OffsetDateTime;

/// Runs the test again in a process of its own; true in that process.
fn inside(test: &str) -> bool {
    if env::var_os("SEALWIRE_TEST_INSIDE").is_some() {
        return true;
    }
    let again = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("SEALWIRE_TEST_INSIDE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned()
        + &String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{said}"
    );
    false
}

fn locked_in() -> Report {
    confine(&Confinement {
        landlock: true,
        seccomp: true,
        ..Confinement::default()
    })
}

#[test]
fn every_measure_is_in_force_and_said_to_be() {
    if inside("every_measure_is_in_force_and_said_to_be") {
        let report = locked_in();
        assert!(report.gaps().is_empty(), "{report:?}");
        let limits = fs::read_to_string("/proc/self/limits");
        assert!(limits.is_ok_and(|limits| {
            limits.contains("Max core file size        0                    0")
        }));
    }
}

#[test]
fn no_program_can_be_started() {
    if inside("no_program_can_be_started") {
        locked_in();
        let refused = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    }
}

#[test]
fn sockets_of_other_families_are_refused_and_those_for_ip_are_not() {
    if inside("sockets_of_other_families_are_refused_and_those_for_ip_are_not") {
        locked_in();
        for family in [
            AddressFamily::PACKET,
            AddressFamily::VSOCK,
            AddressFamily::BLUETOOTH,
            AddressFamily::XDP,
        ] {
            assert_eq!(
                socket(family, SocketType::DGRAM, None).unwrap_err(),
                Errno::PERM,
                "{family:?}"
            );
        }
        for family in [
            AddressFamily::INET,
            AddressFamily::INET6,
            AddressFamily::UNIX,
        ] {
            socket(family, SocketType::STREAM, None).unwrap();
        }
    }
}

#[test]
fn netlink_tells_of_sockets_and_does_nothing_else_but_routes() {
    if inside("netlink_tells_of_sockets_and_does_nothing_else_but_routes") {
        locked_in();
        let open = |kind| socket(AddressFamily::NETLINK, SocketType::RAW, kind);
        open(Some(netlink::SOCK_DIAG)).unwrap();
        // NETLINK_ROUTE, which is 0.
        open(None).unwrap();
        for kind in [netlink::NETFILTER, netlink::AUDIT, netlink::GENERIC] {
            assert_eq!(open(Some(kind)).unwrap_err(), Errno::PERM, "{kind:?}");
        }
    }
}

#[test]
fn a_census_can_be_taken() {
    if inside("a_census_can_be_taken") {
        locked_in();
        let text = include_str!("../src/config/example.yaml");
        let settings = Config::parse(text).unwrap().settings().unwrap();
        let known = Known {
            settings: Arc::new(settings),
            sockets: HashSet::new(),
            links: HashSet::new(),
            captured: HashMap::new(),
            exceptions: HashSet::new(),
            now: OffsetDateTime::now_utc(),
        };
        let before = own_sockets();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(own_sockets().difference(&before).count(), 1);
        let census = Taker::default().take(|| known.clone()).record;
        drop(listener);
        let told: Vec<_> = census.sockets.iter().map(|count| count.class).collect();
        assert!(told.contains(&SocketClass::Listening), "{census:?}");
        let missing = |what: &&str| census.unavailable.iter().any(|one| one.what == *what);
        let missing: Vec<_> = ["sockets", "counters", "other sockets"]
            .iter()
            .filter(|what| missing(what))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn files_outside_cannot_be_read_nor_anything_written() {
    if inside("files_outside_cannot_be_read_nor_anything_written") {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let allowed = tempfile::tempdir().unwrap();
        confine(&Confinement {
            landlock: true,
            read: vec![allowed.path().to_owned()],
            ..Confinement::default()
        });
        assert!(File::open(outside.path()).is_err());
        assert!(File::create(allowed.path().join("x")).is_err());
        assert!(fs::read_dir(allowed.path()).is_ok());
        assert!(File::open("/etc/passwd").is_ok());
        assert!(File::create("/etc/sealwire-test").is_err());
    }
}

#[test]
fn no_further_port_can_be_listened_on() {
    if inside("no_further_port_can_be_listened_on") {
        locked_in();
        let refused = TcpListener::bind("127.0.0.1:15999").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
        // A free port is what a connection that leaves takes.
        TcpListener::bind("127.0.0.1:0").unwrap();
    }
}

#[test]
fn what_is_switched_off_is_said() {
    if inside("what_is_switched_off_is_said") {
        let report = confine(&Confinement::default());
        assert!(
            matches!(report.landlock, Measure::Off(_)) && matches!(report.seccomp, Measure::Off(_))
        );
        assert_eq!(report.gaps().len(), 2);
    }
}
