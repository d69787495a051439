//! A log's directory: files that are there as a whole or not at all. For the writer alone, but for
//! the names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::LogError;
use crate::record::LONGEST;
use crate::tile::WIDTH;

/// The newest checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// What is not signed yet.
pub(crate) const JOURNAL: &str = "journal";
/// Held by the writer.
pub(crate) const LOCK: &str = "lock";
/// How the name of a file ends that is being written. It is in the directory of the file that it
/// is to be, since a sandbox may forbid to move files between directories.
const NEW: &str = ".new";

/// Longest file that is read as a whole: a full bundle of the longest records. Whoever gives a log
/// to be verified may have put anything in its place.
const LONGEST_FILE: u64 = WIDTH * (2 + LONGEST as u64);

/// Records name addresses and programs: they are for the workload's own user alone.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A log's directory, held against other writers.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    durable: bool,
    _lock: File,
}

impl Directory {
    /// Makes it if need be, and takes the lock.
    pub(super) fn hold(root: &Path, durable: bool) -> Result<Self, LogError> {
        make_directories(root, durable)?;
        let path = root.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(storage(&path, "open"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LogError::Locked(root.to_owned())),
            Err(error) => return Err(storage(&path, "lock")(error.into())),
        }
        Ok(Self {
            root: root.to_owned(),
            durable,
            _lock: lock,
        })
    }

    /// The path of a file of it.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// What a file holds; none when it is not there.
    pub(super) fn read(&self, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>, LogError> {
        read(&self.path(name))
    }

    /// Puts a file in its place as a whole, on disk when this returns.
    pub(super) fn put(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<(), LogError> {
        let path = self.path(name);
        let (new, mut file) = self.make(&path)?;
        file.write_all(content).map_err(storage(&new, "write"))?;
        if self.durable {
            file.sync_all().map_err(storage(&new, "sync"))?;
        }
        self.place(&new, &path)
    }

    /// Makes the file that is to be at `path`, beside it.
    pub(super) fn make(&self, path: &Path) -> Result<(PathBuf, File), LogError> {
        make_directories(path.parent().unwrap_or(&self.root), self.durable)?;
        let mut new = path.as_os_str().to_owned();
        new.push(NEW);
        let new = PathBuf::from(new);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(FILE_MODE)
            .open(&new)
            .map_err(storage(&new, "make"))?;
        Ok((new, file))
    }

    /// Moves a finished file into its place.
    pub(super) fn place(&self, new: &Path, path: &Path) -> Result<(), LogError> {
        fs::rename(new, path).map_err(storage(path, "put in place"))?;
        sync_directory(path.parent().unwrap_or(&self.root), self.durable)
    }

    /// Removes a file that is not needed any more. That it cannot be does no harm: it holds what it
    /// held.
    pub(super) fn remove(&self, name: impl AsRef<Path>) {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file of the log that is not needed any more stays");
            }
            _ => {}
        }
    }

    /// Removes a directory if it is empty.
    pub(super) fn remove_if_empty(&self, name: impl AsRef<Path>) {
        // Not empty is as good.
        let _ = fs::remove_dir(self.path(name));
    }

    /// Waits for the disk, where that is wanted.
    pub(super) fn sync(&self, file: &File, path: &Path) -> Result<(), LogError> {
        if self.durable {
            file.sync_data().map_err(storage(path, "sync"))?;
        }
        Ok(())
    }
}

/// Whether a file was being written when a crash came.
pub(crate) fn is_new(path: &Path) -> bool {
    path.extension().is_some_and(|ending| *ending == NEW[1..])
}

/// What a file holds; none when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, LogError> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    let read = file.take(LONGEST_FILE + 1).read_to_end(&mut content);
    read.map_err(storage(path, "read"))?;
    if u64::try_from(content.len()).is_ok_and(|length| length > LONGEST_FILE) {
        return Err(LogError::damaged(path, "no file of a log is that long"));
    }
    Ok(Some(content))
}

/// Opens a plain file; none when it is not there. Anything else could hold its reader up for ever.
pub(crate) fn open(path: &Path) -> Result<Option<File>, LogError> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage(path, "open")(error)),
    };
    let is_plain = file.metadata().map_err(storage(path, "look at"))?.is_file();
    if !is_plain {
        return Err(LogError::damaged(path, "it is not a plain file"));
    }
    Ok(Some(file))
}

/// An error of the disk.
pub(crate) fn storage<'a>(
    path: &'a Path,
    doing: &'static str,
) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::Storage {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// Makes a directory and those above it, each known to the one above it on disk.
fn make_directories(path: &Path, durable: bool) -> Result<(), LogError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_directories(parent, durable)?;
    }
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(storage(path, "make")(error));
        }
        _ => {}
    }
    sync_directory(parent.unwrap_or(Path::new(".")), durable)
}

fn sync_directory(path: &Path, durable: bool) -> Result<(), LogError> {
    if durable {
        let directory = File::open(path).map_err(storage(path, "open"))?;
        directory.sync_all().map_err(storage(path, "sync"))?;
    }
    Ok(())
}
