//! Logs by somebody who has the directory, and perhaps a key of the mesh, but not this workload's.

use super::*;
use crate::record::{Certificate, CertificateEvent, Custody, CustodyOccasion};
use crate::testing::{WORKLOAD, stop};

const OTHER: &str = "spiffe://m.example/ns/shop/sa/other";

/// A run of three windows, each signed.
fn run(directory: &Path) -> (Run, Authority) {
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory, &clock, 1);
    let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
    run.windows(3);
    (run, authority)
}

/// Has another workload's key go on with the log, which keeps its own name in each record, or not.
fn go_on_as_another(run: &mut Run, authority: &Authority, name: &str) {
    let other = authority.issue_to(OTHER, YEAR);
    let now = Timestamp::new(clock_now(&run.clock));
    run.log.identity(Some(name.to_owned()));
    let certificate = Certificate::of(&other, CertificateEvent::Issued);
    run.log
        .append(Event::Certificate(Box::new(certificate)))
        .unwrap();
    let custody = Custody::ask(
        other.key().as_ref(),
        CustodyOccasion::Rotation,
        boot(1),
        now,
    );
    run.log
        .append(Event::Custody(Box::new(custody.unwrap())))
        .unwrap();
    run.credentials = other;
    run.windows(2);
}

#[test]
fn the_key_of_another_workload_of_the_mesh_does_not_sign_for_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut run, authority) = run(directory.path());
    go_on_as_another(&mut run, &authority, WORKLOAD);
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    let problems = problems(&verdict);
    assert!(!problems.is_empty() && problems.iter().all(|one| *one == Problem::Certificate));
    assert_eq!(verdict.identities, [WORKLOAD]);
}

#[test]
fn a_log_that_goes_on_under_another_name_is_remarked() {
    let directory = tempfile::tempdir().unwrap();
    let (mut run, authority) = run(directory.path());
    go_on_as_another(&mut run, &authority, OTHER);
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    assert!(verdict.is_good(), "{:#?}", verdict.findings);
    assert!(
        verdict
            .remarks()
            .any(|one| one.problem == Problem::Identity)
    );
    assert_eq!(verdict.identities, [WORKLOAD, OTHER]);
}

#[test]
fn a_stop_that_is_not_signed_is_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut run, authority) = run(directory.path());
    run.log.append(Event::Stop(stop())).unwrap();
    run.log.sync().unwrap();
    let expect = Expect {
        until: Some(Timestamp::new(clock_now(&run.clock) + YEAR)),
        checkpoints: Vec::new(),
    };
    let trust = authority.trust();
    let verdict = check(directory.path(), &trust, &expect);
    assert_eq!(problems(&verdict), [Problem::Truncated]);
    let remarks: Vec<Problem> = verdict.remarks().map(|one| one.problem).collect();
    assert_eq!(remarks, [Problem::Unsigned, Problem::OpenEnd]);
    run.sign();
    assert!(check(directory.path(), &trust, &expect).is_good());
}

#[test]
fn a_checkpoint_that_was_kept_of_a_log_that_is_not_there_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let (run, authority) = run(directory.path());
    let kept = fs::read_to_string(directory.path().join("checkpoint")).unwrap();
    let expect = Expect {
        until: None,
        checkpoints: vec![SignedCheckpoint::read(&kept).unwrap()],
    };
    // Another takes its place, under another name, with a key of the mesh.
    let another = tempfile::tempdir().unwrap();
    let mut config = config(another.path(), &run.clock, 1);
    config.origin = "m.example/ns/shop/pod/web-0/7".to_owned();
    let credentials = authority.issue(Kind::P256, YEAR);
    Run::begin(config, &run.clock, credentials).stop();
    let logs = [another.path().to_owned()];
    let verdict = verify(&logs, &authority.trust(), &expect, &|_| {});
    assert!(verdict.logs[0].is_good());
    assert!(!verdict.is_good());
    assert_eq!(verdict.without_log.len(), 1);
}

#[test]
fn records_that_a_run_took_over_without_a_signature_are_remarked() {
    let directory = tempfile::tempdir().unwrap();
    let (mut run, authority) = run(directory.path());
    run.window();
    run.log.sync().unwrap();
    let signed = Log::open(directory.path())
        .unwrap()
        .checkpoint()
        .unwrap()
        .size;
    let clock = run.clock.clone();
    drop(run);
    // Whoever has the directory could have changed that window here, with all its checksums.
    let next = config(directory.path(), &clock, 2);
    Run::begin(next, &clock, authority.issue(Kind::P256, YEAR)).stop();
    let verdict = check(directory.path(), &authority.trust(), &Expect::default());
    assert!(verdict.is_good());
    let taken_over = verdict
        .remarks()
        .find(|one| one.problem == Problem::TakenOver);
    assert_eq!(taken_over.unwrap().place.index, Some(signed));
}

#[test]
fn a_checkpoint_of_dropped_records_that_was_kept_is_compared_where_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let mut config = config(directory.path(), &clock, 1);
    config.retention.age = Some(Duration::from_secs(86_400));
    let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
    let mut kept = Vec::new();
    for windows in [197, 56] {
        (0..windows).for_each(|_| run.window());
        run.sign();
        let note = fs::read_to_string(directory.path().join("checkpoint")).unwrap();
        kept.push(SignedCheckpoint::read(&note).unwrap());
    }
    (0..100).for_each(|_| run.window());
    clock.forward(Duration::from_secs(86_400 * 2));
    run.window();
    run.sign();
    run.log.retain().unwrap();
    run.sign();
    let expect = |kept: &SignedCheckpoint| Expect {
        until: None,
        checkpoints: vec![kept.clone()],
    };
    let trust = authority.trust();
    // The one at the border is the root that the tiles lead to.
    assert_eq!(kept[1].checkpoint().size, 256);
    assert!(check(directory.path(), &trust, &expect(&kept[1])).is_good());
    let note = kept[1].to_string();
    let root = kept[1].checkpoint().root.to_string();
    let other = crate::merkle::Hash::leaf(b"other").to_string();
    let false_one = SignedCheckpoint::read(&note.replace(&root, &other)).unwrap();
    let verdict = check(directory.path(), &trust, &expect(&false_one));
    assert_eq!(problems(&verdict), [Problem::Contradicted]);
    // Of the one before it nothing is left to compare it with.
    let verdict = check(directory.path(), &trust, &expect(&kept[0]));
    assert!(verdict.is_good());
    let said = verdict.remarks().map(ToString::to_string);
    assert_eq!(said.filter(|one| one.contains("200 records")).count(), 1);
}
