//! The way through one log: every record from the first to the last, every hash computed from them,
//! and every file compared with what it should hold. Keeps one bundle, one tile a level, and the
//! roots of the last sizes, which is where checkpoints may point to.

mod begin;
mod end;
mod files;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::chain::Chain;
use super::finding::{Finding, Place, Problem};
use super::signers::Signers;
use super::{Expect, LogVerdict, Progress, Trust};
use crate::log::{
    CHECKPOINT, Edge, JOURNAL, JournalReader, LogError, MOST_PENDING, Tree, TreeError, is_new,
    read, tiles_in,
};
use crate::merkle::{Compact, Hash};
use crate::note::SignedCheckpoint;
use crate::record::{Event, Record, Timestamp};
use crate::tile::{Kind, Tile, WIDTH, add_entry, entries_of};

/// Records between two words about progress.
const STEP: u64 = 1024;

/// SPIFFE IDs of signers that are named. A log has one, or a few that followed one another.
const MOST_IDENTITIES: usize = 16;

/// A log on its way.
pub(super) struct Walk<'a> {
    directory: &'a Path,
    expect: &'a Expect,
    chain: Chain,
    verdict: LogVerdict,
    /// The tree as the records lead to it.
    tree: Compact,
    edge: Edge,
    /// Sizes that were passed, youngest last.
    passed: VecDeque<Passed>,
    /// What there is of tiles and bundles, in order.
    tiles: Vec<Tile>,
    /// Time of the last record that a good checkpoint covers.
    certain: Option<Timestamp>,
    /// The SPIFFE ID under which the last good checkpoint was signed.
    signer: Option<String>,
    /// How the signed records end, when they do so without a stop.
    open_end: Option<Finding>,
    /// Whether they end with one. What is not signed says nothing about the end.
    stopped: bool,
}

/// The tree at a size that was passed.
#[derive(Clone)]
struct Passed {
    size: u64,
    root: Hash,
    /// Of the last record.
    time: Timestamp,
    identity: Option<Arc<str>>,
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
            passed: VecDeque::new(),
            tiles: Vec::new(),
            certain: None,
            signer: None,
            open_end: None,
            stopped: false,
        }
    }

    pub(super) fn run(mut self, progress: &(dyn Fn(Progress<'_>) + Sync)) -> LogVerdict {
        if let Err(error) = self.walk(progress) {
            let path = match &error {
                LogError::Damaged { path, .. } | LogError::Storage { path, .. } => Some(path),
                _ => None,
            };
            let file = path.and_then(|path| path.strip_prefix(self.directory).ok());
            let place = file.map(Place::file).unwrap_or_default();
            self.say(Problem::Unreadable, place, error.to_string());
        }
        self.verdict.pod = self.chain.pod.take();
        self.verdict.boots = self.chain.boots;
        self.verdict.from = self.chain.from;
        self.verdict.to = self.chain.last_time();
        self.verdict
    }

    fn walk(&mut self, progress: &(dyn Fn(Progress<'_>) + Sync)) -> Result<(), LogError> {
        // Before all else: while a log is written, its journal may be replaced by one that begins
        // later. This one begins no later than at the checkpoint that is read after it.
        let path = self.directory.join(JOURNAL);
        let journal = match path.exists() {
            true => Some(JournalReader::open(&path)?),
            false => None,
        };
        let base = journal.as_ref().and_then(Option::as_ref);
        let signed = self.newest(base.map(JournalReader::base))?;
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
        self.waiting_records(size, journal)?;
        if let Some(open) = self.open_end.take() {
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
    fn newest(&mut self, journal: Option<u64>) -> Result<Option<SignedCheckpoint>, LogError> {
        let bytes = read(&self.directory.join(CHECKPOINT))?;
        let place = || Place::file(CHECKPOINT);
        let Some(bytes) = bytes else {
            if journal != Some(0) {
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
        self.contained_before();
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
            let detail = format!(
                "records {there} to {} are missing, or most of them",
                size - 1
            );
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
        self.open_end = self.chain.end();
        self.stopped = self.chain.is_stopped();
        self.checkpoint(signed, Place::file(CHECKPOINT));
        Ok(())
    }

    /// One bundle: its records, as far as they are the ones that were signed.
    fn bundle(&mut self, tile: Tile, proven: Option<&[Hash]>) -> Result<(), LogError> {
        let first = tile.index * WIDTH;
        let (source, bytes) = self.read_bundle(tile)?;
        let path = source.unwrap_or(tile).path();
        let (entries, rest) = entries_of(&bytes);
        let wanted = usize::try_from(tile.width).unwrap_or(usize::MAX);
        if bytes.is_empty() {
            let detail = format!("records {first} to {} are missing", first + tile.width - 1);
            self.say(Problem::Bundle, at(first, &path), detail);
        } else if let Some(narrow) = source.filter(|source| source.width < tile.width) {
            let detail = format!(
                "it is missing: of its {wanted} records {} has {}",
                path.display(),
                narrow.width
            );
            let place = at(first + narrow.width, &tile.path());
            self.say(Problem::Bundle, place, detail);
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

    /// What is in a bundle's file, or in that of another width. A wider one does as well: the writer
    /// may be between two checkpoints. Of a narrower one the records that it has can be told from
    /// those that it has not.
    fn read_bundle(&mut self, tile: Tile) -> Result<(Option<Tile>, Vec<u8>), LogError> {
        let mut source = self.file_of_bundle(tile);
        let mut bytes = match source {
            Some(file) => read(&self.directory.join(file.path()))?,
            None => None,
        };
        if bytes.is_none() && tile.width < WIDTH {
            // The log may be written all the while, and the last bundle have grown since it was listed.
            self.tiles = tiles_in(self.directory)?.0;
            source = self.file_of_bundle(tile);
            if let Some(file) = source {
                bytes = read(&self.directory.join(file.path()))?;
            }
        }
        Ok((source, bytes.unwrap_or_default()))
    }

    fn file_of_bundle(&self, tile: Tile) -> Option<Tile> {
        let files = self.files_of(tile);
        let wide = files.iter().find(|file| file.width >= tile.width);
        wide.or(files.last()).copied()
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
                self.begins(index, &record);
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
        if u64::try_from(self.passed.len()).is_ok_and(|kept| kept > MOST_PENDING) {
            self.passed.pop_front();
        }
        self.passed.push_back(Passed {
            size: self.tree.size(),
            root: self.tree.root(),
            time: self.chain.last_time().unwrap_or(Timestamp::EPOCH),
            identity: self.chain.identity(),
        });
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
            .and_then(|behind| self.passed.len().checked_sub(behind + 1))
            .and_then(|place| self.passed.get(place))
            .filter(|passed| passed.size == size);
        let Some(passed) = passed.cloned() else {
            if size <= self.verdict.first && self.verdict.first > 0 {
                // What it covers was dropped. Records may have come after it before one carried it.
                return;
            }
            let problem = format!("it names {size} records, {} are there", self.tree.size());
            return self.say(Problem::Root, place, problem);
        };
        if passed.root != checkpoint.root {
            let since = self.certain;
            let problem = format!(
                "the {size} records before it lead to the root {}, signed is {}: one of them was changed, removed or put elsewhere, and the hashes computed anew",
                passed.root, checkpoint.root
            );
            let finding = Finding::new(Problem::Root, place, problem).since(since);
            return self.verdict.add(finding);
        }
        let written_as = passed.identity.as_deref();
        match self.chain.signers.check(signed, passed.time, written_as) {
            Ok(identity) => {
                self.verdict.checkpoints += 1;
                self.signed_as(&identity, &place);
                self.certain = Some(passed.time);
            }
            Err((problem, detail)) => {
                let detail = format!("checkpoint of {size} records: {detail}");
                let finding = Finding::new(problem, place, detail).since(self.certain);
                self.verdict.add(finding);
            }
        }
    }

    /// A checkpoint is signed under a certificate of this workload.
    fn signed_as(&mut self, identity: &str, place: &Place) {
        if self.signer.as_deref() == Some(identity) {
            return;
        }
        if let Some(before) = self.signer.replace(identity.to_owned()) {
            let detail =
                format!("the log is signed as {identity} from here on, as {before} before");
            self.say(Problem::Identity, place.clone(), detail);
        }
        let identities = &mut self.verdict.identities;
        if identities.len() < MOST_IDENTITIES && !identities.iter().any(|known| known == identity) {
            identities.push(identity.to_owned());
        }
    }

    /// A run begins: records that were not signed then are its own word for those of the run before.
    fn begins(&mut self, index: u64, record: &Record) {
        if !matches!(record.event, Event::Start(_)) {
            return;
        }
        // It carries the checkpoint that was in force, if there was one. Of one that cannot be read
        // that has been said.
        let carried = record.checkpoint.as_deref().map(SignedCheckpoint::read);
        let signed = carried.map_or(0, |signed| {
            signed.map_or(index, |signed| signed.checkpoint().size)
        });
        let signed = signed.max(self.verdict.first);
        if signed < index {
            let detail = format!(
                "records {signed} to {} were not signed when a run began, which took them over: nothing shows that nobody changed them between the two",
                index - 1
            );
            let place = Place {
                index: Some(signed),
                ..Place::default()
            };
            self.say(Problem::TakenOver, place, detail);
        }
    }

    fn say_tree(&mut self, error: TreeError) -> Result<(), LogError> {
        let (tile, detail) = match error {
            TreeError::Missing(tile) => (tile, "it is missing"),
            TreeError::Malformed(tile) => (tile, "it has not the form that its name says"),
            TreeError::Differs(tile) | TreeError::Entry { bundle: tile, .. } => {
                (tile, "it is not the one that was signed")
            }
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
