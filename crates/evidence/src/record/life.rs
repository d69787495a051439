//! A run of the proxy: how it began, what was in force, what it missed, how it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Boot;
use super::time::Timestamp;

/// A run begins.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Start {
    /// Version of the proxy.
    pub version: String,
    /// SHA-256 of the program that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_sha256: Option<String>,
    /// SHA-256 of the nftables ruleset that captures the pod's traffic, as the kernel lists it or
    /// as it was applied; missing where the proxy cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_sha256: Option<String>,
    /// Configuration and policy in force.
    pub policy: Policy,
    /// The key in use, where there is one already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyFacts>,
    /// How long a window is meant to be, in seconds.
    pub window_seconds: u64,
    /// The run before, by the same log; missing when this is the first. Filled in by the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
}

/// What is in force.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Policy {
    /// SHA-256 of the configuration file.
    pub config_sha256: String,
    /// Name of the TLS profile.
    pub profile: String,
    /// Every declared exception, used or not.
    pub exceptions: Vec<DeclaredException>,
    /// How many more exceptions are declared than are listed (at most 128 are).
    pub exceptions_more: u64,
}

/// A declared exception.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct DeclaredException {
    /// Its name.
    pub rule: String,
    /// What it lets through: `dns`, `passthrough`, `require-tls`, …
    pub what: String,
    /// Address or range.
    pub destination: String,
    /// Ports.
    pub ports: Vec<u16>,
    /// Why it is needed, in its owner's words.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// When it ends. From then on it refuses.
    pub expires: Timestamp,
}

/// A key, in short.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct KeyFacts {
    /// Reference without secrets.
    pub reference: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub public_key_sha256: String,
    /// Serial number of the certificate in force for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// Where the run before left off.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Previous {
    /// Which run it was.
    pub boot: Boot,
    /// Number of its last record.
    pub seq: u64,
    /// When that was written.
    pub time: Timestamp,
    /// Whether it ended with a stop record.
    pub stopped: bool,
}

/// A run ends in an orderly way.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Stop {
    /// Why.
    pub cause: StopCause,
    /// The reason in words.
    pub detail: String,
    /// Connections that were open then.
    pub open: u64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// It was asked to, and every connection had ended.
    Drained,
    /// It was asked to, and the drain time was over first.
    DrainTimeout,
    /// It could not go on.
    Failed,
}

/// Something is missing or late.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Gap {
    /// What it is about.
    pub cause: GapCause,
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// How many records were lost; 0 where they were only late, missing where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// The reason in words, cut off at 512 bytes.
    pub detail: String,
}

/// Why there is a gap.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// The run before ended without a stop record: killed, or crashed. What it had not written yet
    /// is lost.
    Crash,
    /// No proxy ran between the run before, which stopped in an orderly way, and this one.
    NotRunning,
    /// More records came than could be written.
    Overload,
    /// The disk took no records.
    Storage,
    /// The key did not sign: records of this time were signed later.
    Unsigned,
    /// The clock was set back, or jumped.
    Clock,
    /// No census could be taken.
    Census,
    /// Another thing, said in `detail`.
    Other,
}
