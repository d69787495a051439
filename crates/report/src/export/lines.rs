//! A JSON object a line, without the columns that a row has no value for. Times are RFC 3339.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Sink;
use super::columns::{Cell, Row};
use crate::error::ReportError;

/// See the module.
pub(super) struct Lines {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Lines {
    pub(super) fn new(file: BufWriter<File>, path: PathBuf) -> Self {
        Self { file, path }
    }
}

impl Sink for Lines {
    fn row(&mut self, row: Row) -> Result<(), ReportError> {
        let mut line = serde_json::to_vec(&object(row)).map_err(ReportError::Json)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| ReportError::Write {
                path: self.path.clone(),
                source,
            })
    }

    fn finish(mut self: Box<Self>) -> Result<(), ReportError> {
        self.file.flush().map_err(|source| ReportError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn object(row: Row) -> Map<String, Value> {
    row.into_cells()
        .filter_map(|(column, cell)| Some((column.name().to_owned(), value(cell?))))
        .collect()
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Bool(value) => value.into(),
        Cell::Number(value) => value.into(),
        Cell::Text(value) => value.into(),
        Cell::Time(milliseconds) => {
            let time =
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
            let written = time.ok().and_then(|time| time.format(&Rfc3339).ok());
            written.map_or(Value::Null, Value::String)
        }
    }
}
