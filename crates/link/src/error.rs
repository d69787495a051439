//! Why there is no link. One variant for each thing that a caller or an operator can do about it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::{AlertDescription, InvalidMessage};
use sealwire_identity::PeerError;
use sealwire_keys::SignError;

/// Why a link could not be made or accepted. Nothing of the application was sent or delivered.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A limit of this proxy was reached; the same attempt may succeed later.
    #[error("overloaded: {what} is at its limit of {limit}; retry later, or raise the limit")]
    Overloaded {
        /// The limit that was reached.
        what: &'static str,
        /// Its configured value.
        limit: usize,
    },

    /// The link was not sealed in time.
    #[error("deadline passed after {waited:?} while {stage}")]
    Deadline {
        /// What was under way.
        stage: &'static str,
        /// How long the attempt took altogether.
        waited: Duration,
    },

    /// No TCP connection could be made to the destination.
    #[error("cannot connect to {destination}: {source}")]
    Unreachable {
        /// Where the application wanted to go.
        destination: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },

    /// The peer ended the connection before the handshake was over.
    #[error("the peer closed the connection during the handshake: {0}")]
    Interrupted(io::Error),

    /// The peer's certificate, or the lack of one, was refused by us.
    #[error("peer refused: {0}")]
    Peer(PeerError),

    /// What the peer sent is not TLS.
    #[error(
        "plaintext refused: the peer does not speak TLS; give it a sidecar, or a certificate of the mesh"
    )]
    Plaintext,

    /// The peer refused us with a TLS alert.
    #[error("the peer refused this workload with the TLS alert {0:?}; its log says why")]
    RefusedByPeer(AlertDescription),

    /// Our own key could not sign.
    #[error("own key: {0}")]
    Key(SignError),

    /// The two sides have no version, suite, group or signature scheme in common, or one of them
    /// broke the protocol.
    #[error("TLS handshake failed: {0}")]
    Tls(rustls::Error),
}

impl LinkError {
    /// A short, bounded name for metrics and records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overloaded",
            Self::Deadline { .. } => "deadline",
            Self::Unreachable { .. } => "unreachable",
            Self::Interrupted(_) => "interrupted",
            Self::Peer(error) => error.reason(),
            Self::Plaintext => "plaintext",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::Key(_) => "key",
            Self::Tls(_) => "tls",
        }
    }
}

impl From<rustls::Error> for LinkError {
    fn from(error: rustls::Error) -> Self {
        if let Some(peer) = PeerError::find(&error) {
            return Self::Peer(peer.clone());
        }
        if let Some(sign) = sealwire_identity::find_sign_error(&error) {
            return Self::Key(sign.clone());
        }
        match error {
            rustls::Error::NoCertificatesPresented => Self::Peer(PeerError::NoCertificate),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::Plaintext,
            rustls::Error::AlertReceived(alert) => Self::RefusedByPeer(alert),
            other => Self::Tls(other),
        }
    }
}
