//! A window: everything that passed in a stretch of time, in groups.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::census::Census;
use super::refusal::RefusalCount;
use super::time::Timestamp;

/// What happened from `from` to `to`. Windows of a boot follow one another without a hole: what no
/// window speaks of is not covered.
///
/// A window that would be too long for one entry is written in parts, one right after the other.
/// Whatever is in it stands in one part only.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Window {
    /// Its begin: the end of the one before, or the start.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// Which part this is, from 1.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// Sealed connections, grouped.
    pub links: Vec<LinkGroup>,
    /// Connections that a declared exception let through.
    pub exceptions: Vec<ExceptionUse>,
    /// Refusals, counted.
    pub refusals: Vec<RefusalCount>,
    /// Every socket that the kernel knew in the pod at the window's end; missing where nobody took
    /// one, which is then said in `unavailable` of the census or by a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub census: Option<Census>,
    /// What was counted in coarser groups than usual, because there were too many; missing when
    /// nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregated: Option<Aggregated>,
}

/// What a sealed connection is grouped by.
#[derive(
    Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Flow {
    /// Who opened it.
    pub direction: Direction,
    /// SPIFFE ID of the peer; missing where peers were aggregated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Serial number of the peer's certificate; missing where it was aggregated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_serial: Option<String>,
    /// Serial number of the own certificate.
    pub serial: String,
    /// Where it went: the address and port that were dialled. For inbound connections this pod's
    /// own. Missing where destinations were aggregated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// TLS version, such as `TLSv1_3`.
    pub version: String,
    /// Cipher suite by its IANA name, such as `TLS_AES_256_GCM_SHA384`.
    pub suite: String,
    /// Key exchange group by its IANA name.
    pub group: String,
    /// Whether the handshake of its link resumed an earlier session.
    pub resumed: bool,
}

/// Connections that have the same [`Flow`].
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct LinkGroup {
    /// What they have in common.
    #[serde(flatten)]
    pub flow: Flow,
    /// Connections of applications opened in the window.
    pub opened: u64,
    /// Connections closed in the window, whenever they were opened.
    pub closed: u64,
    /// Connections open at the window's end.
    pub open: u64,
    /// Bytes of applications moved in the window.
    pub bytes: Bytes,
    /// First opening, closing or movement in the window.
    pub first: Timestamp,
    /// Last one.
    pub last: Timestamp,
    /// Of those closed, how many did not end well, by reason (as in metrics).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
}

/// Who opened a connection, seen from this pod.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// A peer connected to this pod.
    Inbound,
    /// An application of this pod connected out.
    Outbound,
}

/// Bytes of applications, before sealing and after opening.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Bytes {
    /// From this pod's application to the far side.
    pub sent: u64,
    /// From the far side to this pod's application.
    pub received: u64,
}

/// Connections that a declared exception let through in a window.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ExceptionUse {
    /// Name of the exception, as declared in the policy in force.
    pub rule: String,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// What the application's own TLS negotiated, for exceptions that demand it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_tls: Option<String>,
    /// Connections closed in the window.
    pub connections: u64,
    /// Bytes moved by them.
    pub bytes: Bytes,
    /// First of them in the window.
    pub first: Timestamp,
    /// Last of them.
    pub last: Timestamp,
}

/// What was counted in coarser groups. Nothing is left out: numbers of connections and bytes are
/// in the groups without destination or peer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Aggregated {
    /// Limit of groups that was reached.
    pub limit: u64,
    /// Events (openings, closings, movements) counted in groups without destination and serial
    /// number of the peer.
    pub without_destination: u64,
    /// Events counted in groups without peer.
    pub without_peer: u64,
    /// Refusals and uses of exceptions counted without an address.
    pub without_address: u64,
}
