//! A log on disk: C2SP tlog-tiles, with a journal before it for what is not signed yet. One
//! [`LogWriter`] writes it, any number of [`Log`]s read it.
//!
//! ```text
//! checkpoint              the newest checkpoint, signed
//! tile/entries/NNN        records, 256 in a bundle
//! tile/L/NNN              hashes of the tree, 256 in a tile
//! journal                 records that no checkpoint covers yet
//! lock                    held by the writer
//! *.new                   files being written
//! ```
//!
//! What is written is there for good once [`LogWriter::sync`] has returned: in the journal, and
//! after the next checkpoint in bundles and tiles, which are complete on disk before the checkpoint
//! that needs them takes the old one's place. A crash at any moment leaves one of the two.

mod clock;
mod edge;
mod files;
mod journal;
mod reader;
mod retain;
mod state;
mod tree;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealwire_keys::SignError;

pub use self::clock::{Clock, SystemClock};
pub(crate) use self::edge::Edge;
#[cfg(test)]
pub(crate) use self::files::LOCK;
pub(crate) use self::files::{CHECKPOINT, JOURNAL, is_new, read};
pub(crate) use self::journal::{Ending, JournalReader};
pub use self::reader::{Entry, Log, ReadError, Records};
pub(crate) use self::tree::{Tree, TreeError, tiles_in};
pub(crate) use self::writer::is_vital;
pub use self::writer::{Cut, LogWriter, Standing};
use crate::note::OriginError;
use crate::record::{Boot, EncodeError, Pod};

/// Most records that may wait for a signature. Records after a checkpoint hold it, and whoever
/// verifies looks no further back than this.
pub(crate) const MOST_PENDING: u64 = 65_536;

/// Most of them that are not needed for a key to sign again. The rest is enough for a proxy that is
/// started anew every few minutes for a week, and has no key.
const MOST_ORDINARY: u64 = MOST_PENDING - 4096;

/// How a log is written.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Where it is. Made if it is not there.
    pub directory: PathBuf,
    /// Its name: see [`origin_of`]. A log that is there keeps its own.
    pub origin: String,
    /// Whose it is.
    pub pod: Pod,
    /// This run: another whenever a log is opened.
    pub boot: Boot,
    /// By which clock records are dated.
    pub clock: Arc<dyn Clock>,
    /// What is dropped.
    pub retention: RetentionLimits,
    /// Most bytes that may wait for a signature. Beyond it records are refused, but for those that
    /// a key needs to sign again.
    pub pending: u64,
    /// Whether to wait for the disk. Always, but for logs that nobody needs to keep.
    pub durable: bool,
}

/// When records are dropped, in bundles of 256 and oldest first. What is not signed yet never is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RetentionLimits {
    /// Once the youngest of a bundle is older than this.
    pub age: Option<Duration>,
    /// While bundles take more bytes than this.
    pub bytes: Option<u64>,
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The name cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Another process writes it.
    #[error("{0}: another process writes this log: give each sidecar a directory of its own")]
    Locked(PathBuf),
    /// The disk does not take or give what it should. May pass.
    #[error("{path}: cannot {doing}: {source}: see to the disk, or its permissions")]
    Storage {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Too much waits for a signature.
    #[error(
        "{pending} bytes in {records} records wait for a signature, the limit is {limit} bytes and {MOST_ORDINARY} records: see to the key, or raise the limit"
    )]
    Full {
        /// How much waits.
        pending: u64,
        /// In how many records.
        records: u64,
        /// The configured limit.
        limit: u64,
    },
    /// What is on disk is not what a writer left there.
    #[error("{path}: {problem}: move the log away for whoever looks into it, and begin another")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No record.
    #[error(transparent)]
    Record(#[from] EncodeError),
    /// The key does not sign.
    #[error("checkpoint: {0}")]
    Sign(#[from] SignError),
}

impl LogError {
    pub(crate) fn damaged(path: impl AsRef<Path>, problem: impl ToString) -> Self {
        Self::Damaged {
            path: path.as_ref().to_owned(),
            problem: problem.to_string(),
        }
    }

    /// Whether the disk is the trouble.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Storage { .. })
    }
}

/// The logs that a directory is or holds, in order of their paths.
///
/// # Errors
/// When it cannot be read.
pub fn logs_in(directory: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut logs = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.join(CHECKPOINT).is_file() || path.join(JOURNAL).is_file() {
            logs.push(path);
            continue;
        }
        let listed = std::fs::read_dir(&path).map_err(files::storage(&path, "list"))?;
        for entry in listed {
            let entry = entry.map_err(files::storage(&path, "list"))?;
            // Links are not followed: they may lead round in circles.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

/// The name of a pod's log, such as `mesh.example/ns/shop/pod/web-0/6f1a…`. What a name must not
/// have becomes `-`.
pub fn origin_of(trust_domain: &str, pod: &Pod) -> String {
    let origin = format!(
        "{trust_domain}/ns/{}/pod/{}/{}",
        pod.namespace, pod.name, pod.uid
    );
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    origin.replace(bad, "-")
}

#[cfg(test)]
mod tests;
