use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use super::*;
use crate::log::Log;
use crate::record::{Event, Record};
use crate::testing::{Authority, Kind, Moving, Run, boot, config};

mod forged;
mod hostile;
mod tamper;

const YEAR: Duration = Duration::from_secs(86_400 * 365);

fn check(directory: &Path, trust: &Trust, expect: &Expect) -> LogVerdict {
    verify(&[directory.to_owned()], trust, expect, &|_| {})
        .logs
        .remove(0)
}

fn problems(verdict: &LogVerdict) -> Vec<Problem> {
    verdict.wrong().map(|finding| finding.problem).collect()
}

#[test]
fn a_log_signed_by_every_kind_of_key_in_turn_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory.path(), &clock, 1);
    let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
    for kind in Kind::ALL {
        run.rotate(authority.issue(kind, YEAR));
        run.windows(3);
    }
    run.stop();
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    assert!(verdict.is_good(), "{:#?}", verdict.findings);
    // Each checkpoint is in the record after it, and the last in its file.
    assert_eq!(verdict.checkpoints, 4 * 3 + 1);
    assert_eq!(verdict.boots, 1);
}

#[test]
fn a_log_of_another_mesh_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory.path(), &clock, 1);
    Run::begin(config, &clock, authority.issue(Kind::P256, YEAR)).stop();
    let verdict = check(
        directory.path(),
        &Authority::new().trust(),
        &Expect::default(),
    );
    assert_eq!(problems(&verdict), [Problem::Certificate]);
}

#[test]
fn a_checkpoint_signed_after_the_certificate_ended_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory.path(), &clock, 1);
    let short = authority.issue(Kind::P256, Duration::from_secs(150));
    let mut run = Run::begin(config, &clock, short);
    run.windows(4);
    run.stop();
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    let problems = problems(&verdict);
    assert!(!problems.is_empty() && problems.iter().all(|one| *one == Problem::Certificate));
    let first = verdict.wrong().next().unwrap();
    assert!(first.detail.contains("expired"), "{first}");
    assert!(first.since.is_some());
}

#[test]
fn a_key_without_custody_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory.path(), &clock, 1);
    let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
    run.windows(1);
    // It signs, and nobody has recorded anything of it.
    run.credentials = authority.issue(Kind::P256, YEAR);
    run.sign_without_link();
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    assert_eq!(problems(&verdict), [Problem::UnknownSigner]);
}

#[test]
fn a_log_put_back_as_a_whole_is_found_by_what_is_known_from_elsewhere_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let mut run = Run::begin(
        config(directory.path(), &clock, 1),
        &clock,
        authority.issue(Kind::P256, YEAR),
    );
    run.windows(3);
    let copy = tempfile::tempdir().unwrap();
    copy_all(directory.path(), copy.path());
    run.windows(3);
    let kept = fs::read_to_string(directory.path().join("checkpoint")).unwrap();
    let kept = SignedCheckpoint::read(&kept).unwrap();
    let trust = authority.trust();
    let earlier = |expect: &Expect| check(copy.path(), &trust, expect);

    assert!(
        earlier(&Expect::default()).is_good(),
        "which is why this has to be said"
    );
    let of_witness = Expect {
        checkpoints: vec![kept.clone()],
        until: None,
    };
    assert_eq!(problems(&earlier(&of_witness)), [Problem::Truncated]);
    assert!(check(directory.path(), &trust, &of_witness).is_good());
    let of_time = Expect {
        until: Some(Timestamp::new(clock_now(&clock))),
        checkpoints: Vec::new(),
    };
    assert_eq!(problems(&earlier(&of_time)), [Problem::Truncated]);
    assert!(check(directory.path(), &trust, &of_time).is_good());
}

#[test]
fn two_histories_of_one_log_contradict_each_other() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clock, authority) = (Moving::new(), Authority::new());
    for (directory, windows) in [(&first, 2), (&second, 3)] {
        let config = config(directory.path(), &clock, 1);
        let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
        run.windows(windows);
        drop(run);
    }
    let kept = fs::read_to_string(first.path().join("checkpoint")).unwrap();
    let expect = Expect {
        checkpoints: vec![SignedCheckpoint::read(&kept).unwrap()],
        until: None,
    };
    let verdict = check(second.path(), &authority.trust(), &expect);
    assert_eq!(problems(&verdict), [Problem::Contradicted]);
}

#[test]
fn no_number_of_remarks_hides_what_is_wrong() {
    let mut verdict = LogVerdict::default();
    let of = |problem| Finding::new(problem, Place::default(), "");
    (0..MOST_FINDINGS + 5).for_each(|_| verdict.add(of(Problem::Gap)));
    assert!(verdict.is_good());
    verdict.add(of(Problem::Record));
    assert_eq!(verdict.more, 5);
    assert_eq!(problems(&verdict), [Problem::Record]);
    assert!(!verdict.is_good());
}

#[test]
fn an_empty_directory_is_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let verdict = check(
        directory.path(),
        &Authority::new().trust(),
        &Expect::default(),
    );
    assert!(!verdict.is_good());
    let nothing = Verdict {
        logs: Vec::new(),
        without_log: Vec::new(),
    };
    assert!(!nothing.is_good(), "nothing shows nothing");
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn clock_now(clock: &Moving) -> time::OffsetDateTime {
    use crate::log::Clock;
    clock.now()
}
