//! The log of operations, `operations.jsonl`: a line of JSON for each, written at once, so that
//! lines of several processes never mix. Never a PIN, never data. The module writes it, tests and
//! people read it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::pkcs11::{Function, Rv};

/// The name of the file.
pub(super) const FILE: &str = "operations.jsonl";

/// An operation in the log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Operation {
    /// When it began, to the microsecond.
    #[serde(with = "microseconds")]
    pub time: OffsetDateTime,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub thread: u32,
    /// The function.
    pub function: Function,
    /// The slot, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    /// The token's label, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The session, as the application knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// What it answered.
    pub rv: Rv,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What made the answer up, where the real module did not give it: a rule or a state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected: Option<String>,
    /// Whether it only asked for a length.
    #[serde(default, skip_serializing_if = "is_false")]
    pub length_query: bool,
    /// How the application broke the rules of PKCS#11.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation: Option<Violation>,
}

/// How an application breaks the rules of PKCS#11.
#[derive(Copy, Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Violation {
    /// Two threads used one session at once.
    SharedSession,
    /// C_Finalize while another call was under way.
    FinalizeDuringCall,
    /// A call before C_Initialize or after C_Finalize.
    NotInitialized,
    /// A session was used after the application had closed it.
    ClosedSession,
    /// A process that was forked after C_Initialize made a call without its own C_Initialize.
    Forked,
}

impl Violation {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::SharedSession,
        Self::FinalizeDuringCall,
        Self::NotInitialized,
        Self::ClosedSession,
        Self::Forked,
    ];
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SharedSession => "two threads in one session",
            Self::FinalizeDuringCall => "C_Finalize during a call",
            Self::NotInitialized => "a call without C_Initialize",
            Self::ClosedSession => "use of a closed session",
            Self::Forked => "a call in a fork",
        })
    }
}

/// The log, open for writing.
#[derive(Debug)]
pub(crate) struct Log(File);

impl Log {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(directory.join(FILE))
            .map(Self)
    }

    /// Writes a line. A disk that is full costs the log, not the application.
    pub(crate) fn write(&self, operation: &Operation) {
        if let Ok(mut line) = serde_json::to_vec(operation) {
            line.push(b'\n');
            let _ = (&self.0).write_all(&line);
        }
    }
}

/// Reads the operations in the log. A line that is being written is left out.
pub(super) fn read(directory: &Path) -> io::Result<Vec<Operation>> {
    match fs::read_to_string(directory.join(FILE)) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// RFC 3339 with six digits.
mod microseconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    use time::format_description::{BorrowedFormatItem, StaticFormatDescription};
    use time::macros::format_description;

    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

    pub(super) fn serialize<S: Serializer>(
        time: &OffsetDateTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let format: StaticFormatDescription = FORMAT;
        let text = time.format(&format).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<OffsetDateTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_operation_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let operation = Operation {
            time: datetime!(2026-01-31 12:00:00.000_250 UTC),
            pid: 1,
            thread: 2,
            function: Function::C_Sign,
            slot: Some(3),
            token: Some("web \"quoted\"\n".to_owned()),
            session: Some(4),
            rv: Rv(cryptoki_sys::CKR_DEVICE_ERROR),
            micros: 5,
            injected: Some("fault-1".to_owned()),
            length_query: false,
            violation: Some(Violation::SharedSession),
        };
        Log::open(directory.path()).unwrap().write(&operation);
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert_eq!(
            text,
            "{\"time\":\"2026-01-31T12:00:00.000250Z\",\"pid\":1,\"thread\":2,\
             \"function\":\"C_Sign\",\"slot\":3,\"token\":\"web \\\"quoted\\\"\\n\",\"session\":4,\
             \"rv\":\"CKR_DEVICE_ERROR\",\"micros\":5,\"injected\":\"fault-1\",\
             \"violation\":\"shared-session\"}\n"
        );
        let read = read(directory.path()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].time, operation.time);
        assert_eq!(read[0].token, operation.token);
    }

    #[test]
    fn a_line_that_is_being_written_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{\"time\":\"2026-01").unwrap();
        assert!(read(directory.path()).unwrap().is_empty());
    }
}
