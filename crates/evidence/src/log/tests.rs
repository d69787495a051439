use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::Duration;

use super::*;
use crate::record::{Event, Gap, GapCause};
use crate::testing::{Authority, Kind, Moving, Run, config, pod, start, stop};
use crate::verify::{Expect, Problem, verify};

mod copies;
mod crash;
mod others;
mod retention;

const YEAR: Duration = Duration::from_secs(86_400 * 365);

struct World {
    directory: tempfile::TempDir,
    clock: Arc<Moving>,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Moving::new(),
            authority: Authority::new(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, number: u8) -> Run {
        self.run_with(number, |_| {})
    }

    fn run_with(&self, number: u8, change: impl FnOnce(&mut LogConfig)) -> Run {
        let mut config = config(self.path(), &self.clock, number);
        change(&mut config);
        Run::begin(config, &self.clock, self.authority.issue(Kind::P256, YEAR))
    }

    fn records(&self) -> Vec<Entry> {
        let log = Log::open(self.path()).unwrap();
        log.records().unwrap().map(Result::unwrap).collect()
    }

    fn gaps(&self) -> Vec<Gap> {
        let records = self.records().into_iter();
        let gaps = records.filter_map(|entry| match entry.record.event {
            Event::Gap(gap) => Some(gap),
            _ => None,
        });
        gaps.collect()
    }

    /// Demands that nothing is wrong, and says what is remarked.
    fn good(&self) -> Vec<Problem> {
        let logs = [self.path().to_owned()];
        let verdict = verify(&logs, &self.authority.trust(), &Expect::default(), &|_| {});
        let wrong: Vec<String> = verdict.logs[0].wrong().map(ToString::to_string).collect();
        assert!(verdict.is_good(), "{wrong:#?}");
        verdict.logs[0].remarks().map(|one| one.problem).collect()
    }
}

#[test]
fn a_log_that_ends_in_order_verifies_without_a_remark() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(5);
    run.stop();
    assert_eq!(world.good(), []);
    let records = world.records();
    assert_eq!(records.len(), 3 + 5 + 1);
    assert!(records.iter().all(|entry| entry.signed));
}

#[test]
fn a_log_crosses_bundles_and_levels() {
    let world = World::new();
    let mut run = world.run(1);
    for _ in 0..5 {
        for _ in 0..120 {
            run.window();
        }
        run.sign();
    }
    run.stop();
    assert_eq!(world.good(), []);
    assert_eq!(world.records().len(), 604);
    let tiles = tiles_in(world.path()).unwrap().0;
    // Two full bundles and a partial one, the same of hashes, and one level above; and the partial
    // ones of the checkpoint before.
    assert_eq!(tiles.len(), 9, "{tiles:?}");
}

#[test]
fn what_is_not_signed_yet_is_read_from_the_journal_and_said_to_be_unsigned() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(2);
    run.window();
    run.log.sync().unwrap();
    let records = world.records();
    assert!(!records.last().unwrap().signed);
    assert_eq!(world.good(), [Problem::Unsigned, Problem::OpenEnd]);
}

#[test]
fn a_run_after_a_crash_goes_on_and_states_the_gap() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(3);
    run.window();
    drop(run);
    world.clock.forward(Duration::from_secs(30));
    let mut run = world.run(2);
    run.windows(2);
    run.stop();
    assert_eq!(world.good(), [Problem::TakenOver, Problem::Gap]);
    let gaps = world.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].cause, GapCause::Crash);
    assert_eq!(gaps[0].to.since(gaps[0].from), Duration::from_secs(30));
}

#[test]
fn a_run_after_an_orderly_one_names_it() {
    let world = World::new();
    world.run(1).stop();
    let run = world.run(2);
    drop(run);
    let records = world.records();
    let starts: Vec<_> = records
        .iter()
        .filter_map(|entry| match &entry.record.event {
            Event::Start(start) => Some(start.previous),
            _ => None,
        })
        .collect();
    assert_eq!(starts[0], None);
    assert!(starts[1].unwrap().stopped);
    assert_eq!(world.gaps()[0].cause, GapCause::NotRunning);
}

#[test]
fn half_a_record_at_the_end_is_cut_off_and_said() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(1);
    run.window();
    run.log.sync().unwrap();
    let before = world.records().len();
    drop(run);
    let path = world.path().join(JOURNAL);
    let mut journal = OpenOptions::new().append(true).open(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    // The first half of the record before, as if it were the next.
    journal.write_all(&whole[16..60]).unwrap();
    drop(journal);
    let opened = LogWriter::open(config(world.path(), &world.clock, 2), start());
    assert!(
        matches!(opened, Err(LogError::Damaged { .. })),
        "a frame of another index is no torn write: {opened:?}"
    );
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    world.run(2).stop();
    assert!(
        world.gaps()[0].detail.contains("cut short"),
        "{:?}",
        world.gaps()
    );
    assert_eq!(world.good(), [Problem::Gap]);
    assert_eq!(world.records().len(), before - 1 + 2 + 2 + 1);
}

#[test]
fn a_crash_between_tiles_and_checkpoint_leaves_a_log_that_goes_on() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(2);
    run.window();
    let cut = run.log.cut().unwrap();
    let before = fs::read(world.path().join(CHECKPOINT)).unwrap();
    let journal = fs::read(world.path().join(JOURNAL)).unwrap();
    let signed = cut
        .checkpoint()
        .clone()
        .sign(run.credentials.key().as_ref());
    run.log.commit(&signed.unwrap()).unwrap();
    drop(run);
    // Tiles are those of after, checkpoint and journal those of before.
    fs::write(world.path().join(CHECKPOINT), before).unwrap();
    fs::write(world.path().join(JOURNAL), journal).unwrap();
    let remarks = world.good();
    assert!(remarks.contains(&Problem::Interrupted), "{remarks:?}");
    assert_eq!(
        world.records().iter().filter(|entry| !entry.signed).count(),
        1
    );
}

#[test]
fn what_is_signed_does_not_count_as_waiting_after_a_crash() {
    let world = World::new();
    let mut run = world.run(1);
    while run.log.standing().pending_bytes < 50_000 {
        run.window();
    }
    run.log.sync().unwrap();
    let journal = fs::read(world.path().join(JOURNAL)).unwrap();
    run.sign();
    drop(run);
    // The checkpoint is that of after, the journal that of before.
    fs::write(world.path().join(JOURNAL), journal).unwrap();
    let run = world.run(2);
    assert!(run.log.standing().pending_bytes < 10_000);
    drop(run);
    world.good();
}

#[test]
fn two_writers_cannot_hold_one_log() {
    let world = World::new();
    let _run = world.run(1);
    let second = LogWriter::open(config(world.path(), &world.clock, 2), start());
    assert!(matches!(second, Err(LogError::Locked(_))), "{second:?}");
}

#[test]
fn a_writer_does_not_go_on_from_a_log_that_was_edited() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(2);
    run.stop();
    let tile = world.path().join("tile/0/000.p/6");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[5] ^= 1;
    fs::write(&tile, bytes).unwrap();
    let opened = LogWriter::open(config(world.path(), &world.clock, 2), start());
    assert!(
        matches!(opened, Err(LogError::Damaged { .. })),
        "{opened:?}"
    );
}

#[test]
fn too_much_without_a_signature_is_refused_and_goes_on_once_it_is_signed() {
    let world = World::new();
    let mut run = world.run_with(1, |config| config.pending = 10_000);
    let full = (0..100).find_map(|_| {
        let gap = Event::Gap(Gap {
            cause: GapCause::Other,
            from: run.log.now(),
            to: run.log.now(),
            lost: None,
            detail: "x".repeat(500),
        });
        run.log.append(gap).err()
    });
    assert!(matches!(full, Some(LogError::Full { .. })), "{full:?}");
    run.sign();
    run.windows(1);
    run.stop();
    world.good();
}

#[test]
fn a_clock_that_was_set_back_is_said() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(2);
    world.clock.back(Duration::from_secs(3600));
    run.log.append(Event::Stop(stop())).unwrap();
    run.sign();
    let remarks = world.good();
    assert_eq!(remarks, [Problem::Gap]);
    assert_eq!(world.gaps()[0].cause, GapCause::Clock);
}

#[test]
fn a_checkpoint_that_cannot_be_put_in_place_leaves_the_one_before_and_comes_later() {
    let world = World::new();
    let mut run = world.run(1);
    run.windows(1);
    run.window();
    // Where the file is to be that is being written, there is a directory.
    let new = world.path().join("checkpoint.new");
    fs::create_dir(&new).unwrap();
    let key = run.credentials.key().clone();
    let error = run.log.checkpoint(key.as_ref()).unwrap_err();
    assert!(error.is_storage(), "{error}");
    world.good();
    fs::remove_dir(&new).unwrap();
    run.sign();
    run.stop();
    assert_eq!(world.good(), []);
}

#[test]
fn old_records_are_dropped_with_a_signed_note_and_the_rest_verifies() {
    let world = World::new();
    let mut run = world.run_with(1, |config| {
        config.retention.age = Some(Duration::from_secs(3600 * 5));
    });
    for _ in 0..100 {
        for _ in 0..9 {
            run.window();
        }
        run.sign();
        run.log.retain().unwrap();
    }
    run.stop();
    let log = Log::open(world.path()).unwrap();
    assert!(log.first() >= 256, "{}", log.first());
    assert_eq!(world.records()[0].index, log.first());
    assert_eq!(world.good(), [Problem::Dropped]);
}

#[test]
fn records_that_are_missing_without_a_note_are_removed_ones() {
    let world = World::new();
    let mut run = world.run(1);
    for _ in 0..300 {
        run.window();
    }
    run.sign();
    run.stop();
    fs::remove_file(world.path().join("tile/entries/000")).unwrap();
    let logs = [world.path().to_owned()];
    let verdict = verify(&logs, &world.authority.trust(), &Expect::default(), &|_| {});
    let problems: Vec<_> = verdict.logs[0].wrong().map(|one| one.problem).collect();
    assert!(problems.contains(&Problem::Removed), "{problems:?}");
}

#[test]
fn a_log_is_kept_within_its_size() {
    let world = World::new();
    let mut run = world.run_with(1, |config| config.retention.bytes = Some(300_000));
    for _ in 0..200 {
        for _ in 0..6 {
            run.window();
        }
        run.sign();
        run.log.retain().unwrap();
        assert!(run.log.standing().bytes < 700_000);
    }
    run.stop();
    assert!(Log::open(world.path()).unwrap().first() > 0);
    world.good();
}

#[test]
fn an_origin_has_nothing_in_it_that_a_note_cannot_bear() {
    let mut pod = pod();
    pod.name = "web 0+1".to_owned();
    assert_eq!(
        origin_of("m.example", &pod),
        "m.example/ns/shop/pod/web-0-1/6f1a"
    );
}
