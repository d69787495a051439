//! Edits of a log, of any kind, anywhere: each is found, and its place is named.

use std::path::PathBuf;

use super::*;
use crate::log::{CHECKPOINT, Edge, JOURNAL, LOCK, tiles_in};
use crate::merkle::Hash;
use crate::tile::{Kind as Of, Tile, WIDTH, add_entry, entries_of};

#[test]
fn no_edit_of_a_log_goes_unfound() {
    edits(80);
}

#[test]
#[ignore = "takes minutes: scripts/evidence runs it"]
fn no_edit_of_ten_thousand_goes_unfound() {
    edits(10_000);
}

/// What was done to a log, and where a finding must be for it.
#[derive(Debug)]
struct Edit {
    what: String,
    named: Named,
}

#[derive(Debug)]
enum Named {
    /// This file.
    File(PathBuf),
    /// A record from here to there.
    Records(u64, u64),
}

fn edits(count: usize) {
    let world = World::get();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let clean = check(world.path(), &world.trust, &Expect::default());
    assert!(clean.is_good(), "{:#?}", clean.findings);
    let mut missed = Vec::new();
    let mut by_kind = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..count {
        let copy = tempfile::tempdir().unwrap();
        copy_all(world.path(), copy.path());
        let edit = world.edit(copy.path(), &mut random);
        let kind = edit.what.split(' ').next().unwrap_or_default();
        *by_kind.entry(kind.to_owned()).or_default() += 1;
        let verdict = check(copy.path(), &world.trust, &Expect::default());
        let named = verdict.wrong().any(|finding| match &edit.named {
            Named::File(path) => finding.place.file.as_ref() == Some(path),
            Named::Records(from, to) => finding.place.index.map_or(
                finding.place.file.as_deref() == Some(Path::new(CHECKPOINT)),
                |index| (*from..=*to).contains(&index),
            ),
        });
        if !named {
            let found: Vec<String> = verdict.wrong().map(ToString::to_string).collect();
            missed.push((edit, found));
        }
    }
    println!("{count} edits: {by_kind:?}");
    assert!(missed.is_empty(), "{} missed: {missed:#?}", missed.len());
}

/// A log to be edited: two runs, the first of which crashed, three keys, two bundles and a half.
struct World {
    directory: tempfile::TempDir,
    trust: Trust,
    files: Vec<PathBuf>,
    entries: Vec<Vec<u8>>,
    /// Records that carry a checkpoint.
    marks: Vec<u64>,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(Self::new)
    }

    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, authority) = (Moving::new(), Authority::new());
        let begin = |number| {
            let config = config(directory.path(), &clock, number);
            Run::begin(config, &clock, authority.issue(Kind::P256, YEAR))
        };
        let mut run = begin(1);
        for _ in 0..8 {
            (0..30).for_each(|_| run.window());
            run.sign();
        }
        run.rotate(authority.issue(Kind::P256, YEAR));
        run.windows(4);
        drop(run);
        let mut run = begin(2);
        for _ in 0..4 {
            (0..12).for_each(|_| run.window());
            run.sign();
        }
        run.stop();
        let log = Log::open(directory.path()).unwrap();
        let records: Vec<Record> = log
            .records()
            .unwrap()
            .map(|entry| entry.unwrap().record)
            .collect();
        assert!(records.iter().any(|record| record.boot == boot(2)));
        assert!(matches!(records.last().unwrap().event, Event::Stop(_)));
        let marks = (0..)
            .zip(&records)
            .filter(|(_, record)| record.checkpoint.is_some())
            .map(|(index, _)| index);
        let (tiles, _) = tiles_in(directory.path()).unwrap();
        let mut files: Vec<PathBuf> = tiles.iter().map(Tile::path).collect();
        files.extend([CHECKPOINT.into(), JOURNAL.into()]);
        Self {
            trust: authority.trust(),
            files,
            entries: records.iter().map(|one| one.encode().unwrap()).collect(),
            marks: marks.collect(),
            directory,
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn edit(&self, log: &Path, random: &mut fastrand::Rng) -> Edit {
        match random.u8(..10) {
            0..=3 => self.change_a_byte(log, random),
            4 => self.cut_a_file(log, random),
            5 => self.remove_a_file(log, random),
            6 | 7 => self.edit_records(log, random, false),
            _ => self.edit_records(log, random, true),
        }
    }

    fn change_a_byte(&self, log: &Path, random: &mut fastrand::Rng) -> Edit {
        let file = self.any_file(random);
        let mut bytes = fs::read(log.join(&file)).unwrap();
        let at = random.usize(..bytes.len());
        bytes[at] ^= random.u8(1..);
        fs::write(log.join(&file), bytes).unwrap();
        let what = format!("byte {at} of {}", file.display());
        self.named_by(file, what, at)
    }

    fn cut_a_file(&self, log: &Path, random: &mut fastrand::Rng) -> Edit {
        let file = self.any_file(random);
        let bytes = fs::read(log.join(&file)).unwrap();
        let to = random.usize(..bytes.len());
        fs::write(log.join(&file), &bytes[..to]).unwrap();
        Edit {
            what: format!("cut {} to {to}", file.display()),
            named: Named::File(file),
        }
    }

    fn remove_a_file(&self, log: &Path, random: &mut fastrand::Rng) -> Edit {
        // Whoever copies a log need not copy its journal, which is empty here, nor what was its edge
        // before.
        let size = u64::try_from(self.entries.len()).unwrap();
        let is_needed = |file: &Path| {
            let tile = Tile::at(file);
            let in_force = |tile| Tile::edge(size).any(|edge| edge == tile);
            file.as_os_str() != JOURNAL
                && tile.is_none_or(|tile| tile.width == WIDTH || in_force(tile))
        };
        let file = loop {
            let file = self.any_file(random);
            if is_needed(&file) {
                break file;
            }
        };
        fs::remove_file(log.join(&file)).unwrap();
        let first = Tile::at(&file).filter(|tile| tile.kind == Of::Entries && tile.index == 0);
        Edit {
            what: format!("removed {}", file.display()),
            named: match first {
                // Without its first bundle a log looks as if old records had been dropped.
                Some(_) => Named::Records(WIDTH - 1, WIDTH - 1),
                None => Named::File(file),
            },
        }
    }

    /// Edits the list of records; `anew` computes all hashes anew, as somebody would who knows how.
    fn edit_records(&self, log: &Path, random: &mut fastrand::Rng, anew: bool) -> Edit {
        let mut entries = self.entries.clone();
        let count = entries.len();
        let (one, other) = loop {
            let (one, other) = (random.usize(..count), random.usize(..count));
            if one != other {
                break (one.min(other), one.max(other));
            }
        };
        let what = match random.u8(..5) {
            0 => {
                entries.swap(one, other);
                format!("swapped {one} and {other}")
            }
            1 => {
                entries.remove(one);
                format!("dropped {one}")
            }
            2 => {
                let copy = entries[other].clone();
                entries.insert(one, copy);
                format!("inserted a copy of {other} at {one}")
            }
            3 => {
                entries[one] = entries[other].clone();
                format!("replaced {one} by a copy of {other}")
            }
            _ => {
                let text = String::from_utf8(entries[one].clone()).unwrap();
                entries[one] = text.replacen("web-0", "web-1", 1).into_bytes();
                format!("another pod in {one}")
            }
        };
        write_records(log, &entries, self.entries.len(), anew);
        let first = u64::try_from(one).unwrap();
        // The checkpoint after it is the latest that shows it.
        let next = self.marks.iter().find(|mark| **mark > first);
        let last = next.map_or(u64::try_from(count).unwrap(), |mark| mark + 1);
        Edit {
            what: format!("{what} (hashes anew: {anew})"),
            named: Named::Records(first, last),
        }
    }

    fn any_file(&self, random: &mut fastrand::Rng) -> PathBuf {
        self.files[random.usize(..self.files.len())].clone()
    }

    /// Which place names an edit of a file.
    fn named_by(&self, file: PathBuf, what: String, at: usize) -> Edit {
        let origin_line = file.as_os_str() == CHECKPOINT && at < crate::testing::ORIGIN.len();
        Edit {
            what,
            named: if origin_line {
                // Every checkpoint in the log is of another log than the newest, then.
                Named::Records(0, u64::MAX)
            } else {
                Named::File(file)
            },
        }
    }
}

fn write_records(log: &Path, entries: &[Vec<u8>], size: usize, anew: bool) {
    let put = |tile: Tile, bytes: &[u8]| {
        let path = log.join(tile.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    if anew {
        fs::remove_dir_all(log.join("tile")).unwrap();
    } else {
        fs::remove_dir_all(log.join("tile/entries")).unwrap();
    }
    let mut edge = Edge::empty();
    // As many as the checkpoint names, or fewer.
    let entries = &entries[..entries.len().min(size)];
    for (index, bundle) in (0..).zip(entries.chunks(256)) {
        let mut bytes = Vec::new();
        for entry in bundle {
            add_entry(&mut bytes, entry);
            for (tile, hashes) in edge.push(Hash::leaf(entry)) {
                if anew {
                    put(tile, &hashes);
                }
            }
        }
        assert_eq!(entries_of(&bytes).1, 0);
        let tile = Tile {
            kind: Of::Entries,
            index,
            width: u64::try_from(bundle.len()).unwrap(),
        };
        put(tile, &bytes);
    }
    if anew {
        edge.partial_tiles()
            .for_each(|(tile, bytes)| put(tile, &bytes));
    }
    assert!(log.join(LOCK).exists());
}
