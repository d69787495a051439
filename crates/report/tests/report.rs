//! What a report says about logs that the real writer wrote: read from its files, as an auditor
//! would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "report/claims.rs"]
mod claims;
#[path = "shared/days.rs"]
#[allow(dead_code, reason = "each of its users needs a part of it")]
mod days;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sealwire_evidence::Trust;
use sealwire_evidence::record::{
    Bytes, Direction, Event, ExceptionUse, Gap, GapCause, Process, Protocol, Refusal, RefusalCount,
    Socket, SocketClass, SocketCount,
};
use sealwire_identity::TrustBundle;
use sealwire_report::{Expected, Framework, Options, Report, report};
use serde_json::Value;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use days::{Logging, Mesh, accepted, exception, opened};

const BEGIN: OffsetDateTime = datetime!(2026-11-25 00:00 UTC);

const WEB: &str = "spiffe://mesh.example/ns/shop/sa/web";
const API: &str = "spiffe://mesh.example/ns/shop/sa/api";

/// A mesh, and an hour to report about.
struct World {
    home: tempfile::TempDir,
    mesh: Mesh,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(home.path());
        Self { home, mesh }
    }

    fn report(&self, pods: Option<&str>) -> Made {
        self.report_at(pods, BEGIN + Duration::HOUR)
    }

    fn report_at(&self, pods: Option<&str>, as_of: OffsetDateTime) -> Made {
        let pem = fs::read(self.home.path().join("bundle.pem")).unwrap();
        let bundle = TrustBundle::from_pem(&pem).unwrap();
        let trust = Trust {
            bundle: Arc::new(bundle),
        };
        let options = Options {
            period: "2026-11-25T00:00:00Z/2026-11-25T01:00:00Z".parse().unwrap(),
            as_of,
            frameworks: Framework::ALL.to_vec(),
            expected: pods.map(|list| Expected::parse(list).unwrap()),
        };
        let logs = logs(&self.mesh.logs());
        let report = report(&logs, &trust, options, &|_| {}).unwrap();
        let directory = self.home.path().join("report");
        report.write(&directory, None).unwrap();
        Made { report, directory }
    }
}

fn logs(under: &Path) -> Vec<PathBuf> {
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut logs: Vec<_> = list(under)
        .iter()
        .flat_map(|namespace| list(namespace))
        .collect();
    logs.sort();
    logs
}

struct Made {
    report: Report,
    directory: PathBuf,
}

impl Made {
    fn page(&self) -> String {
        fs::read_to_string(self.directory.join("report.html")).unwrap()
    }

    fn reasons(&self) -> String {
        self.report.reasons().join("\n")
    }

    /// State and remarks by clause.
    fn findings(&self) -> BTreeMap<String, (String, String)> {
        let text = fs::read_to_string(self.directory.join("assessment-results.json")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let results = document["assessment-results"]["results"]
            .as_array()
            .unwrap();
        let findings = results
            .iter()
            .flat_map(|result| result["findings"].as_array().unwrap());
        findings
            .map(|finding| {
                let status = &finding["target"]["status"];
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (
                    text(&finding["title"]),
                    (text(&status["state"]), text(&status["remarks"])),
                )
            })
            .collect()
    }

    fn table(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.directory.join(name)).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = lines.next().unwrap();
        lines
            .map(|cells| {
                assert_eq!(cells.len(), header.len(), "{cells:?}");
                let named = header.iter().zip(cells);
                named
                    .map(|(name, cell)| ((*name).to_owned(), cell.to_owned()))
                    .collect()
            })
            .collect()
    }
}

/// An hour of two pods that talk to each other.
fn two_pods(mesh: &Mesh) -> (Logging, Logging) {
    let mut web = mesh.pod("shop/web", "web-0", BEGIN);
    let mut api = mesh.pod("shop/api", "api-0", BEGIN);
    talk(&mut web, &mut api);
    web.idle(58);
    api.idle(58);
    (web, api)
}

/// Two minutes in which 100 connections carry 10 kB each.
fn talk(web: &mut Logging, api: &mut Logging) {
    let to = "198.18.0.11:8080";
    for _ in 0..2 {
        let (one, other) = (web.serial().to_owned(), api.serial().to_owned());
        assert_ne!(one, other);
        let link = |of: &Logging, make: fn(&Logging, &str, &str, &_, u64, u64) -> _, peer: &str| {
            let window = sealwire_evidence::record::Window {
                from: BEGIN.into(),
                to: BEGIN.into(),
                part: 1,
                parts: 1,
                links: Vec::new(),
                exceptions: Vec::new(),
                refusals: Vec::new(),
                census: None,
                aggregated: None,
            };
            make(of, peer, to, &window, 50, 500_000)
        };
        let sent = link(web, opened, API);
        let got = link(api, accepted, WEB);
        web.window(Duration::MINUTE, |window| {
            window.links.push(sent);
        });
        api.window(Duration::MINUTE, |window| {
            window.links.push(got);
        });
    }
}

const BOTH: &str = "shop web-0\nshop api-0\n";

#[test]
fn an_hour_without_a_hole_is_yes_and_every_clause_is_satisfied() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    let made = world.report(Some(BOTH));
    // BSI does not list X25519, which these pods used.
    let open: Vec<_> = made
        .findings()
        .into_iter()
        .filter(|(_, (state, _))| state != "satisfied")
        .collect();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].0, "TLS 1.3, groups");
    let page = made.page();
    assert!(page.contains(">Yes.<"), "{}", made.reasons());
    assert!(page.contains("Coverage: 100 %"));
    assert!(page.contains("100 connections of 2 pods"), "counted once");
}

#[test]
fn without_a_list_of_pods_nothing_says_that_none_is_missing() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    let made = world.report(None);
    assert!(!made.report.satisfied());
    assert!(made.reasons().contains("--pods"), "{}", made.reasons());
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied");
    assert!(remarks.contains("--pods"), "{remarks}");
}

#[test]
fn an_empty_period_is_not_satisfied_and_says_that_there_is_nothing_to_see() {
    let world = World::new();
    world
        .mesh
        .pod("shop/web", "web-0", BEGIN + Duration::days(3))
        .stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(!made.report.satisfied());
    for (clause, (state, remarks)) in made.findings() {
        assert_eq!(state, "not-satisfied", "{clause}");
        assert!(!remarks.is_empty());
    }
    assert!(made.page().contains("There is nothing to see"));
}

#[test]
fn a_pod_on_the_list_without_a_log_is_named() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    let made = world.report(Some("shop web-0\nshop api-0\nshop db-0\n"));
    assert!(made.reasons().contains("shop/db-0"), "{}", made.reasons());
    let missing: Vec<_> = made
        .table("coverage.csv")
        .into_iter()
        .filter(|row| row["longest_lost_because"] == "there is no log")
        .collect();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0]["pod"], "db-0");
}

#[test]
fn a_workload_that_others_talked_to_and_of_which_there_is_no_log_is_named() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    fs::remove_dir_all(world.mesh.logs().join("shop/api-0")).unwrap();
    let made = world.report(Some("shop web-0\n"));
    assert!(made.reasons().contains("shop/api"), "{}", made.reasons());
}

#[test]
fn a_hole_of_windows_is_not_satisfied_with_when_and_why() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    let mut web = web.crash(Duration::seconds(90));
    web.idle(38);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied");
    assert!(
        remarks.contains("1 min 30 s from 25 Nov 2026, 00:20"),
        "{remarks}"
    );
    assert!(remarks.contains("killed or crashed"), "{remarks}");
    let row = &made.table("coverage.csv")[0];
    let seconds = |name: &str| row[name].parse::<f64>().unwrap();
    assert!((seconds("alive_seconds") - seconds("accounted_seconds") - 90.0).abs() < 0.01);
    assert_eq!(row["runs"], "2");
}

#[test]
fn a_log_that_ends_before_the_period_does_is_not_accounted_for_from_then_on() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    drop(web);
    let made = world.report(Some("shop web-0\n"));
    assert!(
        made.reasons().contains("without a stop record"),
        "{}",
        made.reasons()
    );
}

#[test]
fn one_changed_byte_makes_the_answer_no() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    let mut bundles = Vec::new();
    files(
        &world.mesh.logs().join("shop/web-0/tile/entries"),
        &mut bundles,
    );
    let bundle = bundles.first().unwrap();
    let mut bytes = fs::read(bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(bundle, bytes).unwrap();
    let made = world.report(Some(BOTH));
    assert!(!made.report.satisfied());
    assert_eq!(made.findings()["AU-9(3)"].0, "not-satisfied");
    assert!(made.reasons().contains("web-0"), "{}", made.reasons());
}

fn files(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn what_nobody_accounts_for_is_shown_and_its_window_is_not_covered() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.window(Duration::MINUTE, |window| {
        let census = window.census.as_mut().unwrap();
        census.sockets.push(SocketCount {
            protocol: Protocol::Tcp,
            class: SocketClass::Unaccounted,
            count: 1,
        });
        census.unaccounted.push(Socket {
            protocol: Protocol::Tcp,
            state: "ESTABLISHED".to_owned(),
            local: Some("198.18.0.10:40000".parse().unwrap()),
            remote: Some("203.0.113.9:25".parse().unwrap()),
            process: Process {
                uid: Some(1000),
                ..Process::default()
            },
            bytes: None,
        });
    });
    web.idle(59);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(
        made.reasons().contains("203.0.113.9:25"),
        "{}",
        made.reasons()
    );
    assert!(made.page().contains("of UID 1000"));
    let row = &made.table("coverage.csv")[0];
    assert_eq!(row["accounted_seconds"], "3540.000");
}

#[test]
fn what_passes_by_an_exception_is_counted_and_plaintext_satisfies_no_clause_on_encryption() {
    let world = World::new();
    let declared = vec![
        exception("old-database", "passthrough", BEGIN + Duration::days(30)),
        exception("older-database", "passthrough", BEGIN - Duration::DAY),
    ];
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, declared, true);
    web.window(Duration::MINUTE, |window| {
        window
            .exceptions
            .push(used("old-database", window.to.get()));
    });
    web.idle(59);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert_eq!(made.findings()["SC-8"].0, "satisfied");
    let (state, remarks) = &made.findings()["SC-8(1)"];
    assert_eq!(state, "not-satisfied");
    assert!(remarks.contains("data-team"), "{remarks}");
    let rows = made.table("exceptions.csv");
    assert_eq!(rows[0]["exception"], "older-database", "expired ones first");
    assert_eq!(rows[0]["expired"], "yes");
    assert_eq!(rows[1]["connections"], "3");
    let page = made.page();
    let (expired, ahead) = (page.find("older-database"), page.find("Ended 24 Nov 2026"));
    assert!(expired.is_some() && ahead.is_some());
}

#[test]
fn an_exception_that_was_used_after_its_end_makes_the_answer_no() {
    let world = World::new();
    let declared = vec![exception("old", "passthrough", BEGIN + Duration::MINUTE)];
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, declared, true);
    web.idle(5);
    web.window(Duration::MINUTE, |window| {
        window.exceptions.push(used("old", window.to.get()));
    });
    web.idle(54);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(
        made.reasons().contains("after its end"),
        "{}",
        made.reasons()
    );
    assert_eq!(made.findings()["SC-8"].0, "not-satisfied");
}

fn used(rule: &str, at: OffsetDateTime) -> ExceptionUse {
    ExceptionUse {
        rule: rule.to_owned(),
        destination: Some("203.0.113.7:5432".parse().unwrap()),
        observed_tls: None,
        connections: 3,
        bytes: Bytes {
            sent: 1_000,
            received: 2_000,
        },
        first: at.into(),
        last: at.into(),
    }
}

#[test]
fn a_key_in_memory_is_no_custody() {
    let world = World::new();
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, Vec::new(), false);
    web.idle(60);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert_eq!(made.findings()["SC-12"].0, "not-satisfied");
    assert!(made.page().contains("for development only"));
}

#[test]
fn refusals_are_counted_with_one_of_them_in_words() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.append(Event::Refusal(Box::new(Refusal {
        direction: Direction::Inbound,
        protocol: Protocol::Tcp,
        reason: "plaintext".to_owned(),
        source: Some("203.0.113.5:4000".parse().unwrap()),
        destination: Some("198.18.0.10:8080".parse().unwrap()),
        peer: None,
        process: None,
        detail: "<b>the peer</b> does not speak TLS".to_owned(),
    })));
    web.window(Duration::MINUTE, |window| {
        window.refusals.push(RefusalCount {
            direction: Direction::Inbound,
            protocol: Protocol::Tcp,
            reason: "plaintext".to_owned(),
            destination: None,
            count: 41,
            first: window.from,
            last: window.to,
        });
    });
    web.idle(59);
    web.stop();
    let page = world.report(Some("shop web-0\n")).page();
    assert!(page.contains("203.0.113.5:4000"));
    assert!(page.contains("Refused: 41 attempts"));
    assert!(!page.contains("<b>the peer"), "what strangers sent is text");
}

#[test]
fn a_gap_that_the_sidecar_states_is_told() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(10);
    web.gap(Gap {
        cause: GapCause::Overload,
        from: (BEGIN + Duration::minutes(8)).into(),
        to: (BEGIN + Duration::minutes(9)).into(),
        lost: Some(12),
        detail: "the queue was full".to_owned(),
    });
    web.idle(50);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(!made.report.satisfied());
    let page = made.page();
    assert!(page.contains("12 records lost"));
    assert!(page.contains("the queue was full"));
}

#[test]
fn the_same_logs_give_the_same_files() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    web.stop();
    api.stop();
    let contents = || -> Vec<(String, Vec<u8>)> {
        let made = world.report(Some(BOTH));
        let mut files = Vec::new();
        for entry in fs::read_dir(&made.directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            files.push((name, fs::read(entry.path()).unwrap()));
        }
        files.sort();
        files
    };
    let first = contents();
    assert_eq!(first.len(), 8, "{first:?}");
    assert_eq!(first, contents());
}

#[test]
fn a_period_that_is_not_over_is_told_so() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(29);
    let made = world.report_at(Some("shop web-0\n"), BEGIN + Duration::minutes(30));
    let row = &made.table("coverage.csv")[0];
    assert_eq!(row["accounted_seconds"], row["alive_seconds"]);
    assert!(made.page().contains("up to 25 Nov 2026, 00:30"));
}
