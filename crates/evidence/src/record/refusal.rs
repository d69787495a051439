//! What was not let through.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use super::window::Direction;

/// Something that was refused: no byte of an application passed.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Refusal {
    /// Who tried.
    pub direction: Direction,
    /// Over which protocol.
    pub protocol: Protocol,
    /// A short, bounded name of the reason, as in metrics: `plaintext`, `no_route`, `expired`, …
    pub reason: String,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// Where it wanted to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// SPIFFE ID that the other side claimed or proved, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Who in the pod tried, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The reason in words, cut off at 512 bytes.
    pub detail: String,
}

/// Refusals of one kind in a window: all of them, the one that is a record of its own included.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct RefusalCount {
    /// Who tried.
    pub direction: Direction,
    /// Over which protocol.
    pub protocol: Protocol,
    /// The reason, as in [`Refusal::reason`].
    pub reason: String,
    /// Where they wanted to go; missing where that was aggregated or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// How many, the first included.
    pub count: u64,
    /// First of them in the window.
    pub first: Timestamp,
    /// Last of them.
    pub last: Timestamp,
}

/// A transport protocol.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// SCTP.
    Sctp,
    /// DCCP.
    Dccp,
    /// Raw IP.
    Raw,
    /// Below IP (packet sockets).
    Packet,
    /// Anything else.
    Other,
}

/// A process of the pod, as far as the kernel tells.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Process {
    /// UID that owns the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Inode of the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Name of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}
