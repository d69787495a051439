//! What the demo found, for people and for machines.

use std::fmt;

use serde::Serialize;

/// Everything.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Whether everything was as promised.
    pub(crate) ok: bool,
    pub(crate) seconds: f64,
    pub(crate) wire: Seen,
    pub(crate) keys: Vec<Key>,
    pub(crate) links: Vec<Link>,
    pub(crate) refused: Vec<Refused>,
}

/// What an independent capture saw between the two pods.
#[derive(Serialize)]
pub(crate) struct Seen {
    pub(crate) packets: usize,
    pub(crate) tls_bytes: u64,
    pub(crate) plaintext_bytes: u64,
    /// Whether what the pods told each other stood on the wire.
    pub(crate) secret_seen: bool,
}

/// What a token says about a key.
#[derive(Serialize)]
pub(crate) struct Key {
    pub(crate) uri: String,
    pub(crate) token: String,
    pub(crate) sensitive: Option<bool>,
    pub(crate) extractable: Option<bool>,
    pub(crate) never_extractable: Option<bool>,
    pub(crate) local: Option<bool>,
    pub(crate) signatures: u64,
}

/// A sealed link, from the record of the side that opened it.
#[derive(Serialize)]
pub(crate) struct Link {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) peer: String,
    pub(crate) suite: String,
    pub(crate) group: String,
}

/// Something that must not work.
#[derive(Serialize)]
pub(crate) struct Refused {
    pub(crate) what: String,
    pub(crate) reason: String,
    pub(crate) refused: bool,
}

impl Key {
    pub(crate) fn cannot_leave(&self) -> bool {
        let attributes = (
            self.sensitive,
            self.extractable,
            self.never_extractable,
            self.local,
        );
        attributes == (Some(true), Some(false), Some(true), Some(true)) && self.signatures > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = &self.wire;
        writeln!(
            f,
            "\nWhat the wire carried between the pods (seen by tcpdump)"
        )?;
        writeln!(
            f,
            "  {} packets, {} bytes in TLS records, {} bytes of plaintext",
            wire.packets, wire.tls_bytes, wire.plaintext_bytes
        )?;
        writeln!(f, "\nWho spoke to whom")?;
        for link in &self.links {
            writeln!(f, "  {} → {}", link.source, link.destination)?;
            writeln!(f, "    {}  {}  {}", link.peer, link.suite, link.group)?;
        }
        writeln!(
            f,
            "\nWhich keys signed (attributes as their token states them)"
        )?;
        for key in &self.keys {
            writeln!(f, "  {} ({})", key.uri, key.token)?;
            writeln!(
                f,
                "    sensitive: {}  extractable: {}  never extractable: {}  made in the token: {}  signatures: {}",
                yes(key.sensitive),
                yes(key.extractable),
                yes(key.never_extractable),
                yes(key.local),
                key.signatures
            )?;
        }
        writeln!(f, "\nWhat was refused")?;
        for attempt in &self.refused {
            let mark = if attempt.refused {
                "✔"
            } else {
                "✘ LET THROUGH:"
            };
            writeln!(f, "  {mark} {}\n      {}", attempt.what, attempt.reason)?;
        }
        let verdict = if self.ok {
            "Sealed"
        } else {
            "NOT sealed as promised"
        };
        write!(f, "\n{verdict}, in {:.1} s.", self.seconds)
    }
}

fn yes(claim: Option<bool>) -> &'static str {
    match claim {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not said",
    }
}
