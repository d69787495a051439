//! What was dropped, by which rule. Stands in the log itself, signed like all of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Previous;
use super::key::{Certificate, Custody};
use super::time::Timestamp;

/// Records were dropped from the log's beginning. The tree keeps their hashes: whoever has a copy
/// can still prove that it is the true one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Retention {
    /// Which limit was reached.
    pub rule: RetentionRule,
    /// The limit, in seconds or bytes.
    pub limit: u64,
    /// Index of the first record that is kept.
    pub minimum: u64,
    /// Index of the first record that was dropped this time.
    pub dropped_from: u64,
    /// When the first of them was written.
    pub from: Timestamp,
    /// When the last of them was written.
    pub to: Timestamp,
    /// Root of the tree of all records before `minimum` (RFC 6962), in base64.
    pub root: String,
    /// The last record dropped: the boot chain goes on from it.
    pub last: Previous,
    /// Certificates from dropped records that still count, so that signatures stay verifiable.
    pub certificates: Vec<Certificate>,
    /// The last custody of each of their keys.
    pub custody: Vec<Custody>,
}

/// A limit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionRule {
    /// Records were older than the configured age.
    Age,
    /// The log was longer than the configured size.
    Size,
}
