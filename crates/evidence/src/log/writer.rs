//! The writer of a log. Blocks for disk and, where it signs itself, for the key: for a thread of
//! its own.

use sealwire_keys::PrivateKey;

use super::edge::Edge;
use super::files::{CHECKPOINT, Directory};
use super::retain::Retain;
use super::state::{State, missing};
use super::{LogConfig, LogError, MOST_ORDINARY, MOST_PENDING};
use crate::merkle::Hash;
use crate::note::{Checkpoint, SignedCheckpoint, check_origin};
use crate::record::{Event, Gap, GapCause, Previous, Record, SchemaName, Start, Timestamp};
use crate::tile::{Kind, Tile, WIDTH, add_entry};

/// How far a clock may be set back without a word about it.
const CLOCK_TOLERANCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    directory: Directory,
    state: State,
    retain: Retain,
    identity: Option<String>,
    /// Size of the tree before the one that is signed.
    replaced: u64,
    /// Number of the next record of this run.
    seq: u64,
    /// Whether it is unknown what the disk has: a sync has failed.
    unsure: bool,
}

/// A tree to be signed.
#[derive(Clone, Debug)]
pub struct Cut {
    checkpoint: Checkpoint,
}

/// How a log stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Records in it, those that were dropped included.
    pub records: u64,
    /// Records that no checkpoint covers yet.
    pub pending: u64,
    /// Bytes that those take.
    pub pending_bytes: u64,
    /// Bytes that full bundles take.
    pub bytes: u64,
}

impl Cut {
    /// What is to be signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl LogWriter {
    /// Opens a log, or begins one, and writes that a run begins. Where another has left off without
    /// a word, that is written as well.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(config: LogConfig, start: Start) -> Result<Self, LogError> {
        check_origin(&config.origin)?;
        let directory = Directory::hold(&config.directory, config.durable)?;
        let state = State::load(&directory, &config)?;
        state.clear_leftovers(&directory)?;
        let signed = state.edge.size();
        let retain = Retain::of(&directory, signed)?;
        let mut writer = Self {
            config,
            directory,
            state,
            retain,
            identity: None,
            replaced: signed,
            seq: 0,
            unsure: false,
        };
        writer.begin(start)?;
        Ok(writer)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.state.origin
    }

    /// How the log stands.
    pub fn standing(&self) -> Standing {
        Standing {
            records: self.state.tree.size(),
            pending: self.state.tree.size() - self.state.edge.size(),
            pending_bytes: self.state.journal.bytes(),
            bytes: self.retain.bytes(),
        }
    }

    /// Whose records follow: the SPIFFE ID of the certificate in force.
    pub fn identity(&mut self, spiffe_id: Option<String>) {
        self.identity = spiffe_id;
    }

    /// Adds a record and says its index. It survives a crash once [`LogWriter::sync`] has returned.
    ///
    /// # Errors
    /// When the disk does not take it, or too much waits for a signature. Nothing is written then.
    pub fn append(&mut self, event: Event) -> Result<u64, LogError> {
        if self.unsure {
            self.recover()?;
        }
        let now = self.now();
        if let Some(last) = self.state.last
            && last.time.since(now) > CLOCK_TOLERANCE
        {
            self.write(
                now,
                Event::Gap(Gap {
                    cause: GapCause::Clock,
                    from: last.time,
                    to: now,
                    lost: Some(0),
                    detail: "the clock was set back: times before and after do not compare"
                        .to_owned(),
                }),
            )?;
        }
        self.write(now, event)
    }

    /// Waits until the disk has every record that was added.
    ///
    /// # Errors
    /// When the disk does not say so. What it has is looked up before the next record, and what it
    /// does not have is written as a gap.
    pub fn sync(&mut self) -> Result<(), LogError> {
        let synced = self.state.journal.sync(&self.directory);
        self.unsure |= synced.is_err();
        synced
    }

    /// Drops what is too old or too much, as far as that is configured: writes so now, and does so
    /// once that is signed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn retain(&mut self) -> Result<(), LogError> {
        let now = self.now();
        let limits = &self.config.retention;
        let before = self.retain.clone();
        let note = self
            .retain
            .plan(&self.directory, limits, now, &self.state.edge)?;
        if let Some(note) = note {
            match self.append(Event::Retention(Box::new(note))) {
                Ok(index) => self.retain.planned_at(index),
                Err(error) => {
                    self.retain = before;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The tree as it is now, for a key to sign. Everything in it is on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn cut(&mut self) -> Result<Cut, LogError> {
        self.sync()?;
        Ok(Cut {
            checkpoint: Checkpoint {
                origin: self.state.origin.clone(),
                size: self.state.tree.size(),
                root: self.state.tree.root(),
            },
        })
    }

    /// Puts a signed checkpoint in force. Records that were added since it was cut wait for the
    /// next.
    ///
    /// # Errors
    /// When the disk fails. The checkpoint before stays in force then.
    pub fn commit(&mut self, signed: &SignedCheckpoint) -> Result<(), LogError> {
        let size = signed.checkpoint().size;
        let before = self.state.edge.size();
        if size <= before {
            // The last time it may have come to the checkpoint and no further.
            return self.state.journal.trim(&self.directory, before);
        }
        let (edge, grown) = self.integrate(size)?;
        if edge.compact().root() != signed.checkpoint().root {
            return Err(LogError::damaged(
                self.directory.path(super::JOURNAL),
                "its records are not those that were signed",
            ));
        }
        let note = signed.to_string();
        self.directory.put(CHECKPOINT, note.as_bytes())?;
        self.state.edge = edge;
        self.state.unembedded = Some(note);
        self.retain.grown(grown);
        self.remove_partials(before, size);
        self.retain.drop_planned(&self.directory, size);
        self.state.journal.continued(&self.directory, size)
    }

    /// Signs the tree as it is now. Blocks for as long as the device takes.
    ///
    /// # Errors
    /// When the disk fails, or the key does not sign.
    pub fn checkpoint(&mut self, key: &dyn PrivateKey) -> Result<Checkpoint, LogError> {
        let cut = self.cut()?;
        let signed = cut.checkpoint.sign(key)?;
        self.commit(&signed)?;
        Ok(signed.checkpoint().clone())
    }

    /// The log's clock.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::new(self.config.clock.now())
    }

    fn begin(&mut self, mut start: Start) -> Result<(), LogError> {
        let before = self.state.last;
        let torn = self.state.torn;
        start.previous = before;
        self.write(self.now(), Event::Start(Box::new(start)))?;
        if let Some(before) = before {
            self.say_what_was_missed(before, torn)?;
        }
        self.sync()
    }

    /// A run that left off without a stop record, or with one, and the time without any.
    fn say_what_was_missed(&mut self, before: Previous, torn: u64) -> Result<(), LogError> {
        let now = self.now();
        let (cause, lost, detail) = if before.stopped {
            let detail = "no proxy ran: nothing is known of this time".to_owned();
            (GapCause::NotRunning, Some(0), detail)
        } else {
            let torn = match torn {
                0 => String::new(),
                torn => format!("; a record was cut short after {torn} bytes"),
            };
            let detail = format!(
                "the run before ended without a stop record: nothing is known of this time{torn}"
            );
            (GapCause::Crash, None, detail)
        };
        self.append(Event::Gap(Gap {
            cause,
            from: before.time.min(now),
            to: now,
            lost,
            detail,
        }))?;
        Ok(())
    }

    /// Finds out what the disk has, after it failed to say.
    fn recover(&mut self) -> Result<(), LogError> {
        let before = self.state.tree.size();
        let mut state = State::load(&self.directory, &self.config)?;
        // What is read back may be in memory alone: after an error the kernel takes it for written.
        // A file of its own brings it to the disk for certain.
        let signed = state.edge.size();
        state.journal.continued(&self.directory, signed)?;
        self.state = state;
        let ours = self.state.last.filter(|last| last.boot == self.config.boot);
        self.seq = ours.map_or(0, |last| last.seq + 1);
        self.unsure = false;
        let lost = before.saturating_sub(self.state.tree.size());
        if lost > 0 {
            let now = self.now();
            let from = self.state.last.map_or(now, |last| last.time);
            self.write(
                now,
                Event::Gap(Gap {
                    cause: GapCause::Storage,
                    from,
                    to: now,
                    lost: Some(lost),
                    detail: "the disk did not keep what was written to it".to_owned(),
                }),
            )?;
        }
        Ok(())
    }

    fn write(&mut self, now: Timestamp, event: Event) -> Result<u64, LogError> {
        let standing = self.standing();
        let has_room = if is_vital(&event) {
            standing.pending < MOST_PENDING
        } else {
            standing.pending_bytes < self.config.pending && standing.pending < MOST_ORDINARY
        };
        if !has_room {
            return Err(LogError::Full {
                pending: standing.pending_bytes,
                records: standing.pending,
                limit: self.config.pending,
            });
        }
        let stopped = matches!(event, Event::Stop(_));
        let record = Record {
            schema: SchemaName,
            time: now,
            pod: self.config.pod.clone(),
            identity: self.identity.clone(),
            boot: self.config.boot,
            seq: self.seq,
            checkpoint: self.state.unembedded.clone(),
            event,
        };
        let entry = record.encode()?;
        self.state.journal.append(&entry)?;
        let index = self.state.tree.size();
        self.state.tree.push(Hash::leaf(&entry));
        self.state.unembedded = None;
        self.state.last = Some(Previous {
            boot: self.config.boot,
            seq: self.seq,
            time: now,
            stopped,
        });
        self.seq += 1;
        Ok(index)
    }

    /// Writes bundles and tiles for the records up to `size`, beside those that are in force. Says
    /// how many bytes the full bundles among them take.
    fn integrate(&self, size: u64) -> Result<(Edge, u64), LogError> {
        let mut grown = 0;
        let mut edge = self.state.edge.clone();
        let mut bundle = self.partial_bundle()?;
        let mut journal = self.state.journal.reader()?;
        while edge.size() < size {
            let index = journal.next();
            let entry = journal.next_entry()?.ok_or_else(|| {
                let problem = format!("record {index} is not in it any more");
                LogError::damaged(self.directory.path(super::JOURNAL), problem)
            })?;
            if index < edge.size() {
                continue;
            }
            add_entry(&mut bundle, &entry);
            for (tile, bytes) in edge.push(Hash::leaf(&entry)) {
                self.directory.put(tile.path(), &bytes)?;
            }
            if edge.size().is_multiple_of(WIDTH) {
                let full = Tile {
                    kind: Kind::Entries,
                    index: edge.size() / WIDTH - 1,
                    width: WIDTH,
                };
                self.directory.put(full.path(), &bundle)?;
                grown += u64::try_from(bundle.len()).unwrap_or(u64::MAX);
                bundle.clear();
            }
        }
        for tile in Tile::edge(size).filter(|tile| tile.kind == Kind::Entries) {
            self.directory.put(tile.path(), &bundle)?;
        }
        for (tile, bytes) in edge.partial_tiles() {
            self.directory.put(tile.path(), &bytes)?;
        }
        Ok((edge, grown))
    }

    fn partial_bundle(&self) -> Result<Vec<u8>, LogError> {
        let tile = Tile::edge(self.state.edge.size()).find(|tile| tile.kind == Kind::Entries);
        let Some(tile) = tile else {
            return Ok(Vec::new());
        };
        let found = self.directory.read(tile.path())?;
        found.ok_or_else(|| missing(&self.directory, &tile))
    }

    /// Removes what the tree before the last had at its edge. What the last had stays for as long as
    /// this one is in force: whoever copies the log may have its checkpoint.
    fn remove_partials(&mut self, before: u64, size: u64) {
        let kept: Vec<Tile> = Tile::edge(size).chain(Tile::edge(before)).collect();
        for tile in Tile::edge(self.replaced).filter(|tile| !kept.contains(tile)) {
            self.directory.remove(tile.path());
            if let Some(folder) = tile.path().parent() {
                self.directory.remove_if_empty(folder);
            }
        }
        self.replaced = before;
    }
}

/// Whether a key cannot sign without this record, or a run not begin. Room is kept for these: what
/// waits for a signature could never be signed otherwise.
pub(crate) fn is_vital(event: &Event) -> bool {
    match event {
        Event::Start(_) | Event::Certificate(_) | Event::Custody(_) => true,
        Event::Gap(gap) => matches!(gap.cause, GapCause::Crash | GapCause::NotRunning),
        _ => false,
    }
}
