//! Logs by somebody who wants their reader to hang, to run out of memory, or to break.

use std::fs::File;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::testing::record_of;
use crate::tile::{MOST_RECORDS, Tile, WIDTH};

/// A log of some windows, and whom to trust.
fn log() -> (tempfile::TempDir, Trust) {
    let directory = tempfile::tempdir().unwrap();
    let (clock, authority) = (Moving::new(), Authority::new());
    let config = config(directory.path(), &clock, 1);
    let mut run = Run::begin(config, &clock, authority.issue(Kind::P256, YEAR));
    run.windows(3);
    run.stop();
    (directory, authority.trust())
}

#[test]
fn directories_that_lead_round_in_circles_are_not_followed() {
    let (log, trust) = log();
    for name in ["a", "b", "c"] {
        symlink(".", log.path().join("tile").join(name)).unwrap();
    }
    let verdict = check(log.path(), &trust, &Expect::default());
    assert_eq!(problems(&verdict), [Problem::Stray; 3]);
}

#[test]
fn a_file_without_an_end_is_not_read_to_its_end() {
    for name in ["checkpoint", "tile/0/000.p/7", "tile/entries/000.p/7"] {
        let (log, trust) = log();
        let file = File::options()
            .write(true)
            .open(log.path().join(name))
            .unwrap();
        file.set_len(1 << 42).unwrap();
        let verdict = check(log.path(), &trust, &Expect::default());
        let wrong = verdict.wrong().next().unwrap();
        assert_eq!(wrong.place.file.as_deref(), Some(Path::new(name)));
    }
    let (log, trust) = log();
    let journal = File::options().write(true).open(log.path().join("journal"));
    journal.unwrap().set_len(1 << 42).unwrap();
    let verdict = check(log.path(), &trust, &Expect::default());
    assert_eq!(problems(&verdict), [Problem::Journal]);
}

#[test]
fn a_pipe_in_a_files_place_holds_nobody_up() {
    for name in ["checkpoint", "journal", "tile/0/000.p/7"] {
        let (log, trust) = log();
        let path = log.path().join(name);
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let verdict = check(log.path(), &trust, &Expect::default());
        let wrong = verdict.wrong().next().unwrap();
        assert_eq!(wrong.place.file.as_deref(), Some(Path::new(name)));
    }
}

#[test]
fn one_file_with_a_great_number_does_not_stand_for_all_before_it() {
    let (log, trust) = log();
    let note = fs::read_to_string(log.path().join("checkpoint")).unwrap();
    let note = note.replacen("\n7\n", &format!("\n{MOST_RECORDS}\n"), 1);
    fs::write(log.path().join("checkpoint"), note).unwrap();
    let first = Tile {
        kind: crate::tile::Kind::Entries,
        index: 0,
        width: WIDTH,
    };
    let last = Tile {
        index: MOST_RECORDS / WIDTH - 1,
        ..first
    };
    for tile in [first, last] {
        let path = log.path().join(tile.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    assert!(!check(log.path(), &trust, &Expect::default()).is_good());
}

#[test]
fn a_moment_that_cannot_be_written_is_no_record_and_breaks_nothing() {
    let text = String::from_utf8(record_of(crate::testing::a_window()).encode().unwrap()).unwrap();
    for moment in ["9999-12-31T23:59:59-23:59", "0000-01-01T00:30:00+01:00"] {
        let entry = text.replace("2026-11-25T12:00:00Z", moment);
        assert!(entry.contains(moment), "{text}");
        assert!(Record::decode(entry.as_bytes()).is_err(), "{moment}");
    }
}

#[test]
fn a_fault_of_the_program_in_one_log_is_a_verdict_and_no_end() {
    let (log, trust) = log();
    let logs = [log.path().to_owned()];
    let verdict = verify(&logs, &trust, &Expect::default(), &|_| {
        panic!("as somebody's log might have it")
    });
    assert!(!verdict.is_good());
    assert_eq!(problems(&verdict.logs[0]), [Problem::Unreadable]);
}
