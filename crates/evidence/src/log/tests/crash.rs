//! Processes that are killed while they write. The writer is this program again, started for one
//! test that nobody runs by itself; it reads where to write from its standard input.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::record::Timestamp;
use crate::testing::credentials_in;

/// What the writer says before each number that it has been told is on disk.
const WRITTEN: &str = "written ";

#[test]
fn what_was_acknowledged_survives_being_killed_at_any_moment() {
    kills(8);
}

#[test]
#[ignore = "takes minutes: scripts/evidence runs it"]
fn what_was_acknowledged_survives_two_hundred_kills() {
    kills(200);
}

fn kills(times: u8) {
    let world = World::new();
    let keys = tempfile::tempdir().unwrap();
    world.authority.issue_into(keys.path(), Kind::P256, YEAR);
    let (mut acknowledged, mut under_way) = (0, 0);
    for time in 0..times {
        let after = Duration::from_millis(fastrand::u64(5..150));
        let (written, signing) = kill_one(world.path(), keys.path(), after);
        acknowledged += written.len();
        under_way += usize::from(signing);
        let records = world.records();
        let there: std::collections::HashSet<u64> = records
            .iter()
            .filter_map(|entry| match &entry.record.event {
                Event::Gap(gap) if gap.cause == GapCause::Other => gap.lost,
                _ => None,
            })
            .collect();
        let missing: Vec<_> = written
            .iter()
            .filter(|mark| !there.contains(mark))
            .collect();
        assert!(missing.is_empty(), "kill {time}: {missing:?} are gone");
    }
    assert!(
        acknowledged > usize::from(times),
        "{acknowledged}: killed too early to show anything"
    );
    println!("{acknowledged} records acknowledged, {under_way} of {times} killed while signing");
    // The last run tells how the log goes on.
    let last = config(world.path(), &world.clock, times + 1);
    Run::begin(last, &world.clock, credentials_in(keys.path())).stop();
    let gaps = world.gaps();
    let crashes = gaps
        .iter()
        .filter(|gap| gap.cause == GapCause::Crash)
        .count();
    assert_eq!(crashes, usize::from(times), "a gap for each kill");
    world.good();
}

/// Has a writer killed after a while, and says what it was told is on disk, and whether it was
/// signing when it ended.
fn kill_one(directory: &Path, keys: &Path, after: Duration) -> (Vec<u64>, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("log::tests::crash::writes_until_it_is_killed")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}\n{}", directory.display(), keys.display()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut written = Vec::new();
    let mut signing = false;
    let mut begun: Option<Instant> = None;
    while let Some(Ok(line)) = lines.next() {
        if line == "signing" {
            signing = true;
        } else if let Some(mark) = line.strip_prefix(WRITTEN) {
            signing = false;
            written.push(mark.parse().unwrap());
        }
        let begun = begun.get_or_insert_with(Instant::now);
        if begun.elapsed() > after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    drop(input);
    (written, signing)
}

#[test]
#[ignore = "is started and killed by the tests above"]
fn writes_until_it_is_killed() {
    let paths: Vec<String> = stdin().lines().take(2).map(Result::unwrap).collect();
    let directory = Path::new(&paths[0]);
    let clock = Moving::new();
    let boot = Boot::new(std::array::from_fn(|_| fastrand::u8(..)));
    let mut config = config(directory, &clock, 0);
    config.boot = boot;
    config.durable = true;
    let mut run = Run::begin(config, &clock, credentials_in(Path::new(&paths[1])));
    for mark in (u64::from(fastrand::u32(..)) << 20).. {
        let now = Timestamp::EPOCH;
        let event = Event::Gap(Gap {
            cause: GapCause::Other,
            from: now,
            to: now,
            lost: Some(mark),
            detail: "m".repeat(fastrand::usize(..500)),
        });
        run.log.append(event).unwrap();
        run.log.sync().unwrap();
        writeln!(stdout(), "{WRITTEN}{mark}").unwrap();
        if fastrand::u8(..8) == 0 {
            writeln!(stdout(), "signing").unwrap();
            run.sign();
        }
    }
}
