//! That a report never claims more than its records hold: each of these once said yes, or counted
//! what it should not have.

use std::fs;
use std::path::Path;

use sealwire_evidence::record::{ExceptionUse, Gap, GapCause, Unavailable};
use time::Duration;

use super::days::exception;
use super::{BEGIN, BOTH, World, two_pods, used};

#[test]
fn a_log_that_is_given_twice_counts_once() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    // A copy of an hour ago, in another place.
    let logs = world.mesh.logs();
    copy(&logs.join("shop/web-0"), &logs.join("copies/web-0"));
    web.stop();
    api.stop();
    let made = world.report(Some(BOTH));
    let page = made.page();
    assert!(page.contains(">Yes.<"), "{}", made.reasons());
    assert!(page.contains("100 connections of 2 pods"), "counted once");
    assert!(page.contains("1 more copy of a log was given"));
}

#[test]
fn two_logs_of_one_name_that_tell_different_things_are_a_fault() {
    let world = World::new();
    let (web, api) = two_pods(&world.mesh);
    let logs = world.mesh.logs();
    let theirs = logs.join("copies/web-0");
    copy(&logs.join("shop/web-0"), &theirs);
    // Another history from there on, which the same key signs.
    let mut other = web.elsewhere(&theirs);
    other.idle(4);
    other.stop();
    web.stop();
    api.stop();
    let made = world.report(Some(BOTH));
    assert_eq!(made.findings()["AU-9(3)"].0, "not-satisfied");
    assert!(
        made.reasons().contains("kept elsewhere"),
        "{}",
        made.reasons()
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn bytes_that_the_kernel_counted_and_nothing_explains_make_the_answer_no() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    web.window(Duration::MINUTE, |window| {
        let census = window.census.as_mut().unwrap();
        census.interfaces[0].bytes.sent += 300_000_000;
    });
    web.idle(39);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied");
    assert!(
        remarks.contains("do not add up; most in shop/web-0"),
        "{remarks}"
    );
    assert!(!made.page().contains(">Yes.<"));
    let row = &made.table("bytes.csv")[0];
    let unexplained: u64 = row["sent_unexplained"].parse().unwrap();
    assert!((250_000_000..300_000_000).contains(&unexplained), "{row:?}");
    assert_eq!(row["sent_missing"], "0");
    assert!(made.page().contains("that nothing explains"));
}

#[test]
fn counters_that_could_not_be_had_leave_it_open_whether_the_bytes_add_up() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    web.window(Duration::MINUTE, |window| {
        window.census.as_mut().unwrap().interfaces.clear();
    });
    web.idle(39);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied");
    assert!(remarks.contains("counters could not be had"), "{remarks}");
    assert!(made.page().contains("No counters for 1 window"));
    let row = &made.table("bytes.csv")[0];
    assert_eq!(
        (
            row["windows"].as_str(),
            row["windows_without_counters"].as_str()
        ),
        ("59", "1")
    );
}

#[test]
fn a_key_whose_home_was_not_asked_for_hours_is_not_on_record_meanwhile() {
    let mut world = World::new();
    world.mesh.window = Duration::minutes(10);
    // Three hours before the period begins.
    let mut web = world
        .mesh
        .pod("shop/web", "web-0", BEGIN - Duration::hours(3));
    web.idle(20);
    web.custody();
    web.idle(4);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let row = &made.table("coverage.csv")[0];
    assert_eq!(row["accounted_seconds"], row["alive_seconds"]);
    assert_eq!(row["key_in_use_seconds"], "3600.000");
    assert_eq!(row["key_on_record_seconds"], "2400.000");
    for clause in ["SC-12", "IA-5(2)", "4.2.1.1", "Article 7(4)", "Key storage"] {
        let (state, remarks) = &made.findings()[clause];
        assert_eq!(state, "not-satisfied", "{clause}");
        assert!(remarks.contains("older than two hours"), "{remarks}");
    }
    assert!(made.page().contains("20 min from 25 Nov 2026, 00:00:00"));
}

#[test]
fn a_pod_that_no_record_of_custody_speaks_of_is_not_hidden_by_others() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    let mut other = world.mesh.pod("shop/other", "other-0", BEGIN);
    // It presents a certificate for a key that its own records never speak of.
    web.present(&other);
    for pod in [&mut web, &mut other] {
        pod.idle(60);
    }
    web.stop();
    other.stop();
    let made = world.report(Some("shop web-0\nshop other-0\n"));
    let (state, remarks) = &made.findings()["SC-12"];
    assert_eq!(state, "not-satisfied");
    assert!(
        remarks.contains("no record says where the key in use"),
        "{remarks}"
    );
}

#[test]
fn a_key_that_follows_in_memory_is_in_a_weaker_home_than_before() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(30);
    web.rotate_to(&world.mesh, false);
    web.idle(30);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(made.reasons().contains("weaker home"), "{}", made.reasons());
    let row = &made.table("coverage.csv")[0];
    assert_eq!(row["key_on_record_seconds"], "1800.000");
}

#[test]
fn many_short_holes_are_no_coverage() {
    let mut world = World::new();
    world.mesh.window = Duration::seconds(10);
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    for _ in 0..240 {
        web.window(Duration::seconds(12), |_| {});
        web.pass(Duration::seconds(3));
    }
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-23"];
    assert_eq!(state, "not-satisfied", "{remarks}");
    assert!(remarks.contains("80."), "{remarks}");
}

#[test]
fn a_clock_that_jumps_ahead_accounts_for_nothing_between() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(10);
    web.window(Duration::days(2), |_| {});
    drop(web);
    let made = world.report(Some("shop web-0\n"));
    assert!(
        made.reasons().contains("far too long"),
        "{}",
        made.reasons()
    );
    assert_eq!(
        made.table("coverage.csv")[0]["accounted_seconds"],
        "600.000"
    );
}

#[test]
fn a_stop_that_nothing_signs_ends_no_life() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    web.stop_unsigned();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied", "{remarks}");
    assert!(remarks.contains("without a stop record"), "{remarks}");
}

#[test]
fn logs_that_nothing_signs_say_nothing_about_cryptography() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.unsigned(60);
    drop(web);
    let made = world.report(Some("shop web-0\n"));
    // The key itself has shown that it is at hand, and that is signed.
    let of_the_key = ["SC-12", "Key storage", "TLS 1.3, signatures"];
    for (clause, (state, remarks)) in made.findings() {
        let expected = if of_the_key.contains(&clause.as_str()) {
            "satisfied"
        } else {
            "not-satisfied"
        };
        assert_eq!(state, expected, "{clause}: {remarks}");
    }
}

#[test]
fn what_goes_on_by_an_exception_has_passed_by_it() {
    let world = World::new();
    let declared = vec![exception(
        "old-database",
        "passthrough",
        BEGIN + Duration::minutes(30),
    )];
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, declared, true);
    for _ in 0..60 {
        web.window(Duration::MINUTE, |window| {
            let goes_on = ExceptionUse {
                connections: 0,
                ..used("old-database", window.to.get())
            };
            window.exceptions.push(goes_on);
        });
    }
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8(1)"];
    assert_eq!(state, "not-satisfied");
    assert!(remarks.contains("A connection that goes on"), "{remarks}");
    assert!(remarks.contains("after its end"), "{remarks}");
}

#[test]
fn what_passed_before_an_exception_was_withdrawn_was_declared() {
    let world = World::new();
    let declared = vec![exception("old", "passthrough", BEGIN + Duration::days(30))];
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, declared, true);
    web.idle(10);
    // The policy changes while a window is open in which something passed.
    web.declare(Vec::new());
    web.window(Duration::MINUTE, |window| {
        window.exceptions.push(used("old", window.from.get()));
    });
    web.window(Duration::MINUTE, |window| {
        window.exceptions.push(used("old", window.to.get()));
    });
    web.idle(48);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let rows = made.table("exceptions.csv");
    let owned: Vec<_> = rows
        .iter()
        .map(|row| (row["owner"].as_str(), row["connections"].as_str()))
        .collect();
    assert_eq!(owned, [("", "3"), ("data-team", "3")], "{rows:?}");
}

#[test]
fn an_exception_that_was_withdrawn_before_the_period_is_none_of_it() {
    let world = World::new();
    let declared = vec![exception("old", "passthrough", BEGIN + Duration::days(30))];
    let begin = BEGIN - Duration::minutes(20);
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", begin, declared, true);
    web.idle(10);
    web.declare(Vec::new());
    web.idle(70);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(made.table("exceptions.csv").is_empty());
    assert!(made.page().contains("No pod declares an exception"));
}

#[test]
fn exceptions_that_no_record_lists_are_not_known() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.declare_more(40);
    web.idle(60);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let (state, remarks) = &made.findings()["SC-8"];
    assert_eq!(state, "not-satisfied");
    assert!(
        remarks.contains("More exceptions are declared"),
        "{remarks}"
    );
}

#[test]
fn sockets_of_kinds_that_could_not_be_counted_are_no_census() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.window(Duration::MINUTE, |window| {
        window.census.as_mut().unwrap().unavailable = vec![Unavailable {
            what: "other sockets".to_owned(),
            why: "/proc/self/net/protocols: Permission denied".to_owned(),
        }];
    });
    web.idle(59);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    assert!(
        made.reasons().contains("without a census"),
        "{}",
        made.reasons()
    );
}

#[test]
fn a_clock_that_was_set_back_is_told() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(30);
    web.gap(Gap {
        cause: GapCause::Clock,
        from: (BEGIN + Duration::minutes(30)).into(),
        to: (BEGIN + Duration::minutes(25)).into(),
        lost: Some(0),
        detail: "the clock was set back".to_owned(),
    });
    web.idle(30);
    web.stop();
    let page = world.report(Some("shop web-0\n")).page();
    assert!(page.contains("a clock was set back or jumped"), "{page}");
}

#[test]
fn name_lookups_are_said_to_have_passed() {
    let world = World::new();
    let declared = vec![exception("names", "dns", BEGIN + Duration::days(30))];
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, declared, true);
    web.idle(60);
    web.stop();
    let page = world.report(Some("shop web-0\n")).page();
    assert!(page.contains(">Yes.<"));
    assert!(
        page.contains("nothing passed unsealed but name lookups"),
        "{page}"
    );
}

#[test]
fn names_of_strangers_neither_turn_the_page_around_nor_reckon_in_a_spreadsheet() {
    let world = World::new();
    let mut declared = exception("=cmd|' /C calc'!A0", "dns", BEGIN + Duration::days(30));
    declared.owner = "</td><script>alert(1)</script>\u{202e}maet".to_owned();
    declared.reason = "none;@SUM(1)\u{1b}[2J".to_owned();
    let mut web = world
        .mesh
        .pod_with("shop/web", "web-0", BEGIN, vec![declared], true);
    web.idle(60);
    web.stop();
    let made = world.report(Some("shop web-0\n"));
    let page = made.page();
    assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
    let table = fs::read_to_string(made.directory.join("exceptions.csv")).unwrap();
    assert!(table.contains("\"'=cmd|"), "{table}");
    assert!(table.contains("none;'@SUM(1)"), "{table}");
    assert!(!table.contains('\u{202e}') && !table.contains('\u{1b}'));
}

#[test]
fn records_that_a_later_run_signed_for_an_earlier_one_are_said_to_be_so() {
    let world = World::new();
    let mut web = world.mesh.pod("shop/web", "web-0", BEGIN);
    web.idle(20);
    web.unsigned(2);
    let mut web = web.crash(Duration::seconds(90));
    web.idle(36);
    web.stop();
    let page = world.report(Some("shop web-0\n")).page();
    assert!(page.contains("waited unsigned from one run for the next"));
    assert!(page.contains("which took them over"));
}
