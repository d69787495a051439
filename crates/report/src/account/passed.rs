//! What passed, sealed or by an exception, what was refused, and the sockets there were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, Direction, Protocol, Socket};
use time::OffsetDateTime;

/// Connections that have the same ends and the same cryptography, as one side recorded them.
#[derive(Clone, Debug)]
pub(crate) struct FlowAccount {
    pub(crate) key: FlowKey,
    pub(crate) opened: u64,
    /// Of those opened, over links that resumed an earlier session.
    pub(crate) resumed: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: Bytes,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

/// What connections are told apart by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct FlowKey {
    /// Whose record it is.
    pub(crate) identity: Arc<str>,
    pub(crate) direction: Direction,
    /// None where it was aggregated.
    pub(crate) peer: Option<Arc<str>>,
    /// None where it was aggregated.
    pub(crate) destination: Option<Arc<str>>,
    pub(crate) version: Arc<str>,
    pub(crate) suite: Arc<str>,
    pub(crate) group: Arc<str>,
}

/// A declared exception, and what it let through.
#[derive(Clone, Debug)]
pub(crate) struct ExceptionAccount {
    pub(crate) key: ExceptionKey,
    /// Pods that declared it.
    pub(crate) pods: u64,
    pub(crate) connections: u64,
    pub(crate) bytes: Bytes,
    pub(crate) used: Option<(OffsetDateTime, OffsetDateTime)>,
    /// Connections in windows that hold one after its end.
    pub(crate) late: u64,
    /// Bytes in such windows, of connections that go on as well.
    pub(crate) late_bytes: u64,
    /// What TLS of the applications' own was seen.
    pub(crate) observed_tls: BTreeSet<Arc<str>>,
    /// Connections by who made them.
    pub(crate) by_identity: BTreeMap<Arc<str>, u64>,
}

/// What exceptions are told apart by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct ExceptionKey {
    /// None when it was used and no policy declares it.
    pub(crate) expires: Option<OffsetDateTime>,
    pub(crate) rule: Arc<str>,
    /// `dns`, `passthrough` or `require-tls`.
    pub(crate) what: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) ports: Vec<u16>,
    pub(crate) reason: Arc<str>,
    pub(crate) owner: Arc<str>,
}

/// Refusals of one kind.
#[derive(Clone, Debug)]
pub(crate) struct RefusalAccount {
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) reason: Arc<str>,
    pub(crate) count: u64,
    pub(crate) pods: u64,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
    /// One of them, in words.
    pub(crate) example: Option<String>,
}

/// What the censuses say.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketsAccount {
    /// Censuses taken.
    pub(crate) censuses: u64,
    /// Windows without one.
    pub(crate) without: u64,
    /// Sockets looked at, over all censuses.
    pub(crate) seen: u64,
    /// Sightings of sockets that nobody accounts for.
    pub(crate) unaccounted: u64,
    /// Some of those sockets.
    pub(crate) examples: Vec<UnaccountedSocket>,
}

/// A socket that nobody accounts for.
#[derive(Clone, Debug)]
pub(crate) struct UnaccountedSocket {
    pub(crate) pod: String,
    pub(crate) socket: Socket,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

impl FlowAccount {
    /// Bytes both ways.
    pub(crate) fn moved(&self) -> u64 {
        self.bytes.sent.saturating_add(self.bytes.received)
    }
}

impl ExceptionAccount {
    /// Bytes both ways.
    pub(crate) fn moved(&self) -> u64 {
        self.bytes.sent.saturating_add(self.bytes.received)
    }

    /// Whether anything passed by it, by a connection that goes on as well.
    pub(crate) fn is_used(&self) -> bool {
        self.used.is_some()
    }

    /// Whether anything passed after its end.
    pub(crate) fn is_late(&self) -> bool {
        self.late > 0 || self.late_bytes > 0
    }

    /// Whether it was over by then.
    pub(crate) fn expired(&self, as_of: OffsetDateTime) -> bool {
        self.key.expires.is_none_or(|expires| expires <= as_of)
    }
}
