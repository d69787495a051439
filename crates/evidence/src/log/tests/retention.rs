//! Logs that records were dropped from.

use super::*;
use crate::testing::link;

const DAY: Duration = Duration::from_secs(86_400);

/// A run that drops what is older than a day.
fn run(world: &World) -> Run {
    world.run_with(1, |config| config.retention.age = Some(DAY))
}

/// Has what is old dropped: says so, signs it, and does it.
fn drop_old(world: &World, run: &mut Run) {
    world.clock.forward(DAY * 2);
    run.window();
    run.sign();
    run.log.retain().unwrap();
    run.sign();
}

#[test]
fn a_checkpoint_whose_records_were_dropped_is_carried_by_one_that_was_not() {
    let world = World::new();
    let mut run = run(&world);
    // Signed are 250, and 260 are there before that is in force.
    (0..247).for_each(|_| run.window());
    let cut = run.log.cut().unwrap();
    (0..10).for_each(|_| run.window());
    let key = run.credentials.key().clone();
    let signed = cut.checkpoint().clone().sign(key.as_ref()).unwrap();
    run.log.commit(&signed).unwrap();
    (0..20).for_each(|_| run.window());
    drop_old(&world, &mut run);
    run.stop();
    let records = world.records();
    assert_eq!(records[0].index, 256);
    assert!(records[4].record.checkpoint.is_some());
    assert_eq!(world.good(), [Problem::Dropped]);
}

#[test]
fn a_crash_while_records_are_dropped_leaves_a_log_that_verifies() {
    let world = World::new();
    let mut run = run(&world);
    (0..600).for_each(|_| run.window());
    run.sign();
    let kept: Vec<_> = ["tile/entries/001", "tile/0/000", "tile/0/001"]
        .map(|name| world.path().join(name))
        .into_iter()
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    drop_old(&world, &mut run);
    assert_eq!(Log::open(world.path()).unwrap().first(), 512);
    // It came no further than to the first bundle, which had the certificate.
    for (content, path) in kept {
        fs::write(path, content).unwrap();
    }
    let remarks = world.good();
    assert!(remarks.contains(&Problem::Interrupted), "{remarks:?}");
}

#[test]
fn links_that_outlive_the_record_of_their_certificate_are_no_fault() {
    let world = World::new();
    let mut run = run(&world);
    let old = world.authority.issue(Kind::P256, Duration::from_secs(3600));
    run.rotate(old.clone());
    run.rotate(world.authority.issue(Kind::P256, YEAR));
    (0..300).for_each(|_| run.window());
    drop_old(&world, &mut run);
    let now = run.log.now();
    let open = link(&old.facts().serial, now, 7);
    run.log
        .append(crate::testing::window(now, now, vec![open]))
        .unwrap();
    run.sign();
    assert!(world.good().contains(&Problem::Dropped));
}

#[test]
fn nothing_that_was_edited_is_carried_on_under_a_signature() {
    let world = World::new();
    let mut run = run(&world);
    (0..300).for_each(|_| run.window());
    run.sign();
    let bundle = world.path().join("tile/entries/000");
    let bytes = fs::read(&bundle).unwrap();
    let at = bytes.windows(5).position(|part| part == b"web-0").unwrap();
    let mut edited = bytes.clone();
    edited[at + 4] = b'1';
    fs::write(&bundle, &edited).unwrap();
    world.clock.forward(DAY * 2);
    run.window();
    run.sign();
    let error = run.log.retain().unwrap_err();
    assert!(error.to_string().contains("entries/000"), "{error}");
    // With the true one in its place it goes on.
    fs::write(&bundle, &bytes).unwrap();
    run.log.retain().unwrap();
    run.sign();
    run.stop();
    assert_eq!(world.good(), [Problem::Dropped]);
}

#[test]
fn what_could_not_be_planned_is_planned_again_as_a_whole() {
    let world = World::new();
    let mut run = run(&world);
    (0..600).for_each(|_| run.window());
    run.sign();
    world.clock.forward(DAY * 2);
    run.window();
    run.sign();
    // The second of the bundles that are due cannot be read now.
    let second = world.path().join("tile/entries/001");
    let aside = world.path().join("aside");
    fs::rename(&second, &aside).unwrap();
    run.log.retain().unwrap_err();
    fs::rename(&aside, &second).unwrap();
    run.log.retain().unwrap();
    run.sign();
    run.stop();
    let records = world.records();
    let note = records.iter().find_map(|entry| match &entry.record.event {
        Event::Retention(note) => Some(note),
        _ => None,
    });
    let note = note.unwrap();
    assert_eq!((note.dropped_from, note.minimum), (0, 512));
    assert_eq!(note.certificates.len(), 1);
    assert_eq!(world.good(), [Problem::Dropped]);
}
