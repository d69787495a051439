//! Where a log begins: with its first record, or with the first that was not dropped by a rule, and a
//! note that says so.

use super::Walk;
use crate::log::{Edge, LogError, read};
use crate::record::{Event, Record, Retention};
use crate::tile::{Kind, Tile, WIDTH, entries_of};
use crate::verify::finding::{Place, Problem};

/// Mark of a note on dropped records, in an entry as it is.
const RETENTION: &[u8] = br#""kind":"retention""#;

/// Bundles that may be missing before what comes after them is not looked at any more: a checkpoint
/// may name any number of records, and one file with a great number may stand for the last of them.
const MOST_MISSING: u64 = 1024;

impl Walk<'_> {
    /// How far a tree of `size` leaves can be walked: to the last bundle that there is, or to where
    /// too many are missing before the next.
    pub(super) fn there(&self, size: u64) -> u64 {
        let mut end = self.verdict.first / WIDTH;
        let mut missing = 0;
        for bundle in self.tiles.iter().filter(|tile| tile.kind == Kind::Entries) {
            missing += bundle.index.saturating_sub(end);
            if missing > MOST_MISSING {
                break;
            }
            end = end.max(bundle.index + 1);
        }
        size.min(end.saturating_mul(WIDTH))
    }

    /// Where the log begins, and whether it may begin there.
    pub(super) fn begin(&mut self, size: u64) -> Result<(), LogError> {
        let bundles = self.tiles.iter().filter(|tile| tile.kind == Kind::Entries);
        let first = bundles.map(|tile| tile.index * WIDTH).min();
        let first = first.filter(|first| *first < size).unwrap_or(0);
        self.verdict.first = first;
        if first == 0 {
            return Ok(());
        }
        let directory = self.directory;
        let edge = Edge::load(
            first,
            |tile| {
                let full = read(&directory.join(tile.full_path()))?;
                let wider = (tile.width..WIDTH).map(|width| Tile { width, ..tile }.path());
                let mut wider = wider.filter_map(|path| read(&directory.join(path)).ok()?);
                let found = full.or_else(|| wider.next());
                found.ok_or_else(|| LogError::damaged(tile.path(), "it is missing"))
            },
            |tile| LogError::damaged(tile.path(), "it is not as wide as its name says"),
        );
        let place = Place {
            index: Some(first - 1),
            ..Place::default()
        };
        match edge {
            Ok(edge) => {
                self.tree = edge.compact();
                self.edge = edge;
            }
            Err(error) => {
                let problem = format!(
                    "records before {first} are missing, and so is what shows which they were: {error}"
                );
                self.say(Problem::Removed, place, problem);
                return Ok(());
            }
        }
        let notes = self.retention_notes(first, size)?;
        // A note carries on what its own drop would have lost; earlier ones carry on the rest.
        for (index, note) in &notes {
            for mut finding in self.chain.carry_on(note) {
                finding.place.index = Some(*index);
                self.verdict.add(finding);
            }
        }
        let Some((index, note)) = notes.iter().find(|(_, note)| note.minimum == first) else {
            if notes.iter().any(|(_, note)| note.minimum > first) {
                let detail = "dropping of old records was interrupted";
                self.say(Problem::Interrupted, place, detail);
                self.chain.skip();
            } else {
                let problem = format!(
                    "records before {first} are missing, and no note says that they were dropped"
                );
                self.say(Problem::Removed, place, problem);
            }
            return Ok(());
        };
        if note.root != self.tree.root().to_string() {
            let problem = format!(
                "the note in record {index} says that records before {first} lead to the root {}, the tiles lead to {}",
                note.root,
                self.tree.root()
            );
            self.say(Problem::Root, place.clone(), problem);
        }
        let said = format!(
            "records {} to {} were dropped by {:?}, and record {index} says so",
            note.dropped_from,
            first - 1,
            note.rule
        );
        self.chain.go_on_from(note.last);
        self.say(Problem::Dropped, place, said);
        Ok(())
    }

    /// Every note on dropped records, found without reading the others.
    fn retention_notes(&self, first: u64, size: u64) -> Result<Vec<(u64, Retention)>, LogError> {
        let mut notes = Vec::new();
        for number in first / WIDTH..self.there(size).div_ceil(WIDTH) {
            let width = (size - number * WIDTH).min(WIDTH);
            let tile = Tile {
                kind: Kind::Entries,
                index: number,
                width,
            };
            let Some(bytes) = read(&self.directory.join(tile.path()))? else {
                continue;
            };
            let (entries, _) = entries_of(&bytes);
            for (index, entry) in (number * WIDTH..).zip(entries) {
                let marked = entry.windows(RETENTION.len()).any(|part| part == RETENTION);
                if let Some(Ok(record)) = marked.then(|| Record::decode(entry))
                    && let Event::Retention(note) = record.event
                {
                    notes.push((index, *note));
                }
            }
        }
        Ok(notes)
    }
}
