//! What is known about a connection once it has ended: who, whom, by which certificate and key,
//! how many bytes, when, and how it ended. Log lines, metrics and everything written for auditors
//! are made from a [`Record`] alone, so that they cannot disagree.

use std::net::SocketAddr;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::registry::CloseReason;

/// Who opened the connection, seen from this pod.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// A peer connected to this pod.
    Inbound,
    /// An application of this pod connected out.
    Outbound,
}

impl Direction {
    /// The value of the `direction` label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What the policy made of the connection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "exception")]
pub enum Treatment {
    /// Sealed in mutual TLS.
    Seal,
    /// Let through unsealed by the named exception.
    Passthrough(String),
    /// Let through by the named exception because the application itself spoke TLS.
    RequireTls(String),
    /// Refused.
    Refuse,
}

/// The sealed link under a connection.
#[derive(Clone, Debug, Serialize)]
pub struct LinkFacts {
    /// Number of the link, unique in this process.
    pub id: u64,
    /// Trust epoch that the link was made in.
    pub epoch: u64,
    /// Own SPIFFE ID.
    pub identity: String,
    /// Serial number of the own certificate, in hexadecimal.
    pub serial: String,
    /// Reference of the own key, without secrets (RFC 7512 or `vault-transit:`).
    pub key: String,
    /// The peer's SPIFFE ID.
    pub peer: String,
    /// Serial number of the peer's certificate, in hexadecimal.
    pub peer_serial: String,
    /// TLS version, such as `TLSv1_3`.
    pub version: &'static str,
    /// Cipher suite by its IANA name.
    pub suite: String,
    /// Key exchange group by its IANA name.
    pub group: String,
    /// Whether the handshake resumed an earlier session (RFC 8446 section 2.2).
    pub resumed: bool,
    /// How long the handshake took, from the connected socket to the sealed link, in seconds.
    pub handshake_seconds: f64,
    /// When the link must end: the earlier end of the two certificates.
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
}

/// Application bytes moved, before sealing and after opening.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Moved {
    /// From the local application to the far side.
    pub sent: u64,
    /// From the far side to the local application.
    pub received: u64,
}

impl Add for Moved {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
        }
    }
}

/// Application bytes that a connection has moved so far, for others to look at while it is open.
#[derive(Debug, Default)]
pub struct Moving {
    sent: AtomicU64,
    received: AtomicU64,
    /// How much of it somebody has accounted for.
    accounted: Mutex<Moved>,
}

impl Moving {
    /// As far as it has come.
    pub fn so_far(&self) -> Moved {
        Moved {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// What was moved since this was last asked, so that each byte is accounted for once, whoever
    /// asks and when.
    pub fn account(&self) -> Moved {
        // Nothing under the lock can leave it half changed.
        let mut accounted = self
            .accounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = *accounted;
        *accounted = self.so_far();
        Moved {
            sent: accounted.sent.saturating_sub(before.sent),
            received: accounted.received.saturating_sub(before.received),
        }
    }

    /// Says how far it has come. One relay writes, so this is two plain stores.
    pub fn is_at(&self, moved: Moved) {
        self.sent.store(moved.sent, Ordering::Relaxed);
        self.received.store(moved.received, Ordering::Relaxed);
    }
}

impl Serialize for Moving {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.so_far().serialize(serializer)
    }
}

/// How a connection ended.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Outcome {
    /// Both sides said that they were done.
    Complete,
    /// One side broke off; the other was told by a reset, never by a clean end.
    Reset {
        /// Who broke off, and how.
        reason: &'static str,
        /// The error in words.
        detail: String,
    },
    /// This proxy closed it.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// It never came about; no application byte passed.
    Refused {
        /// A short, bounded name of the reason, as in metrics.
        reason: &'static str,
        /// The reason in words, with the way out.
        detail: String,
    },
}

impl Outcome {
    /// The value of the `outcome` label in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Reset { .. } => "reset",
            Self::Closed { .. } => "closed",
            Self::Refused { .. } => "refused",
        }
    }
}

/// One connection of an application, from its beginning to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Who opened it.
    pub direction: Direction,
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// What the policy made of it.
    pub treatment: Treatment,
    /// The link that carried it; none when it was refused or passed unsealed.
    pub link: Option<LinkFacts>,
    /// What an application's own TLS negotiated, for [`Treatment::RequireTls`].
    pub observed_tls: Option<String>,
    /// Application bytes each way.
    pub moved: Moved,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub opened: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub closed: OffsetDateTime,
    /// How it ended.
    pub outcome: Outcome,
}

/// The name of a cipher suite as IANA has it, where rustls says by a prefix of its own that it is one
/// of TLS 1.3.
pub fn iana_name(suite: &str) -> String {
    match suite.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => suite.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_accounted_for_once() {
        let moving = Moving::default();
        let moved = |sent, received| Moved { sent, received };
        moving.is_at(moved(10, 1));
        assert_eq!(moving.account(), moved(10, 1));
        assert_eq!(moving.account(), moved(0, 0));
        moving.is_at(moved(15, 1));
        assert_eq!(moving.account(), moved(5, 0));
        assert_eq!(moving.so_far(), moved(15, 1));
    }

    #[test]
    fn suites_have_the_names_of_iana() {
        let name = |suite: rustls::CipherSuite| iana_name(suite.as_str().unwrap());
        assert_eq!(
            name(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384),
            "TLS_AES_256_GCM_SHA384"
        );
        assert_eq!(
            name(rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
        );
    }
}
