//! Records for engines that search a great many of them: one flat schema, as Parquet or as a JSON
//! object a line. What a window holds becomes rows of its own: a row a group of connections, a use
//! of an exception, a count of refusals, a socket nobody accounts for. Sums over these rows are the
//! report's.

use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sealwire_evidence::Log;

use crate::Progress;
use crate::error::ReportError;

mod columnar;
mod columns;
mod lines;
mod rows;

use columnar::Columnar;
use columns::Row;
use lines::Lines;

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Apache Parquet, compressed with Snappy.
    Parquet,
    /// JSON, an object a line.
    Jsonl,
}

/// There is no such format.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no format {0:?}: parquet and jsonl are known")]
pub struct UnknownFormat(String);

/// Takes rows.
trait Sink {
    fn row(&mut self, row: Row) -> Result<(), ReportError>;

    fn finish(self: Box<Self>) -> Result<(), ReportError>;
}

/// Writes all records of logs into a file, and says how many rows. Nothing is verified but that
/// each record is in the tree that its log's newest checkpoint names: `sealwire verify` does that.
///
/// # Errors
/// When a log cannot be read or the file not be written; the file is incomplete then, and is left
/// with a name that says so.
pub fn export(
    logs: &[PathBuf],
    format: Format,
    output: &Path,
    progress: &dyn Fn(Progress<'_>),
) -> Result<u64, ReportError> {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |source| ReportError::Write {
        path: partial.clone(),
        source,
    };
    let file = File::create(&partial).map_err(failed)?;
    let kept = file.try_clone().map_err(failed)?;
    let mut sink: Box<dyn Sink> = match format {
        Format::Parquet => Box::new(Columnar::new(file)?),
        Format::Jsonl => Box::new(Lines::new(BufWriter::new(file), partial.clone())),
    };
    let mut rows = 0;
    for (place, directory) in logs.iter().enumerate() {
        progress(Progress::Reading {
            log: directory,
            number: place + 1,
            of: logs.len(),
        });
        let unreadable = |source| ReportError::Read {
            path: directory.clone(),
            source,
        };
        let log = Log::open(directory).map_err(|source| ReportError::Log {
            path: directory.clone(),
            source,
        })?;
        let name = log
            .origin()
            .map_or_else(|| directory.display().to_string(), str::to_owned);
        for entry in log.records().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            rows::rows(&name, &entry, &mut |row| {
                rows += 1;
                sink.row(row)
            })?;
        }
    }
    sink.finish()?;
    kept.sync_all().map_err(failed)?;
    std::fs::rename(&partial, output).map_err(failed)?;
    Ok(rows)
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "parquet" => Ok(Self::Parquet),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(UnknownFormat(name.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        })
    }
}

/// Columns by name, kind and meaning, for the documentation.
pub fn export_columns() -> String {
    columns::table()
}
