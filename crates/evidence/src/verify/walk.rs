//! The way through one log: every record from the first to the last, every hash computed from them,
//! and every file compared with what it should hold. Keeps one bundle, one tile a level, and the
//! roots of the last sizes, which is where checkpoints may point to.

use std::collections::VecDeque;
use std::path::Path;

use super::chain::Chain;
use super::finding::{Finding, Place, Problem};
use super::signers::Signers;
use super::{Expect, LogVerdict, Progress, Trust};
use crate::log::{
    CHECKPOINT, Edge, Ending, JOURNAL, JournalReader, LogError, MOST_PENDING, Tree, TreeError,
    is_new, read, tiles_in,
};
use crate::merkle::{Compact, Hash};
use crate::note::SignedCheckpoint;
use crate::record::{Event, Record, Retention, Timestamp};
use crate::tile::{Kind, Tile, WIDTH, add_entry, entries_of};

/// Mark of a note on dropped records, in an entry as it is.
const RETENTION: &[u8] = br#""kind":"retention""#;

/// Records between two words about progress.
const STEP: u64 = 1024;

/// A log on its way.
pub(super) struct Walk<'a> {
    directory: &'a Path,
    expect: &'a Expect,
    chain: Chain,
    verdict: LogVerdict,
    /// The tree as the records lead to it.
    tree: Compact,
    edge: Edge,
    /// Sizes that were passed, youngest last, with the root and the time of the last record.
    roots: VecDeque<(u64, Hash, Timestamp)>,
    /// What there is of tiles and bundles, in order.
    tiles: Vec<Tile>,
    /// Time of the last record that a good checkpoint covers.
    certain: Option<Timestamp>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(directory: &'a Path, trust: &Trust, expect: &'a Expect) -> Self {
        Self {
            directory,
            expect,
            chain: Chain::new(Signers::new(trust.bundle.clone())),
            verdict: LogVerdict {
                directory: directory.to_owned(),
                ..LogVerdict::default()
            },
            tree: Compact::default(),
            edge: Edge::empty(),
            roots: VecDeque::new(),
            tiles: Vec::new(),
            certain: None,
        }
    }

    pub(super) fn run(mut self, progress: &(dyn Fn(Progress<'_>) + Sync)) -> LogVerdict {
        if let Err(error) = self.walk(progress) {
            self.say(Problem::Unreadable, Place::default(), error.to_string());
        }
        self.verdict.pod = self.chain.pod.take();
        self.verdict.boots = self.chain.boots;
        self.verdict.from = self.chain.from;
        self.verdict.to = self.chain.last_time();
        self.verdict
    }

    fn walk(&mut self, progress: &(dyn Fn(Progress<'_>) + Sync)) -> Result<(), LogError> {
        let signed = self.newest()?;
        let (tiles, strays) = tiles_in(self.directory)?;
        self.tiles = tiles;
        for stray in strays {
            let (problem, detail) = if is_new(&stray) {
                let detail = "half written: a crash came, or the log is being written";
                (Problem::Interrupted, detail)
            } else {
                (Problem::Stray, "no file of a log has this name")
            };
            self.say(problem, Place::file(stray), detail);
        }
        let size = signed.as_ref().map_or(0, |signed| signed.checkpoint().size);
        self.verdict.signed = size;
        if let Some(signed) = &signed {
            self.verdict.origin = Some(signed.checkpoint().origin.clone());
            self.signed_records(signed, progress)?;
        }
        self.leftovers(size);
        self.waiting_records(size)?;
        if let Some(open) = self.chain.end() {
            self.verdict.add(open);
        }
        self.expected(&signed);
        progress(Progress {
            log: self.directory,
            records: self.verdict.records,
            of: size,
        });
        Ok(())
    }

    /// The newest checkpoint. A log that has a journal alone has none yet.
    fn newest(&mut self) -> Result<Option<SignedCheckpoint>, LogError> {
        let bytes = read(&self.directory.join(CHECKPOINT))?;
        let place = || Place::file(CHECKPOINT);
        let Some(bytes) = bytes else {
            let journal = self.directory.join(JOURNAL);
            let begins = JournalReader::open(&journal).ok().flatten();
            if begins.is_none_or(|journal| journal.base() > 0) {
                let detail = "it is missing: nothing shows what was in this log";
                self.say(Problem::Checkpoint, place(), detail);
            }
            return Ok(None);
        };
        let note = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned());
        let signed =
            note.and_then(|note| SignedCheckpoint::read(&note).map_err(|error| error.to_string()));
        match signed {
            Ok(signed) => Ok(Some(signed)),
            Err(problem) => {
                self.say(Problem::Checkpoint, place(), problem);
                Ok(None)
            }
        }
    }

    /// Everything that the newest checkpoint covers.
    fn signed_records(
        &mut self,
        signed: &SignedCheckpoint,
        progress: &(dyn Fn(Progress<'_>) + Sync),
    ) -> Result<(), LogError> {
        let size = signed.checkpoint().size;
        let mut proven = match Tree::open(self.directory, signed.checkpoint()) {
            Ok(tree) => Some(tree),
            Err(error) => {
                self.say_tree(error)?;
                None
            }
        };
        self.begin(size)?;
        let there = self.there(size);
        let mut next = self.verdict.first;
        while next < there {
            let number = next / WIDTH;
            let bundle = Tile {
                kind: Kind::Entries,
                index: number,
                width: (size - number * WIDTH).min(WIDTH),
            };
            let hashes = match proven.as_mut().map(|tree| tree.hashes(0, number)) {
                None => None,
                Some(Ok(hashes)) => Some(hashes.to_vec()),
                Some(Err(error)) => {
                    self.say_tree(error)?;
                    None
                }
            };
            self.bundle(bundle, hashes.as_deref())?;
            next = number * WIDTH + bundle.width;
            if next.is_multiple_of(STEP) {
                progress(Progress {
                    log: self.directory,
                    records: self.verdict.records,
                    of: size,
                });
            }
        }
        if there < size {
            let detail = format!("records {there} to {} are missing", size - 1);
            let bundle = Tile {
                kind: Kind::Entries,
                index: there / WIDTH,
                width: (size - there).min(WIDTH),
            };
            self.say(Problem::Bundle, at(there, &bundle.path()), detail);
            self.chain.skip();
        }
        self.edge_tiles()?;
        self.verdict.signed_to = self.chain.last_time();
        self.checkpoint(signed, Place::file(CHECKPOINT));
        Ok(())
    }

    /// How far a tree of `size` leaves can be walked: to the last bundle that there is.
    fn there(&self, size: u64) -> u64 {
        let bundles = self.tiles.iter().filter(|tile| tile.kind == Kind::Entries);
        let last = bundles.map(|tile| tile.index).max();
        let end = last.map_or(0, |last| last.saturating_add(1).saturating_mul(WIDTH));
        size.min(end)
    }

    /// Where the log begins, and whether it may begin there.
    fn begin(&mut self, size: u64) -> Result<(), LogError> {
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
        // A note carries on what its own drop would have lost; earlier ones carry on the rest.
        for (index, note) in &notes {
            for mut finding in self.chain.carry_on(note) {
                finding.place.index = Some(*index);
                self.verdict.add(finding);
            }
        }
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

    /// One bundle: its records, as far as they are the ones that were signed.
    fn bundle(&mut self, tile: Tile, proven: Option<&[Hash]>) -> Result<(), LogError> {
        let first = tile.index * WIDTH;
        let path = tile.path();
        // A wider one does as well: the writer may be between two checkpoints.
        let mut files = self.files_of(tile).iter();
        let source = files.find(|file| file.width >= tile.width).copied();
        let path = source.map_or(path, |source| source.path());
        let bytes = read(&self.directory.join(&path))?.unwrap_or_default();
        let (entries, rest) = entries_of(&bytes);
        let wanted = usize::try_from(tile.width).unwrap_or(usize::MAX);
        if bytes.is_empty() {
            let detail = format!("records {first} to {} are missing", first + tile.width - 1);
            self.say(Problem::Bundle, at(first, &path), detail);
        } else if rest > 0
            || entries.len() < wanted
            || source == Some(tile) && entries.len() > wanted
        {
            let detail = format!(
                "it should hold {wanted} records and holds {}, with {rest} bytes after them",
                entries.len()
            );
            self.say(Problem::Bundle, at(first, &path), detail);
        }
        for place in 0..wanted {
            let index = first + u64::try_from(place).unwrap_or(u64::MAX);
            let hash = proven.and_then(|proven| proven.get(place)).copied();
            self.entry(index, entries.get(place).copied(), hash, &path)?;
        }
        let mut same = Vec::new();
        for entry in entries.iter().take(wanted) {
            add_entry(&mut same, entry);
        }
        self.compare_others(tile, &same)
    }

    /// One record, which may be missing.
    fn entry(
        &mut self,
        index: u64,
        entry: Option<&[u8]>,
        proven: Option<Hash>,
        path: &Path,
    ) -> Result<(), LogError> {
        let found = entry.map(Hash::leaf);
        let leaf = proven.or(found).unwrap_or_else(Hash::empty);
        let good = found == Some(leaf);
        let decoded = entry.map(Record::decode);
        if let Some(record) = decoded.as_ref().and_then(|decoded| decoded.as_ref().ok())
            && let Some(checkpoint) = record.checkpoint.as_deref().filter(|_| good)
        {
            self.embedded(checkpoint, index, record);
        }
        match decoded {
            None => self.chain.skip(),
            Some(Err(error)) if good => {
                self.say(Problem::Schema, at(index, path), error.to_string());
                self.chain.skip();
            }
            Some(Err(_)) => {
                let detail = "it is not the one that was signed, nor any record at all";
                self.say(Problem::Record, at(index, path), detail);
                self.chain.skip();
            }
            Some(Ok(record)) if good => {
                self.verdict.records += 1;
                for mut finding in self.chain.take(index, &record) {
                    finding.place.file = Some(path.to_owned());
                    self.verdict.add(finding);
                }
            }
            Some(Ok(record)) => {
                let mut place = at(index, path);
                place.boot = Some(record.boot);
                place.seq = Some(record.seq);
                let detail = "it is not the one that was signed";
                self.say(Problem::Record, place, detail);
                self.chain.skip();
            }
        }
        self.pass(leaf);
        for (tile, bytes) in self.edge.push(leaf) {
            self.compare_tile(tile, &bytes)?;
        }
        self.contained();
        Ok(())
    }

    /// Adds a record to the tree, and keeps the root for checkpoints that name this size.
    fn pass(&mut self, leaf: Hash) {
        self.tree.push(leaf);
        if u64::try_from(self.roots.len()).is_ok_and(|kept| kept > MOST_PENDING) {
            self.roots.pop_front();
        }
        let time = self.chain.last_time().unwrap_or(Timestamp::EPOCH);
        self.roots
            .push_back((self.tree.size(), self.tree.root(), time));
    }

    /// A checkpoint that a record carries.
    fn embedded(&mut self, note: &str, index: u64, record: &Record) {
        let place = Place {
            index: Some(index),
            file: None,
            boot: Some(record.boot),
            seq: Some(record.seq),
        };
        match SignedCheckpoint::read(note) {
            Ok(signed) => self.checkpoint(&signed, place),
            Err(error) => {
                let problem = format!("the checkpoint that it carries: {error}");
                self.say(Problem::Checkpoint, place, problem);
            }
        }
    }

    /// Checks what a checkpoint says of records that were read, and who says so.
    fn checkpoint(&mut self, signed: &SignedCheckpoint, place: Place) {
        let checkpoint = signed.checkpoint();
        let size = checkpoint.size;
        if self
            .verdict
            .origin
            .as_ref()
            .is_some_and(|own| *own != checkpoint.origin)
        {
            let problem = format!("it is a checkpoint of another log, {}", checkpoint.origin);
            return self.say(Problem::Checkpoint, place, problem);
        }
        let behind = self.tree.size().saturating_sub(size);
        let passed = usize::try_from(behind)
            .ok()
            .and_then(|behind| self.roots.len().checked_sub(behind + 1))
            .and_then(|place| self.roots.get(place))
            .filter(|(passed, _, _)| *passed == size);
        let Some((_, root, time)) = passed.copied() else {
            if size == self.verdict.first && size > 0 {
                // What it covers was dropped, but for the root, which the note has.
                return;
            }
            let problem = format!("it names {size} records, {} are there", self.tree.size());
            return self.say(Problem::Root, place, problem);
        };
        if root != checkpoint.root {
            let since = self.certain;
            let problem = format!(
                "the {size} records before it lead to the root {root}, signed is {}: one of them was changed, removed or put elsewhere, and the hashes computed anew",
                checkpoint.root
            );
            let finding = Finding::new(Problem::Root, place, problem).since(since);
            return self.verdict.add(finding);
        }
        match self.chain.signers.check(signed, time) {
            Ok(()) => {
                self.verdict.checkpoints += 1;
                self.certain = Some(time);
            }
            Err((problem, detail)) => {
                let detail = format!("checkpoint of {size} records: {detail}");
                let finding = Finding::new(problem, place, detail).since(self.certain);
                self.verdict.add(finding);
            }
        }
    }

    /// Compares the partial tiles at the tree's edge.
    fn edge_tiles(&mut self) -> Result<(), LogError> {
        let partial: Vec<(Tile, Vec<u8>)> = self.edge.partial_tiles().collect();
        for (tile, bytes) in partial {
            self.compare_tile(tile, &bytes)?;
        }
        Ok(())
    }

    /// Compares every file of a tile with the hashes that the records lead to.
    fn compare_tile(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), LogError> {
        let mut files = self.files_of(tile).iter();
        let there = files.any(|other| other.width >= tile.width);
        if !there && tile.index * WIDTH >= self.kept(tile.kind) {
            let detail = "it is missing";
            self.say(Problem::Tile, Place::file(tile.path()), detail);
        }
        self.compare_others(tile, bytes)
    }

    /// Compares every file that has the same beginning: a narrower tile is one of a wider.
    fn compare_others(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), LogError> {
        for other in self.files_of(tile).to_vec() {
            let found = read(&self.directory.join(other.path()))?.unwrap_or_default();
            let common = found.len().min(bytes.len());
            let whole = match tile.kind {
                Kind::Hashes(_) => u64::try_from(found.len()).ok() == other.width.checked_mul(32),
                Kind::Entries => {
                    let (entries, rest) = entries_of(&found);
                    rest == 0 && u64::try_from(entries.len()).ok() == Some(other.width)
                }
            };
            if !whole || found.get(..common) != bytes.get(..common) {
                let detail = "it does not hold what the records lead to: this file was changed, or they were";
                let place = at(tile.index * WIDTH, &other.path());
                let place = match tile.kind {
                    Kind::Entries => place,
                    Kind::Hashes(_) => Place::file(other.path()),
                };
                self.say(Problem::Tile, place, detail);
            }
        }
        Ok(())
    }

    /// The files of a tile, of every width.
    fn files_of(&self, tile: Tile) -> &[Tile] {
        let place = |other: &Tile| (other.kind, other.index);
        let from = self
            .tiles
            .partition_point(|other| place(other) < place(&tile));
        let to = self
            .tiles
            .partition_point(|other| place(other) <= place(&tile));
        self.tiles.get(from..to).unwrap_or_default()
    }

    /// First hash of a level that must still be there.
    fn kept(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Entries => self.verdict.first,
            Kind::Hashes(level) => Tile::hashes(level, self.verdict.first) / WIDTH * WIDTH,
        }
    }

    /// Files of tiles that the newest checkpoint does not need.
    fn leftovers(&mut self, size: u64) {
        let beyond = |tile: &&Tile| {
            let level = match tile.kind {
                Kind::Entries => 0,
                Kind::Hashes(level) => level,
            };
            tile.index * WIDTH + tile.width > Tile::hashes(level, size)
        };
        let beyond: Vec<Tile> = self.tiles.iter().filter(beyond).copied().collect();
        for tile in beyond {
            let detail = "it goes beyond the newest checkpoint: left by a write that was interrupted, or the checkpoint was put back to an earlier one";
            self.say(Problem::Interrupted, Place::file(tile.path()), detail);
        }
    }

    /// Everything that waits for the next checkpoint.
    fn waiting_records(&mut self, size: u64) -> Result<(), LogError> {
        let path = self.directory.join(JOURNAL);
        let place = || Place::file(JOURNAL);
        if !path.exists() {
            let detail = "it is missing: records that were not signed yet are not in this copy";
            self.say(Problem::Interrupted, place(), detail);
            return Ok(());
        }
        let Some(mut journal) = JournalReader::open(&path)? else {
            let detail = "it does not begin as a journal does";
            self.say(Problem::Journal, place(), detail);
            return Ok(());
        };
        if journal.base() > size {
            let detail = format!(
                "it begins with record {}, signed are {size}: what is between is missing",
                journal.base()
            );
            self.say(Problem::Journal, place(), detail);
            self.chain.skip();
        }
        let since = self.chain.last_time();
        let mut waiting = 0;
        loop {
            let index = journal.next();
            let Some(entry) = journal.next_entry()? else {
                break;
            };
            if index < size {
                continue;
            }
            waiting += 1;
            match Record::decode(&entry) {
                Ok(record) => {
                    self.verdict.records += 1;
                    if let Some(note) = &record.checkpoint {
                        self.embedded(note, index, &record);
                    }
                    for mut finding in self.chain.take(index, &record) {
                        finding.place.file = Some(JOURNAL.into());
                        self.verdict.add(finding);
                    }
                }
                Err(error) => {
                    self.say(
                        Problem::Schema,
                        at(index, JOURNAL.as_ref()),
                        error.to_string(),
                    );
                    self.chain.skip();
                }
            }
            self.pass(Hash::leaf(&entry));
        }
        match journal.ending() {
            Ending::Whole => {}
            Ending::Torn { bytes } => {
                let detail = format!(
                    "{bytes} bytes at its end are half a record: a crash cut it short before anybody was told that it was written"
                );
                self.say(Problem::Interrupted, place(), detail);
            }
            Ending::Damaged { index } => {
                let detail = "it is not what was written; what follows cannot be read";
                self.say(Problem::Journal, at(index, JOURNAL.as_ref()), detail);
            }
        }
        if waiting > 0 {
            let detail = format!(
                "{waiting} records are not signed yet: nothing shows whether they were edited"
            );
            let place = Place {
                index: Some(size),
                ..place()
            };
            let finding = Finding::new(Problem::Unsigned, place, detail);
            self.verdict.add(finding.since(since));
        }
        Ok(())
    }

    /// Compares with a checkpoint from elsewhere, when the walk is at its size.
    fn contained(&mut self) {
        let size = self.tree.size();
        let origin = self.verdict.origin.clone();
        for kept in &self.expect.checkpoints {
            let kept = kept.checkpoint();
            if kept.size == size
                && Some(&kept.origin) == origin.as_ref()
                && kept.root != self.tree.root()
            {
                let problem = format!(
                    "a checkpoint kept elsewhere has the root {} at {size} records, this log has {}",
                    kept.root,
                    self.tree.root()
                );
                let place = at(size.saturating_sub(1), CHECKPOINT.as_ref());
                self.verdict
                    .add(Finding::new(Problem::Contradicted, place, problem).since(self.certain));
            }
        }
    }

    /// What is known from elsewhere of the log's end.
    fn expected(&mut self, signed: &Option<SignedCheckpoint>) {
        let place = Place::file(CHECKPOINT);
        let size = self.verdict.signed;
        let own = signed.as_ref().map(|signed| &signed.checkpoint().origin);
        for kept in &self.expect.checkpoints {
            let kept = kept.checkpoint();
            if Some(&kept.origin) == own && kept.size > size {
                let problem = format!(
                    "a checkpoint kept elsewhere names {} records, this log has {size} signed: its end is missing",
                    kept.size
                );
                let finding = Finding::new(Problem::Truncated, place.clone(), problem);
                self.verdict.add(finding.since(self.verdict.signed_to));
            }
        }
        if let Some(until) = self.expect.until
            && !self.chain.is_stopped()
            && self.verdict.signed_to.is_none_or(|to| to < until)
        {
            let problem = match self.verdict.signed_to {
                Some(to) => format!("signed records end at {to}, expected until {until}"),
                None => format!("there are no signed records, expected until {until}"),
            };
            let finding = Finding::new(Problem::Truncated, place, problem);
            self.verdict.add(finding.since(self.verdict.signed_to));
        }
    }

    fn say_tree(&mut self, error: TreeError) -> Result<(), LogError> {
        let (tile, detail) = match error {
            TreeError::Missing(tile) => (tile, "it is missing"),
            TreeError::Malformed(tile) => (tile, "it has not the form that its name says"),
            TreeError::Differs(tile) => (tile, "it is not the one that was signed"),
            // The walk finds out which file it is.
            TreeError::Root { .. } => return Ok(()),
            TreeError::Unreadable(error) => return Err(error),
        };
        self.say(Problem::Tile, Place::file(tile.path()), detail);
        Ok(())
    }

    fn say(&mut self, problem: Problem, place: Place, detail: impl Into<String>) {
        let finding = Finding::new(problem, place, detail);
        self.verdict.add(finding.since(self.certain));
    }
}

fn at(index: u64, path: &Path) -> Place {
    Place {
        index: Some(index),
        ..Place::file(path)
    }
}
