//! When more waits than there is room for, and when time is not what it was.

use super::*;
use crate::log::LogWriter;
use crate::record::Gap;

fn gap() -> Gap {
    Gap {
        cause: GapCause::Other,
        from: Timestamp::EPOCH,
        to: Timestamp::EPOCH,
        lost: None,
        detail: "x".repeat(400),
    }
}

/// Evidence whose key is away until no record finds room any more.
fn full(world: &World) -> (Evidence, Arc<Switched>) {
    let evidence = world.open_with(10_000, |log| log.pending = 20_000);
    let (key, credentials) = Switched::of(&world.credentials());
    let recorder = evidence.recorder();
    recorder.credentials(&credentials, CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    key.plug(false);
    (0..100).for_each(|_| recorder.gap(gap()));
    until(&evidence, "there is no room", |figures| {
        let storage = figures.storage.as_deref();
        storage.is_some_and(|said| said.contains("wait for a signature"))
    });
    (evidence, key)
}

#[test]
fn once_the_key_is_back_what_found_no_room_is_written() {
    let world = World::new();
    let (evidence, key) = full(&world);
    key.plug(true);
    until(&evidence, "there is room again", |figures| {
        figures.storage.is_none() && figures.waiting == 0
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let told = world
        .records()
        .into_iter()
        .filter(|record| matches!(&record.event, Event::Gap(gap) if gap.cause == GapCause::Other));
    assert_eq!(told.count(), 100);
}

#[test]
fn another_key_signs_what_found_no_room_under_the_first() {
    let world = World::new();
    let (evidence, _away) = full(&world);
    let recorder = evidence.recorder();
    // More than are kept.
    (0..1000).for_each(|_| recorder.gap(gap()));
    until(&evidence, "some are lost", |figures| figures.lost > 0);
    recorder.credentials(&world.credentials(), CertificateEvent::Renewed);
    until(&evidence, "there is room again", |figures| {
        figures.storage.is_none() && figures.waiting == 0
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let (told, lost) = told_and_lost(&world, GapCause::Storage);
    assert!((100..1100).contains(&told), "{told}");
    assert!(told + lost >= 1100, "{told} and {lost}");
}

#[test]
fn a_key_that_never_signed_is_asked_once_a_window_and_not_all_the_time() {
    let world = World::new();
    let evidence = world.open(100);
    let (key, credentials) = Switched::of(&world.credentials());
    key.plug(false);
    evidence
        .recorder()
        .credentials(&credentials, CertificateEvent::Issued);
    until(&evidence, "ten windows", |figures| figures.log.records > 10);
    let figures = evidence.figures();
    assert!(figures.signatures <= figures.log.records + 2, "{figures:?}");
    key.plug(true);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
}

#[test]
fn a_run_begins_where_the_one_before_left_no_room() {
    let world = World::new();
    let (evidence, _away) = full(&world);
    drop(evidence);
    let deadline = Instant::now() + DEADLINE;
    let next = loop {
        let mut next = config(world.path(), &Moving::new(), 2);
        (next.pending, next.clock) = (20_000, Arc::new(SystemClock));
        match LogWriter::open(next, start()) {
            Ok(next) => break next,
            Err(LogError::Locked(_)) => assert!(Instant::now() < deadline),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(next.standing().pending_bytes > 20_000);
}

#[test]
fn a_clock_that_jumps_ahead_is_said_and_the_window_is_not_taken_at_its_word() {
    let world = World::new();
    let clock = Moving::new();
    let evidence = world.open_with(100, |log| log.clock = clock.clone());
    evidence
        .recorder()
        .credentials(&world.credentials(), CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    clock.forward(Duration::from_secs(3600));
    let before = evidence.figures().checkpoints;
    until(&evidence, "two more", |figures| {
        figures.checkpoints > before + 2
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let gaps: Vec<Gap> = world
        .records()
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Gap(gap) if gap.cause == GapCause::Clock => Some(gap),
            _ => None,
        })
        .collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0].lost, None);
    assert_eq!(gaps[0].to.since(gaps[0].from).as_secs(), 3600);
}
