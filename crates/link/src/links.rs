//! Making and accepting links: admission, the handshake, who the peer is, and the link's place in
//! the registry.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{Connection, HandshakeKind};
use sealwire_identity::{CertificateFacts, Epoch, Naming, PeerError};
use time::OffsetDateTime;
use tokio::net::TcpStream;

use crate::admission::Admission;
use crate::driver::{self, Role, Sealed};
use crate::error::LinkError;
use crate::pool::SigningPool;
use crate::record::{Direction, LinkFacts};
use crate::registry::{Membership, Registry};
use crate::relay::{End, Ended, relay_sealed};
use crate::socket::prepare;

/// Bounds of everything that links may take.
#[derive(Copy, Clone, Debug)]
pub struct LinkLimits {
    /// Handshakes under way at once that sign, in each direction: a pod that dials itself must not
    /// wait for itself. Resumptions do not count.
    pub handshakes: usize,
    /// Handshakes waiting for one of those places; the next is refused as overload.
    pub waiting: usize,
    /// Time from the first packet to a sealed link.
    pub handshake: Duration,
    /// How long a half-closed connection may go without a byte.
    pub half_closed_idle: Duration,
    /// How long before its certificate's end a link looks for a quiet moment to close.
    pub drain: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            handshakes: 256,
            waiting: 4096,
            handshake: Duration::from_secs(10),
            half_closed_idle: Duration::from_secs(300),
            drain: Duration::from_secs(30),
        }
    }
}

/// What [`Links`] is made of.
#[derive(Debug)]
pub struct LinksConfig {
    /// The signing threads.
    pub pool: Arc<SigningPool>,
    /// Where live links are listed.
    pub registry: Arc<Registry>,
    /// Bounds.
    pub limits: LinkLimits,
}

/// The maker and accepter of links.
#[derive(Debug)]
pub struct Links {
    config: LinksConfig,
    inbound: Admission,
    outbound: Admission,
}

/// A link that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The address that the application dialled.
    pub destination: SocketAddr,
    /// What the peer's certificate must say.
    pub naming: Naming,
    /// When the attempt is given up.
    pub deadline: Instant,
}

impl Links {
    /// Takes up the given parts.
    pub fn new(config: LinksConfig) -> Self {
        Self {
            inbound: Admission::new(config.limits.handshakes, config.limits.waiting),
            outbound: Admission::new(config.limits.handshakes, config.limits.waiting),
            config,
        }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &LinkLimits {
        &self.config.limits
    }

    /// How many handshakes wait for a place among those that sign.
    pub fn waiting(&self) -> usize {
        self.inbound.waiting() + self.outbound.waiting()
    }

    /// How many steps of handshakes wait for a signing thread.
    pub fn steps_waiting(&self) -> usize {
        self.config.pool.waiting()
    }

    /// Makes a link under `epoch` to the destination, whose peer has proven to be whom the request
    /// expects.
    ///
    /// # Errors
    /// See [`LinkError`]. No application byte has been sent.
    pub async fn connect(&self, epoch: &Epoch, request: Request) -> Result<Link, LinkError> {
        let begun = Instant::now();
        let connecting = TcpStream::connect(request.destination);
        let socket = tokio::time::timeout_at(request.deadline.into(), connecting)
            .await
            .map_err(|_| LinkError::Deadline {
                stage: "connecting",
                waited: begun.elapsed(),
            })?
            .map_err(|source| LinkError::Unreachable {
                destination: request.destination,
                source,
            })?;
        let client = epoch.client_config(&request.naming)?;
        let name = ServerName::IpAddress(request.destination.ip().to_canonical().into());
        self.seal(
            Direction::Outbound,
            Role::Client(client, name),
            socket,
            epoch,
            request.deadline,
        )
        .await
    }

    /// Accepts a link under `epoch` on a connection that a peer opened to this pod.
    ///
    /// # Errors
    /// See [`LinkError`]. Nothing of the peer may be delivered then.
    pub async fn accept(
        &self,
        epoch: &Epoch,
        socket: TcpStream,
        deadline: Instant,
    ) -> Result<Link, LinkError> {
        let role = Role::Server(epoch.server_config());
        self.seal(Direction::Inbound, role, socket, epoch, deadline)
            .await
    }

    async fn seal(
        &self,
        direction: Direction,
        role: Role,
        socket: TcpStream,
        epoch: &Epoch,
        deadline: Instant,
    ) -> Result<Link, LinkError> {
        prepare(&socket).map_err(LinkError::Interrupted)?;
        let begun = Instant::now();
        let admission = match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        let sealed =
            driver::handshake(&self.config.pool, admission, role, socket, deadline).await?;
        let facts = self.facts(&sealed.connection, epoch, begun.elapsed())?;
        let end = self.end(facts.ends);
        Ok(Link {
            sealed,
            end,
            membership: self.config.registry.enter(direction, facts),
            half_closed_idle: self.config.limits.half_closed_idle,
        })
    }

    fn facts(
        &self,
        connection: &Connection,
        epoch: &Epoch,
        handshake: Duration,
    ) -> Result<LinkFacts, LinkError> {
        let leaf = connection
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(LinkError::Peer(PeerError::NoCertificate))?;
        let peer = CertificateFacts::of(leaf)
            .map_err(|error| LinkError::Tls(rustls::Error::General(error.to_string())))?;
        let own = &epoch.credentials().facts();
        Ok(LinkFacts {
            id: self.config.registry.next_id(),
            epoch: epoch.number(),
            identity: own.spiffe_id.to_string(),
            serial: own.serial.clone(),
            key: epoch.credentials().key().reference().to_owned(),
            peer: peer.spiffe_id.to_string(),
            peer_serial: peer.serial.clone(),
            version: connection
                .protocol_version()
                .and_then(|version| version.as_str())
                .unwrap_or("unknown"),
            suite: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("unknown")
                .to_owned(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            handshake_seconds: handshake.as_secs_f64(),
            ends: own.not_after.min(peer.not_after),
        })
    }

    /// Spreads the ends of links over the drain time, so that a pod's links do not all end in the
    /// same moment.
    fn end(&self, ends: OffsetDateTime) -> End {
        let left = Duration::try_from(ends - OffsetDateTime::now_utc()).unwrap_or_default();
        let drain = self.config.limits.drain.min(left / 2);
        let at = Instant::now() + left.saturating_sub(drain.mul_f64(fastrand::f64()));
        End {
            drain: at.checked_sub(drain).unwrap_or(at),
            at,
        }
    }
}

/// A sealed link to a peer that has proven its identity.
pub struct Link {
    sealed: Sealed,
    end: End,
    membership: Membership,
    half_closed_idle: Duration,
}

impl Link {
    /// What is known about the link.
    pub fn facts(&self) -> &LinkFacts {
        &self.membership.facts
    }

    /// Relays an application's bytes until both directions ended, a side broke off, or the link
    /// was closed.
    pub async fn relay(self, app: TcpStream) -> Ended {
        let mut membership = self.membership;
        relay_sealed(
            app,
            self.sealed,
            self.end,
            self.half_closed_idle,
            membership.closed(),
        )
        .await
    }

    /// Ends the link without an application: after a refusal that only its identity allows.
    pub fn refuse(self) {
        crate::socket::reset(self.sealed.socket);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(self.facts()).finish()
    }
}
