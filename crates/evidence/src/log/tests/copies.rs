//! Logs that are read or copied while they are written.

use super::*;

fn copy(world: &World, to: &Path, name: &str) {
    let status = std::process::Command::new("cp")
        .arg("-r")
        .args([world.path().join(name), to.to_owned()])
        .status();
    assert!(status.unwrap().success());
}

fn verdict(world: &World, log: &Path) -> crate::verify::LogVerdict {
    let logs = [log.to_owned()];
    let mut verdict = verify(&logs, &world.authority.trust(), &Expect::default(), &|_| {});
    verdict.logs.remove(0)
}

/// A copy of a log that has another window written and signed after each of its parts.
fn copied(order: [&str; 3]) -> crate::verify::LogVerdict {
    let world = World::new();
    let mut run = world.run(1);
    // The edge is in three tiles, and becomes another with each window.
    (0..600).for_each(|_| run.window());
    run.windows(3);
    run.window();
    run.log.sync().unwrap();
    let to = tempfile::tempdir().unwrap();
    for part in order {
        copy(&world, to.path(), part);
        run.windows(1);
        run.window();
    }
    verdict(&world, to.path())
}

#[test]
fn a_copy_in_the_order_that_the_manual_has_is_whole_whatever_is_signed_meanwhile() {
    let verdict = copied([JOURNAL, CHECKPOINT, "tile"]);
    assert!(verdict.is_good(), "{:#?}", verdict.findings);
    assert!(verdict.signed > 600);
}

#[test]
fn a_copy_in_another_order_may_have_the_files_of_two_moments_and_is_said_to() {
    for order in [[CHECKPOINT, JOURNAL, "tile"], ["tile", JOURNAL, CHECKPOINT]] {
        assert!(!copied(order).is_good(), "{order:?}");
    }
}

#[test]
fn whoever_reads_on_while_records_are_signed_comes_to_an_end_and_not_to_a_hole() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(2);
    let log = Log::open(world.path()).unwrap();
    let mut records = log.records().unwrap();
    let first = records.next().unwrap().unwrap();
    assert_eq!(first.index, 0);
    run.windows(2);
    let rest: Result<Vec<Entry>, _> = records.collect();
    let last = rest.unwrap().pop().unwrap();
    assert_eq!(last.index + 1, log.checkpoint().unwrap().size);
}

#[test]
fn a_log_that_is_written_while_it_is_verified_is_in_order() {
    let world = World::new();
    let mut run = world.run(1);
    (0..1100).for_each(|_| run.window());
    run.windows(2);
    let run = std::sync::Mutex::new(run);
    let logs = [world.path().to_owned()];
    let trust = world.authority.trust();
    let verdict = verify(&logs, &trust, &Expect::default(), &|at| {
        // On its way, and so before it comes to the last bundle.
        if at.records < at.of {
            run.lock().unwrap().windows(3);
        }
    });
    assert!(verdict.is_good(), "{:#?}", verdict.logs[0].findings);
    let now = Log::open(world.path()).unwrap().checkpoint().unwrap().size;
    assert!(now > verdict.logs[0].signed);
}
