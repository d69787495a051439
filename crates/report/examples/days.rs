//! Makes logs of pods that never ran, through the real writer and by a clock of its own: to see
//! what a report looks like, and how it grows. `scripts/report` uses it.
//!
//! `days scale DIR PODS HOURS` is many pods that talk to ten others each; `days november DIR` is a
//! month with everything in it that a report can show, and `days calm DIR` one without a fault.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for developers, which fails loudly"
)]

#[path = "../tests/shared/days.rs"]
#[allow(dead_code, reason = "each of its users needs a part of it")]
mod days;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use sealwire_evidence::record::{
    Bytes, Direction, Event, ExceptionUse, Gap, GapCause, Process, Protocol, Refusal, RefusalCount,
    Socket, SocketClass, SocketCount, Window,
};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use days::{Logging, Mesh, accepted, exception, opened};

const NOVEMBER: OffsetDateTime = datetime!(2026-11-01 00:00 UTC);
const DAY: OffsetDateTime = datetime!(2026-11-25 00:00 UTC);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The same logs each time, but for keys and signatures.
    fastrand::seed(7);
    match arguments.as_slice() {
        ["scale", directory, pods, hours] => scale(
            Path::new(directory),
            pods.parse().unwrap(),
            hours.parse().unwrap(),
        ),
        ["november", directory] => Month::new(Path::new(directory)).with_everything(),
        ["calm", directory] => Month::new(Path::new(directory)).without_a_fault(),
        _ => panic!("days scale DIR PODS HOURS | november DIR | calm DIR"),
    }
}

/// Pods of as many workloads as there are tens of them, each with a window a minute.
fn scale(root: &Path, pods: usize, hours: u32) {
    let mesh = Mesh::new(root);
    let workload = |pod: usize| format!("load/w{}", pod / 10);
    let identity = |pod: usize| format!("spiffe://mesh.example/ns/load/sa/w{}", pod / 10);
    let address = |pod: usize| format!("198.18.{}.{}:8080", pod / 250, pod % 250 + 1);
    let mut list = String::new();
    let (mut connections, mut bytes) = (0_u64, 0_u64);
    for pod in 0..pods {
        let name = format!("pod-{pod:04}");
        let mut log = mesh.pod(&workload(pod), &name, DAY);
        writeln!(list, "load {name} {}", log.pod.uid).unwrap();
        for minute in 0..hours * 60 {
            let window = empty();
            let mut links = Vec::new();
            for step in 1..=5_usize {
                let to = (pod + step * 7) % pods;
                let from = (pod + pods * 7 - step * 7) % pods;
                links.push(opened(
                    &log,
                    &identity(to),
                    &address(to),
                    &window,
                    3,
                    30_000,
                ));
                links.push(accepted(
                    &log,
                    &identity(from),
                    &address(pod),
                    &window,
                    3,
                    30_000,
                ));
                connections += 3;
                bytes += 30_000;
            }
            log.window(Duration::MINUTE, |window| {
                for mut link in links {
                    (link.first, link.last) = (window.from, window.to);
                    window.links.push(link);
                }
            });
            if minute % 60 == 59 {
                log.custody();
            }
        }
        log.stop();
    }
    fs::write(root.join("pods.txt"), list).unwrap();
    println!("{pods} pods, {hours} h: {connections} connections, {bytes} bytes");
}

fn empty() -> Window {
    Window {
        from: DAY.into(),
        to: DAY.into(),
        part: 1,
        parts: 1,
        links: Vec::new(),
        exceptions: Vec::new(),
        refusals: Vec::new(),
        census: None,
        aggregated: None,
    }
}

/// November 2026 in a shop.
struct Month {
    mesh: Mesh,
    root: std::path::PathBuf,
    list: String,
}

/// Who opens connections to whom: workloads, address, connections and bytes each window.
const TALK: [(&str, &str, &str, u64, u64); 11] = [
    (
        "edge/gateway",
        "shop/web",
        "198.18.0.11:8080",
        420,
        61_000_000,
    ),
    ("shop/web", "shop/api", "198.18.0.12:8080", 380, 22_000_000),
    (
        "shop/web",
        "shop/search",
        "198.18.0.13:9200",
        95,
        18_500_000,
    ),
    ("shop/api", "shop/cart", "198.18.0.14:8080", 140, 3_100_000),
    (
        "shop/api",
        "shop/catalog",
        "198.18.0.15:8080",
        210,
        12_800_000,
    ),
    ("shop/cart", "pay/payments", "198.18.0.16:8443", 17, 240_000),
    (
        "pay/payments",
        "pay/ledger",
        "198.18.0.17:5432",
        17,
        310_000,
    ),
    (
        "shop/catalog",
        "data/postgres",
        "198.18.0.18:5432",
        9,
        4_400_000,
    ),
    ("shop/cart", "data/postgres", "198.18.0.18:5432", 6, 900_000),
    ("ops/metrics", "shop/api", "198.18.0.12:9100", 10, 120_000),
    (
        "ops/metrics",
        "pay/payments",
        "198.18.0.16:9100",
        10,
        110_000,
    ),
];

const WORKLOADS: [&str; 10] = [
    "edge/gateway",
    "shop/web",
    "shop/api",
    "shop/search",
    "shop/cart",
    "shop/catalog",
    "pay/payments",
    "pay/ledger",
    "data/postgres",
    "ops/metrics",
];

/// Windows of a day; they are half an hour long here.
const OF_A_DAY: u32 = 48;

impl Month {
    fn new(root: &Path) -> Self {
        let mut mesh = Mesh::new(root);
        mesh.window = Duration::minutes(30);
        Self {
            mesh,
            root: root.to_owned(),
            list: String::new(),
        }
    }

    fn without_a_fault(mut self) {
        for workload in WORKLOADS {
            let mut log = self.begin(workload, NOVEMBER, vec![dns()]);
            for day in 0..30 {
                busy(&mut log, workload, OF_A_DAY);
                if day % 7 == 6 {
                    log.rotate(&self.mesh);
                }
            }
            log.idle(1);
        }
        self.end();
    }

    fn with_everything(mut self) {
        for workload in WORKLOADS {
            let exceptions = match workload {
                "shop/catalog" => vec![dns(), old_database()],
                "pay/payments" => vec![dns(), partner(), retired()],
                _ => vec![dns()],
            };
            let from = match workload {
                // Came with a release on the 9th.
                "shop/search" => NOVEMBER + Duration::days(8),
                _ => NOVEMBER,
            };
            let mut log = self.begin(workload, from, exceptions);
            let days = (NOVEMBER + Duration::days(30) - from).whole_days();
            for day in 0..days {
                log = Self::day(log, workload, day, &self.mesh);
            }
            if workload == "ops/metrics" {
                // Is never heard of again.
                drop(log);
            } else {
                log.idle(1);
            }
        }
        // Ran, by the list, and left no log.
        self.list.push_str("batch report-28461 0f61\n");
        self.end();
    }

    fn day(mut log: Logging, workload: &str, day: i64, mesh: &Mesh) -> Logging {
        match (workload, day) {
            ("pay/payments", 11) => {
                // Killed for memory, and back after four minutes.
                busy(&mut log, workload, 20);
                log = log.crash(Duration::minutes(4));
                busy(&mut log, workload, 27);
                log.window(Duration::minutes(26), |_| {});
            }
            ("data/postgres", 17) => {
                busy(&mut log, workload, 10);
                log.gap(Gap {
                    cause: GapCause::Unsigned,
                    from: (log.until() - Duration::hours(2)).into(),
                    to: log.until().into(),
                    lost: Some(0),
                    detail: "the device answered CKR_DEVICE_REMOVED until 05:00".to_owned(),
                });
                busy(&mut log, workload, 38);
            }
            ("shop/catalog", 20) => {
                busy(&mut log, workload, 30);
                log.window(Duration::minutes(30), |window| {
                    let census = window.census.as_mut().unwrap();
                    census.sockets.push(SocketCount {
                        protocol: Protocol::Udp,
                        class: SocketClass::Unaccounted,
                        count: 1,
                    });
                    census.unaccounted.push(strange_socket());
                });
                busy(&mut log, workload, 17);
            }
            ("shop/cart", 13) => {
                busy(&mut log, workload, 20);
                // Nobody could ask the key's home for five hours.
                for _ in 0..10 {
                    log.idle(1);
                }
                busy(&mut log, workload, 18);
            }
            ("data/postgres", 23) => {
                busy(&mut log, workload, 40);
                // Something in the pod sends past the sidecar, and is gone before the census.
                log.window(Duration::minutes(30), |window| {
                    let census = window.census.as_mut().unwrap();
                    census.interfaces[0].bytes.sent += 640_000_000;
                    census.interfaces[0].packets_sent += 450_000;
                });
                busy(&mut log, workload, 7);
            }
            ("ops/metrics", 26..) => {}
            _ => busy(&mut log, workload, OF_A_DAY),
        }
        match workload {
            "shop/catalog" => log.window(Duration::SECOND, |window| {
                window
                    .exceptions
                    .push(used("old-database", window, 24, 310_000));
            }),
            "pay/payments" => log.window(Duration::SECOND, |window| {
                window
                    .exceptions
                    .push(used("card-network", window, 130, 2_100_000));
            }),
            "edge/gateway" => {
                log.append(Event::Refusal(Box::new(refusal())));
                log.window(Duration::SECOND, |window| {
                    let (first, last) = (window.from, window.to);
                    window.refusals.extend([
                        count("plaintext", Direction::Inbound, 14, first, last),
                        count("no_route", Direction::Outbound, 3, first, last),
                    ]);
                });
            }
            _ => {}
        }
        if day % 7 == 6 {
            log.rotate(mesh);
        }
        log
    }

    fn begin(
        &mut self,
        workload: &str,
        from: OffsetDateTime,
        exceptions: Vec<sealwire_evidence::record::DeclaredException>,
    ) -> Logging {
        let name = format!("{}-0", workload.split_once('/').unwrap().1);
        let log = self.mesh.pod_with(workload, &name, from, exceptions, true);
        writeln!(self.list, "{} {name} {}", log.pod.namespace, log.pod.uid).unwrap();
        log
    }

    fn end(self) {
        fs::write(self.root.join("pods.txt"), self.list).unwrap();
        println!("{}", self.root.display());
    }
}

/// Windows full of what a workload does.
fn busy(log: &mut Logging, workload: &str, windows: u32) {
    for _ in 0..windows {
        let template = empty();
        let mut links = Vec::new();
        let identity = |of: &str| {
            let (namespace, account) = of.split_once('/').unwrap();
            format!("spiffe://mesh.example/ns/{namespace}/sa/{account}")
        };
        for (from, to, address, connections, bytes) in TALK {
            let times = fastrand::u64(60..140);
            let (connections, bytes) = (connections * times / 100, bytes * times / 100);
            if from == workload {
                links.push(opened(
                    log,
                    &identity(to),
                    address,
                    &template,
                    connections,
                    bytes,
                ));
            } else if to == workload {
                links.push(accepted(
                    log,
                    &identity(from),
                    address,
                    &template,
                    connections,
                    bytes,
                ));
            }
        }
        log.window(Duration::minutes(30), |window| {
            for mut link in links {
                (link.first, link.last) = (window.from, window.to);
                window.links.push(link);
            }
        });
        log.custody();
    }
}

fn dns() -> sealwire_evidence::record::DeclaredException {
    let mut dns = exception("cluster-dns", "dns", NOVEMBER + Duration::days(400));
    dns.destination = "198.19.0.53/32".to_owned();
    dns.ports = vec![53];
    dns.reason = "Names of Services and hosts".to_owned();
    dns.owner = "platform-team".to_owned();
    dns
}

fn old_database() -> sealwire_evidence::record::DeclaredException {
    exception("old-database", "passthrough", NOVEMBER + Duration::days(75))
}

fn partner() -> sealwire_evidence::record::DeclaredException {
    let mut partner = exception(
        "card-network",
        "require-tls",
        NOVEMBER + Duration::days(120),
    );
    partner.destination = "203.0.113.40/30".to_owned();
    partner.ports = vec![443];
    partner.reason =
        "The card network speaks TLS of its own and has no certificate of the mesh".to_owned();
    partner.owner = "payments-team".to_owned();
    partner
}

fn retired() -> sealwire_evidence::record::DeclaredException {
    let mut retired = exception(
        "fraud-check-v1",
        "passthrough",
        NOVEMBER + Duration::days(12),
    );
    retired.destination = "203.0.113.90/32".to_owned();
    retired.ports = vec![8080];
    retired.reason = "Until version 2 is in the mesh".to_owned();
    retired.owner = "payments-team".to_owned();
    retired
}

fn used(rule: &str, window: &Window, connections: u64, bytes: u64) -> ExceptionUse {
    ExceptionUse {
        rule: rule.to_owned(),
        destination: Some("203.0.113.7:5432".parse().unwrap()),
        observed_tls: (rule == "card-network").then(|| "TLSv1_3".to_owned()),
        connections,
        bytes: Bytes {
            sent: bytes / 3,
            received: bytes - bytes / 3,
        },
        first: window.from,
        last: window.to,
    }
}

fn refusal() -> Refusal {
    Refusal {
        direction: Direction::Inbound,
        protocol: Protocol::Tcp,
        reason: "plaintext".to_owned(),
        source: Some("198.18.3.77:51514".parse().unwrap()),
        destination: Some("198.18.0.10:8080".parse().unwrap()),
        peer: None,
        process: None,
        detail: "plaintext refused: the peer does not speak TLS; give it a sidecar, or a certificate of the mesh".to_owned(),
    }
}

fn count(
    reason: &str,
    direction: Direction,
    count: u64,
    first: sealwire_evidence::record::Timestamp,
    last: sealwire_evidence::record::Timestamp,
) -> RefusalCount {
    RefusalCount {
        direction,
        protocol: Protocol::Tcp,
        reason: reason.to_owned(),
        destination: None,
        count,
        first,
        last,
    }
}

fn strange_socket() -> Socket {
    Socket {
        protocol: Protocol::Udp,
        state: "UNCONN".to_owned(),
        local: Some("198.18.0.15:5353".parse().unwrap()),
        remote: Some("224.0.0.251:5353".parse().unwrap()),
        process: Process {
            uid: Some(999),
            command: Some("java".to_owned()),
            ..Process::default()
        },
        bytes: None,
    }
}
