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

#[test]
fn on_a_full_disk_what_was_acknowledged_stays_and_the_log_goes_on_once_there_is_room() {
    let world = World::new();
    let keys = tempfile::tempdir().unwrap();
    world.authority.issue_into(keys.path(), Kind::P256, YEAR);
    // No file may grow beyond 64 blocks: to the writer that is what a full disk is.
    let program = std::env::current_exe().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let mut child = Command::new("bash")
        .args(["-c", limited, "bash"])
        .arg(program)
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("log::tests::crash::writes_until_the_disk_is_full")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(
        input,
        "{}\n{}",
        world.path().display(),
        keys.path().display()
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("full"), "{said}");
    let written = said
        .lines()
        .filter(|line| line.starts_with(WRITTEN))
        .count();
    assert!(written > 10, "{said}");
    // Start, certificate and custody come before.
    assert_eq!(world.records().len(), 3 + written);
    world.good();
    let next = config(world.path(), &world.clock, 2);
    Run::begin(next, &world.clock, credentials_in(keys.path())).stop();
    world.good();
    let gaps = world.gaps().into_iter();
    assert_eq!(gaps.filter(|gap| gap.cause == GapCause::Crash).count(), 1);
}

#[test]
#[ignore = "is started by the test above, with a limit on files"]
fn writes_until_the_disk_is_full() {
    let mut run = run_as_told();
    let mut mark = 0;
    let error = loop {
        match run.log.append(marked(mark)).and_then(|_| run.log.sync()) {
            Ok(()) => writeln!(stdout(), "{WRITTEN}{mark}").unwrap(),
            Err(error) => break error,
        }
        mark += 1;
    };
    assert!(error.is_storage(), "{error}");
    // Half a record must not stand before the next, whether there is room for that one or not.
    match run.log.append(marked(mark)).and_then(|_| run.log.sync()) {
        Ok(()) => writeln!(stdout(), "{WRITTEN}{mark}").unwrap(),
        Err(error) => assert!(error.is_storage(), "{error}"),
    }
    writeln!(stdout(), "full").unwrap();
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
    let mut run = run_as_told();
    for mark in (u64::from(fastrand::u32(..)) << 20).. {
        run.log.append(marked(mark)).unwrap();
        run.log.sync().unwrap();
        writeln!(stdout(), "{WRITTEN}{mark}").unwrap();
        if fastrand::u8(..8) == 0 {
            writeln!(stdout(), "signing").unwrap();
            run.sign();
        }
    }
}

/// A run in the directory, and with the key, that standard input names.
fn run_as_told() -> Run {
    let paths: Vec<String> = stdin().lines().take(2).map(Result::unwrap).collect();
    let clock = Moving::new();
    let mut config = config(Path::new(&paths[0]), &clock, 0);
    config.boot = Boot::new(std::array::from_fn(|_| fastrand::u8(..)));
    config.durable = true;
    let credentials = credentials_in(Path::new(&paths[1]));
    Run::begin(config, &clock, credentials)
}

fn marked(mark: u64) -> Event {
    Event::Gap(Gap {
        cause: GapCause::Other,
        from: Timestamp::EPOCH,
        to: Timestamp::EPOCH,
        lost: Some(mark),
        detail: "m".repeat(fastrand::usize(..500)),
    })
}
