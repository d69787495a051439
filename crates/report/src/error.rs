//! What can go wrong with a report, by what can be done about it.

use std::io;
use std::path::PathBuf;

use sealwire_evidence::{LogError, ReadError};
use sealwire_keys::SignError;

/// Why there is no report or no export.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A log cannot be opened.
    #[error("{path}: {source}")]
    Log {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: LogError,
    },
    /// A log's records cannot be read. A report says so instead; an export ends.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: ReadError,
    },
    /// A file cannot be written.
    #[error("{path}: cannot be written: {source}: see to the disk, or name another directory")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key does not sign.
    #[error("the signing key: {0}")]
    Sign(#[source] SignError),
    /// The key has no scheme to sign with.
    #[error(
        "the key {0} signs by none of the schemes that are known here: name another with --sign-key"
    )]
    NoScheme(String),
    /// Rules that come with this program cannot be read.
    #[error("the rules of this program cannot be read, please report it: {0}")]
    Rules(#[from] serde_saphyr::Error),
    /// A document cannot be written as JSON.
    #[error("a document cannot be made, please report it: {0}")]
    Json(#[source] serde_json::Error),
    /// The columns of the export cannot be written.
    #[error("the export cannot be made: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
}
