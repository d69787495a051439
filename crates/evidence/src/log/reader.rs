//! A log as its readers see it: records in order, each proven to be in the tree that the newest
//! checkpoint names. Whether its signature counts is for [`verify()`](crate::verify()) to say.

use std::path::{Path, PathBuf};

use super::LogError;
use super::files::{CHECKPOINT, JOURNAL, read};
use super::journal::{Ending, JournalReader};
use super::tree::{Tree, TreeError, tiles_in};
use crate::note::{Checkpoint, SignedCheckpoint};
use crate::record::{DecodeError, Record};
use crate::tile::{Kind, WIDTH};

/// A log, to be read.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    signed: Option<SignedCheckpoint>,
    /// Index of the first record that is still there.
    first: u64,
}

/// A record in its place.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its index in the log.
    pub index: u64,
    /// Whether the newest checkpoint covers it.
    pub signed: bool,
    /// The record.
    pub record: Record,
}

/// Why a record cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What is on disk does not belong to the tree that was signed.
    #[error("{path}: {problem}: `sealwire verify` says what else is wrong")]
    Unproven {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It is no record.
    #[error("record {index}: {source}")]
    Record {
        /// Its index.
        index: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// The disk does not give it.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Log {
    /// Opens a log. It may be written meanwhile: what is read is what the checkpoint of now covers,
    /// and what waits for the next.
    ///
    /// # Errors
    /// When there is none, or its checkpoint cannot be read.
    pub fn open(directory: &Path) -> Result<Self, LogError> {
        let signed = checkpoint_in(directory)?;
        if signed.is_none() && !directory.join(JOURNAL).exists() {
            let problem = "there is neither a checkpoint nor a journal: this is no log";
            return Err(LogError::damaged(directory, problem));
        }
        let (tiles, _) = tiles_in(directory)?;
        let bundles = tiles.iter().filter(|tile| tile.kind == Kind::Entries);
        let first = bundles.map(|tile| tile.index * WIDTH).min().unwrap_or(0);
        Ok(Self {
            directory: directory.to_owned(),
            signed,
            first,
        })
    }

    /// The log's name; none before its first checkpoint.
    pub fn origin(&self) -> Option<&str> {
        let signed = self.signed.as_ref()?;
        Some(&signed.checkpoint().origin)
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.signed.as_ref().map(SignedCheckpoint::checkpoint)
    }

    /// The newest checkpoint with its signatures.
    pub fn signed(&self) -> Option<&SignedCheckpoint> {
        self.signed.as_ref()
    }

    /// Index of the first record that is still there.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many records there have been, those that were dropped included.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn len(&self) -> Result<u64, LogError> {
        let signed = self.checkpoint().map_or(0, |checkpoint| checkpoint.size);
        let path = self.directory.join(JOURNAL);
        if !path.exists() {
            return Ok(signed);
        }
        let Some(mut journal) = JournalReader::open(&path)? else {
            return Ok(signed);
        };
        while journal.next_entry()?.is_some() {}
        Ok(signed.max(journal.next()))
    }

    /// Whether there has never been a record.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn is_empty(&self) -> Result<bool, LogError> {
        Ok(self.len()? == 0)
    }

    /// Every record from the first that is still there, signed ones first.
    ///
    /// # Errors
    /// When the tiles do not lead to the checkpoint.
    pub fn records(&self) -> Result<Records, ReadError> {
        self.records_from(self.first)
    }

    /// The same, from the record with this index on.
    ///
    /// # Errors
    /// When the tiles do not lead to the checkpoint.
    pub fn records_from(&self, index: u64) -> Result<Records, ReadError> {
        let tree = match self.checkpoint() {
            None => None,
            Some(checkpoint) => {
                let tree = Tree::open(&self.directory, checkpoint);
                Some(tree.map_err(|error| self.unproven(error))?)
            }
        };
        let size = self.checkpoint().map_or(0, |checkpoint| checkpoint.size);
        Ok(Records {
            directory: self.directory.clone(),
            tree,
            size,
            next: index.max(self.first),
            bundle: Vec::new().into_iter(),
            journal: None,
            over: false,
        })
    }

    fn unproven(&self, error: TreeError) -> ReadError {
        unproven(&self.directory, error)
    }
}

/// The records of a log. Holds one bundle, and one tile a level.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    tree: Option<Tree>,
    size: u64,
    next: u64,
    bundle: std::vec::IntoIter<Vec<u8>>,
    journal: Option<JournalReader>,
    over: bool,
}

impl Records {
    fn advance(&mut self) -> Result<Option<Entry>, ReadError> {
        let signed = self.next < self.size;
        let entry = if signed {
            self.signed_entry()?
        } else {
            match self.waiting_entry()? {
                Some(entry) => entry,
                None => return Ok(None),
            }
        };
        let index = self.next;
        let record =
            Record::decode(&entry).map_err(|source| ReadError::Record { index, source })?;
        self.next += 1;
        Ok(Some(Entry {
            index,
            signed,
            record,
        }))
    }

    fn signed_entry(&mut self) -> Result<Vec<u8>, ReadError> {
        if let Some(entry) = self.bundle.next() {
            return Ok(entry);
        }
        let number = self.next / WIDTH;
        let directory = self.directory.clone();
        let Some(tree) = &mut self.tree else {
            return Err(missing_bundle(&directory, number));
        };
        let entries = tree
            .entries(tree.bundle(number))
            .map_err(|error| unproven(&directory, error))?;
        self.bundle = entries.into_iter();
        let skipped = usize::try_from(self.next % WIDTH).unwrap_or(0);
        let next = self.bundle.nth(skipped);
        next.ok_or_else(|| missing_bundle(&directory, number))
    }

    fn waiting_entry(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        let path = self.directory.join(JOURNAL);
        if self.journal.is_none() {
            if !path.exists() {
                return Ok(None);
            }
            self.journal = JournalReader::open(&path)?;
        }
        let Some(journal) = &mut self.journal else {
            return Err(ReadError::Unproven {
                path,
                problem: "it does not begin as a journal does".to_owned(),
            });
        };
        loop {
            let index = journal.next();
            match journal.next_entry()? {
                Some(_) if index < self.next => {}
                Some(entry) if index == self.next => return Ok(Some(entry)),
                // Signed since the checkpoint was read: the log is being written.
                Some(_) if signed_now(&self.directory)? > self.next => return Ok(None),
                Some(_) => {
                    return Err(ReadError::Unproven {
                        path,
                        problem: format!("record {} is in neither bundle nor journal", self.next),
                    });
                }
                None => {
                    return match journal.ending() {
                        Ending::Damaged { index } => Err(ReadError::Unproven {
                            path,
                            problem: format!("record {index} in it is not what was written"),
                        }),
                        Ending::Whole | Ending::Torn { .. } => Ok(None),
                    };
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance().transpose();
        // After an error nothing that follows would be in its place.
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

fn unproven(directory: &Path, error: TreeError) -> ReadError {
    match error.into_log_error(directory) {
        LogError::Damaged { path, problem } => ReadError::Unproven { path, problem },
        other => ReadError::Log(other),
    }
}

/// How many records the checkpoint of now covers.
fn signed_now(directory: &Path) -> Result<u64, LogError> {
    Ok(checkpoint_in(directory)?.map_or(0, |signed| signed.checkpoint().size))
}

/// The checkpoint of now; none when there is none yet.
pub(super) fn checkpoint_in(directory: &Path) -> Result<Option<SignedCheckpoint>, LogError> {
    let path = directory.join(CHECKPOINT);
    let Some(bytes) = read(&path)? else {
        return Ok(None);
    };
    let note = String::from_utf8(bytes).map_err(|_| LogError::damaged(&path, "it is not text"))?;
    SignedCheckpoint::read(&note)
        .map(Some)
        .map_err(|error| LogError::damaged(&path, error))
}

fn missing_bundle(directory: &Path, number: u64) -> ReadError {
    ReadError::Unproven {
        path: directory.to_owned(),
        problem: format!("bundle {number} is not there"),
    }
}
