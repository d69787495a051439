//! The section about evidence, as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Evidence for auditors: what was sealed, by whose key, and what else moved.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EvidenceSection {
    /// Directory of the log: one pod's alone, on a volume that outlives a restart of the container.
    /// Made when it is missing.
    pub directory: PathBuf,
    /// Seconds that a window is long. Each is signed, which takes one signature of the key.
    #[serde(default = "default_window")]
    pub window_seconds: u64,
    /// Seconds between two statements of the key's home about the key, each with a signature.
    #[serde(default = "default_custody")]
    pub custody_seconds: u64,
    /// Whether nothing may flow while evidence cannot be written. Without it a gap is stated, in
    /// the log as soon as it can be written again, and in health and metrics at once.
    #[serde(default)]
    pub required: bool,
    /// How long records are kept here.
    #[serde(default)]
    pub retention: RetentionSection,
    /// Which pod this is.
    #[serde(default)]
    pub pod: PodSection,
}

/// How long records are kept. What is dropped is said in a signed record.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RetentionSection {
    /// Hours that a record is kept at least as far as `bytes` allows.
    pub hours: u64,
    /// Bytes that the log may take.
    pub bytes: u64,
}

/// Which pod this is. Each of the four is a value here or a file in `directory`.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSection {
    /// Directory with the files `namespace`, `name`, `uid` and perhaps `node`: a volume of
    /// Kubernetes' downward API. Read at the start.
    pub directory: Option<PathBuf>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name. The host's name, which is the pod's in Kubernetes, when it is said nowhere.
    pub name: Option<String>,
    /// Its UID.
    pub uid: Option<String>,
    /// The node that it runs on. `sealwire-proxy run --node` says it too: the downward API gives
    /// it to arguments, not to files.
    pub node: Option<String>,
}

impl Default for RetentionSection {
    fn default() -> Self {
        Self {
            hours: 24 * 30,
            bytes: 1024 * 1024 * 1024,
        }
    }
}

fn default_window() -> u64 {
    60
}

fn default_custody() -> u64 {
    3600
}
