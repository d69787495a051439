//! The journal: records that no checkpoint covers yet, one after the other. The writer appends;
//! whoever recovers or verifies reads with a [`JournalReader`], which says how the file ends.
//!
//! It begins with `SWJ1`, the index of its first record in 8 bytes and 4 bytes of checksum. A record
//! is its length in 4 bytes, 4 bytes of checksum over index and length, the entry, and 8 bytes of
//! checksum over the entry. Numbers are big endian; a checksum is the begin of a SHA-256. Checksums
//! tell a torn write and a damaged file; they keep out nobody who computes them anew.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::LogError;
use super::files::{self, Directory, JOURNAL, storage};
use crate::record::LONGEST;
use crate::tile::MOST_RECORDS;

const MAGIC: [u8; 4] = *b"SWJ1";

/// Bytes that stand before the first record.
pub(crate) const HEADER: u64 = 16;

/// Bytes that a record takes beside itself.
const FRAME: u64 = 16;

/// Most zeros that a file system can leave of writes that it had made room for: more is no crash's
/// work, and a file of nothing but zeros can be as long as somebody likes.
const MOST_ZEROS: u64 = 64 * 1024 * 1024;

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Index of its first record.
    base: u64,
    /// Index that the next record gets.
    next: u64,
    /// Its length with every record that was appended as a whole.
    length: u64,
    /// Whether there may be something behind that.
    torn: bool,
}

impl Journal {
    /// Opens the one that is there, cuts off what a crash left half written, and says how much that
    /// was and what the records are; each is handed to `seen`. A new one begins at `base`.
    pub(super) fn open(
        directory: &Directory,
        base: u64,
        mut seen: impl FnMut(u64, &[u8]) -> Result<(), LogError>,
    ) -> Result<(Self, u64), LogError> {
        let path = directory.path(JOURNAL);
        if !path.exists() {
            return Self::new(directory, base).map(|journal| (journal, 0));
        }
        let mut reader = JournalReader::open(&path)?
            .ok_or_else(|| LogError::damaged(&path, "it does not begin as a journal does"))?;
        while let Some(entry) = reader.next_entry()? {
            seen(reader.next - 1, &entry)?;
        }
        let torn = match reader.ending() {
            Ending::Whole => 0,
            Ending::Torn { bytes } => bytes,
            Ending::Damaged { index } => {
                return Err(LogError::damaged(
                    &path,
                    format!("record {index} in it is not what was written"),
                ));
            }
        };
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(storage(&path, "open"))?;
        let mut journal = Self {
            file,
            base: reader.base,
            next: reader.next,
            length: reader.whole,
            torn: torn > 0,
            path,
        };
        journal.mend()?;
        directory.sync(&journal.file, &journal.path)?;
        Ok((journal, torn))
    }

    /// Drops what comes before `base`.
    pub(super) fn trim(&mut self, directory: &Directory, base: u64) -> Result<(), LogError> {
        if self.base < base {
            self.continued(directory, base)?;
        }
        Ok(())
    }

    /// A new one in place of the one there is, holding this one's records from `base` on.
    pub(super) fn continued(&mut self, directory: &Directory, base: u64) -> Result<(), LogError> {
        let mut new = Self::begin(directory, base)?;
        let path = new.path.clone();
        if base < self.next {
            let mut reader = self.reader()?;
            while let Some(entry) = reader.next_entry()? {
                if reader.next > base {
                    new.append(&entry)?;
                }
            }
        }
        directory.sync(&new.file, &path)?;
        directory.place(&path, &self.path)?;
        new.path.clone_from(&self.path);
        *self = new;
        Ok(())
    }

    /// Index that the next record gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.length - HEADER
    }

    /// Adds a record. It is on disk after the next sync.
    pub(super) fn append(&mut self, entry: &[u8]) -> Result<(), LogError> {
        self.mend()?;
        let frame = frame(self.next, entry);
        self.torn = true;
        self.file
            .write_all(&frame)
            .map_err(storage(&self.path, "append to"))?;
        self.torn = false;
        self.length += length_of(frame.len());
        self.next += 1;
        Ok(())
    }

    /// Waits for the disk.
    pub(super) fn sync(&self, directory: &Directory) -> Result<(), LogError> {
        directory.sync(&self.file, &self.path)
    }

    /// Reads it from its begin.
    pub(super) fn reader(&self) -> Result<JournalReader, LogError> {
        JournalReader::open(&self.path)?
            .ok_or_else(|| LogError::damaged(&self.path, "it does not begin as a journal does"))
    }

    /// Cuts off a record that was not written as a whole.
    fn mend(&mut self) -> Result<(), LogError> {
        if self.torn {
            self.file
                .set_len(self.length)
                .map_err(storage(&self.path, "cut"))?;
        }
        self.file
            .seek(SeekFrom::Start(self.length))
            .map_err(storage(&self.path, "seek in"))?;
        self.torn = false;
        Ok(())
    }

    fn new(directory: &Directory, base: u64) -> Result<Self, LogError> {
        let mut journal = Self::begin(directory, base)?;
        directory.sync(&journal.file, &journal.path)?;
        let path = directory.path(JOURNAL);
        directory.place(&journal.path, &path)?;
        journal.path = path;
        Ok(journal)
    }

    fn begin(directory: &Directory, base: u64) -> Result<Self, LogError> {
        let (path, mut file) = directory.make(&directory.path(JOURNAL))?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&base.to_be_bytes());
        header.extend_from_slice(&checksum::<4>(&[&header]));
        file.write_all(&header).map_err(storage(&path, "write"))?;
        Ok(Self {
            path,
            file,
            base,
            next: base,
            length: HEADER,
            torn: false,
        })
    }
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// After a record.
    Whole,
    /// Within a record, or with zeros: a write that a crash cut short, and nobody had been told
    /// that it was done.
    Torn {
        /// How many bytes that is.
        bytes: u64,
    },
    /// With a record that is there as a whole and is not what was written.
    Damaged {
        /// Which.
        index: u64,
    },
}

/// Reads a journal.
#[derive(Debug)]
pub(crate) struct JournalReader {
    path: PathBuf,
    file: BufReader<File>,
    base: u64,
    next: u64,
    /// Where the record that is next begins.
    whole: u64,
    total: u64,
    ending: Ending,
}

impl JournalReader {
    /// Opens it; none when it does not begin as one.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, LogError> {
        let missing = || LogError::damaged(path, "it is not there");
        let file = files::open(path)?.ok_or_else(missing)?;
        let total = file.metadata().map_err(storage(path, "look at"))?.len();
        let mut file = BufReader::new(file);
        let mut header = [0; 16];
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(storage(path, "read")(error)),
        }
        let (said, check) = header.split_at(12);
        let base = said
            .strip_prefix(&MAGIC)
            .and_then(|base| base.try_into().ok())
            .map(u64::from_be_bytes);
        let sound = |base: &u64| *base <= MOST_RECORDS && check == checksum::<4>(&[said]);
        let Some(base) = base.filter(sound) else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            base,
            next: base,
            whole: HEADER,
            total,
            ending: Ending::Whole,
        }))
    }

    /// Index of its first record.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Index of the record that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How it ends, once there is no next record.
    pub(crate) fn ending(&self) -> Ending {
        self.ending
    }

    /// The next record; none at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        let rest = self.total.saturating_sub(self.whole);
        if rest == 0 || self.ending != Ending::Whole {
            return Ok(None);
        }
        let torn = Ending::Torn { bytes: rest };
        let mut head = [0; 8];
        if !self.fill(&mut head)? {
            self.ending = torn;
            return Ok(None);
        }
        let (length, check) = head.split_at(4);
        if check != checksum::<4>(&[&self.next.to_be_bytes(), length]) {
            self.ending = if head == [0; 8] && self.is_zero()? {
                torn
            } else {
                Ending::Damaged { index: self.next }
            };
            return Ok(None);
        }
        let length = length.try_into().map_or(0, u32::from_be_bytes);
        let Some(length) = usize::try_from(length).ok().filter(|n| *n <= LONGEST) else {
            self.ending = Ending::Damaged { index: self.next };
            return Ok(None);
        };
        let mut entry = vec![0; length];
        let mut check = [0; 8];
        if !self.fill(&mut entry)? || !self.fill(&mut check)? {
            self.ending = torn;
            return Ok(None);
        }
        if check != checksum::<8>(&[&entry]) {
            let zeros = check == [0; 8] && self.is_zero()?;
            self.ending = if zeros {
                torn
            } else {
                Ending::Damaged { index: self.next }
            };
            return Ok(None);
        }
        self.whole += FRAME + length_of(length);
        self.next += 1;
        Ok(Some(entry))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, LogError> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(storage(&self.path, "read")(error)),
        }
    }

    /// Whether nothing but zeros follows: what a file system leaves of a write that it had made
    /// room for and not done.
    fn is_zero(&mut self) -> Result<bool, LogError> {
        if self.total.saturating_sub(self.whole) > MOST_ZEROS {
            return Ok(false);
        }
        let mut block = [0; 4096];
        loop {
            match self.file.read(&mut block) {
                Ok(0) => return Ok(true),
                Ok(read) if block.iter().take(read).all(|byte| *byte == 0) => {}
                Ok(_) => return Ok(false),
                Err(error) => return Err(storage(&self.path, "read")(error)),
            }
        }
    }
}

fn frame(index: u64, entry: &[u8]) -> Vec<u8> {
    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = length.to_vec();
    frame.extend_from_slice(&checksum::<4>(&[&index.to_be_bytes(), &length]));
    frame.extend_from_slice(entry);
    frame.extend_from_slice(&checksum::<8>(&[entry]));
    frame
}

fn checksum<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or([0; N])
}

fn length_of(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
