//! What can be wrong with a log, and where.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::record::{Boot, Timestamp};

/// Something to say about a log.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is.
    pub problem: Problem,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Since when nothing can be relied on, by the records around it; missing where that is not
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In words.
    pub detail: String,
}

/// Where in a log something is, as far as it is known.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Place {
    /// Index of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// File, from the log's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Run of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Number of the record in that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// The log cannot be relied on, at that place at least.
    Wrong,
    /// Nothing is wrong by that, but whoever relies on the log should know.
    Remark,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// There is no log, or it cannot be read.
    Unreadable,
    /// The checkpoint is missing, or is none.
    Checkpoint,
    /// No key that the log has a certificate for signed a checkpoint.
    UnknownSigner,
    /// A signature is not that of the key that it names.
    Signature,
    /// The signer's certificate does not chain to the bundle, or was not valid then.
    Certificate,
    /// The records lead to another root than the one that was signed.
    Root,
    /// A record is not the one that was signed.
    Record,
    /// A bundle of records is missing, or has not the form of one.
    Bundle,
    /// A tile of hashes is missing, or is not what the records lead to.
    Tile,
    /// A file stands where none of a log does.
    Stray,
    /// An entry is no record of a known schema.
    Schema,
    /// A record's number does not follow the one before it.
    Sequence,
    /// A run does not follow the one before it.
    Boot,
    /// A window does not follow the one before it.
    Window,
    /// A key was used of which no custody had been recorded, or whose proof does not verify.
    Custody,
    /// What a certificate's record says is not what the certificate says.
    CertificateRecord,
    /// Records that no checkpoint covers yet are not what was written.
    Journal,
    /// Records are missing from the begin, and no note says that they were dropped.
    Removed,
    /// The log ends before it should, by what is known from elsewhere.
    Truncated,
    /// The log does not contain what a checkpoint from elsewhere names.
    Contradicted,
    /// No checkpoint covers these records yet: nothing shows whether they were edited.
    Unsigned,
    /// The log ends without a stop record: the proxy runs, was killed, or the end is missing.
    OpenEnd,
    /// Records were dropped by age or size, and a note says so.
    Dropped,
    /// A gap is stated.
    Gap,
    /// Records of the run before were not signed when a run began, which took them over: nothing
    /// shows that nobody changed them between the two.
    TakenOver,
    /// The log is signed under another SPIFFE ID from here on.
    Identity,
    /// A time comes before the one before it.
    Clock,
    /// A crash left something half written that nobody had been told was done.
    Interrupted,
}

impl Problem {
    /// Whether that is wrong.
    pub fn severity(self) -> Severity {
        match self {
            Self::Unsigned
            | Self::OpenEnd
            | Self::Dropped
            | Self::Gap
            | Self::TakenOver
            | Self::Identity
            | Self::Clock
            | Self::Interrupted => Severity::Remark,
            _ => Severity::Wrong,
        }
    }
}

impl Finding {
    pub(super) fn new(problem: Problem, place: Place, detail: impl Into<String>) -> Self {
        Self {
            problem,
            place,
            since: None,
            detail: detail.into(),
        }
    }

    pub(super) fn since(self, since: Option<Timestamp>) -> Self {
        Self { since, ..self }
    }

    /// Whether it says that something is wrong.
    pub fn severity(&self) -> Severity {
        self.problem.severity()
    }
}

impl Place {
    pub(super) fn file(file: impl Into<PathBuf>) -> Self {
        Self {
            file: Some(file.into()),
            ..Self::default()
        }
    }
}

/// `record 12 (boot 0f…, seq 3), tile/entries/000.p/17: it is not the one that was signed (since …)`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.detail)?;
        if let Some(since) = self.since {
            write!(f, " (nothing is certain since {since})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(index) = self.index {
            parts.push(match (self.boot, self.seq) {
                (Some(boot), Some(seq)) => format!("record {index} (boot {boot}, seq {seq})"),
                _ => format!("record {index}"),
            });
        }
        if let Some(file) = &self.file {
            parts.push(file.display().to_string());
        }
        if !parts.is_empty() {
            write!(f, "{}: ", parts.join(", "))?;
        }
        Ok(())
    }
}
