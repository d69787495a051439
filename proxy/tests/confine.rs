//! The sandbox, from inside. Each test runs itself again in a process of its own, which locks
//! itself in and tries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail loudly"
)]

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use sealwire_proxy::confine::{Confinement, Measure, Report, confine};

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
