//! The census: every socket and counter that the kernel has for the pod's network namespace, to
//! compare with what the proxy says it moved.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refusal::{Process, Protocol};
use super::time::Timestamp;
use super::window::Bytes;

/// The sockets of the pod's network namespace at one moment, and what moved since the last census.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Census {
    /// When it was taken.
    pub taken: Timestamp,
    /// How long taking it took, in microseconds.
    pub took_micros: u64,
    /// Inode of the network namespace, which tells pods apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u64>,
    /// Sockets by protocol and class.
    pub sockets: Vec<SocketCount>,
    /// Sockets of class `unaccounted`, at most 64 of them.
    pub unaccounted: Vec<Socket>,
    /// How many more there were than are listed.
    pub unaccounted_more: u64,
    /// Interfaces of the pod but for loopback: what moved since the census before.
    pub interfaces: Vec<InterfaceCounters>,
    /// Protocols: what moved since the census before.
    pub protocols: Vec<ProtocolCounters>,
    /// What the proxy itself moved on sealed links in the same time, in bytes of applications.
    pub sealed: Bytes,
    /// What it moved for declared exceptions.
    pub excepted: Bytes,
    /// What could not be had, and why.
    pub unavailable: Vec<Unavailable>,
}

/// How many sockets there were of a protocol and class.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct SocketCount {
    /// The protocol.
    pub protocol: Protocol,
    /// The class.
    pub class: SocketClass,
    /// How many.
    pub count: u64,
}

/// What a socket is for.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum SocketClass {
    /// A link that is sealed, or is being sealed.
    SealedLink,
    /// From an application of the pod to the proxy, or the other way round, inside the pod.
    ApplicationToProxy,
    /// Between addresses of the pod itself, past the proxy.
    Loopback,
    /// Let through by a declared exception.
    DeclaredException,
    /// The proxy's own: to Vault, metrics, probes, the issuer.
    ProxyOwn,
    /// Waits for connections, or is bound and has no peer.
    Listening,
    /// Closed, and kept by the kernel for a while (TIME_WAIT and the like).
    Closing,
    /// None of these.
    Unaccounted,
}

/// A socket.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state in the kernel's words, such as `ESTABLISHED`.
    pub state: String,
    /// Its own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The address it is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Whose it is.
    pub process: Process,
    /// Bytes it sent and received, where the kernel counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// What an interface moved between two censuses: whole frames, with headers and repetitions.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct InterfaceCounters {
    /// Its name.
    pub name: String,
    /// Bytes sent and received.
    pub bytes: Bytes,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Whether this is since the namespace began, because there is no census before.
    pub absolute: bool,
}

/// What the kernel counted for a protocol between two censuses, by the names of
/// `/proc/net/snmp`, such as `InSegs`, `OutDatagrams`, `NoPorts`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ProtocolCounters {
    /// The protocol in the kernel's words: `Tcp`, `Udp`, `UdpLite`, `Ip`.
    pub protocol: String,
    /// The counter.
    pub counter: String,
    /// By how much it grew.
    pub count: u64,
    /// Whether this is since the namespace began, because there is no census before.
    pub absolute: bool,
}

/// A figure that could not be had.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Unavailable {
    /// Which. Begins with `sockets` where some could not be listed: such a census does not show that
    /// there were no others.
    pub what: String,
    /// Why.
    pub why: String,
}
