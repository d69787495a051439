//! Evidence that whoever trusts nobody can check: records of what was sealed, by whose key and
//! what else moved, in a transparency log on disk that the workload's own key signs.
//!
//! The sidecar writes: it opens an [`Evidence`] and hands its [`Recorder`] to whoever has something
//! to say. Auditors read: [`verify()`] checks logs against a trust bundle, offline, and a [`Log`]
//! yields the records that are proven to be in one. Tools that make many logs write with a
//! [`LogWriter`], on a thread and by a clock of their own.
//!
//! A [`Recorder`] never waits for disk or key. Everything else here does: not for a runtime's
//! workers.

mod evidence;
mod log;
mod merkle;
mod note;
pub mod record;
mod recorder;
mod signer;
#[cfg(test)]
mod testing;
mod tile;
mod verify;

pub use evidence::{CensusTaker, Evidence, EvidenceConfig, Figures};
pub use log::{
    Clock, Cut, Entry, Log, LogConfig, LogError, LogWriter, ReadError, Records, RetentionLimits,
    Standing, SystemClock, logs_in, origin_of,
};
pub use merkle::Hash;
pub use note::{Checkpoint, NoteError, OriginError, SignedCheckpoint};
pub use recorder::Recorder;
pub use verify::{
    Expect, Finding, LogVerdict, Place, Problem, Progress, Severity, Trust, Verdict, verify,
};

/// The JSON Schema of a record.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(record::Record)
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from lower-case hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
