//! Evidence that whoever trusts nobody can check: records of what was sealed, by whose key and
//! what else moved, in a transparency log on disk that the workload's own key signs.
//!
//! The sidecar writes: it opens an [`Evidence`] and hands its [`Recorder`] to whoever has something
//! to say. Auditors read: [`verify()`] checks logs against a trust bundle, offline, and a [`Log`]
//! yields the records that are proven to be in one. Tools that make many logs write with a
//! [`LogWriter`], on a thread and by a clock of their own.
//!
//! A [`Recorder`] never blocks. Everything else here waits for disks and devices: not for a
//! runtime's workers.

pub mod record;

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
