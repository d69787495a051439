//! Making and accepting links: admission, the handshake, who the peer is, and the link's place in
//! the registry.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{Connection, HandshakeKind};
use sealwire_identity::{CertificateFacts, Epoch, Naming, PeerError, Role};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::admission::Admission;
use crate::driver::{self, Sealed};
use crate::error::LinkError;
use crate::pool::SigningPool;
use crate::record::{Direction, LinkFacts, Moved, Outcome, iana_name};
use crate::registry::{Entered, LiveLink, Membership, Peer, Registry};
use crate::relay::{End, Ended, relay_sealed};
use crate::socket::{enter_runtime, leave_runtime, prepare, reset};

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
    relays: Option<Handle>,
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
            relays: None,
        }
    }

    /// Relays on another runtime than that of the handshakes: a burst of those, each a task that
    /// wants to run, would else stand in the queue before every byte of the links there are.
    pub fn relaying_on(mut self, relays: Handle) -> Self {
        self.relays = Some(relays);
        self
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
    pub async fn connect(&self, epoch: &Arc<Epoch>, request: Request) -> Result<Link, LinkError> {
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
        let client = epoch.client_config(&request.naming, request.destination)?;
        let name = ServerName::IpAddress(request.destination.ip().to_canonical().into());
        let attempt = Attempt {
            direction: Direction::Outbound,
            epoch,
            request,
        };
        self.seal(attempt, driver::Role::Client(client, name), socket)
            .await
    }

    /// Accepts a link under `epoch` on a connection that a peer opened to this pod, to the
    /// address `destination`.
    ///
    /// # Errors
    /// See [`LinkError`]. Nothing of the peer may be delivered then.
    pub async fn accept(
        &self,
        epoch: &Arc<Epoch>,
        socket: TcpStream,
        destination: SocketAddr,
        deadline: Instant,
    ) -> Result<Link, LinkError> {
        let attempt = Attempt {
            direction: Direction::Inbound,
            epoch,
            request: Request {
                destination,
                naming: Naming::TrustDomain,
                deadline,
            },
        };
        let role = driver::Role::Server(epoch.server_config());
        self.seal(attempt, role, socket).await
    }

    async fn seal(
        &self,
        attempt: Attempt<'_>,
        role: driver::Role,
        socket: TcpStream,
    ) -> Result<Link, LinkError> {
        prepare(&socket).map_err(LinkError::Interrupted)?;
        let begun = Instant::now();
        let admission = match attempt.direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        let deadline = attempt.request.deadline;
        let sealed =
            driver::handshake(&self.config.pool, admission, role, socket, deadline).await?;
        let peer = match self.peer(&attempt, &sealed.connection).await {
            Ok(peer) => peer,
            Err(error) => {
                reset(sealed.socket);
                return Err(error);
            }
        };
        let facts = self.facts(&attempt, &sealed.connection, &peer.facts, begun.elapsed());
        let end = self.end(facts.ends);
        // A socket that has no ends any more was reset meanwhile.
        let near = sealed.socket.local_addr().map_err(LinkError::Interrupted)?;
        let far = sealed.socket.peer_addr().map_err(LinkError::Interrupted)?;
        let link = LiveLink {
            direction: attempt.direction,
            destination: attempt.request.destination,
            near,
            far,
            moved: Arc::default(),
            facts,
        };
        let Entered { membership, epoch } = self.config.registry.enter(link, peer);
        // The trust may have changed during the handshake, after the live links were judged.
        if let Some(newer) = epoch.filter(|judge| judge.number() > attempt.epoch.number()) {
            let judged = Attempt {
                epoch: &newer,
                ..attempt
            };
            if let Err(error) = self.verify(&judged, membership.peer.chain.clone()).await {
                reset(sealed.socket);
                return Err(error);
            }
        }
        Ok(Link {
            sealed,
            end,
            membership,
            half_closed_idle: self.config.limits.half_closed_idle,
            relays: self.relays.clone(),
        })
    }

    /// Who the peer is. A full handshake has verified it. A resumed one has not: since the
    /// session was made, the time has gone on.
    async fn peer(
        &self,
        attempt: &Attempt<'_>,
        connection: &Connection,
    ) -> Result<Peer, LinkError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let facts = if is_resumed(connection) {
            self.verify(attempt, chain.clone()).await?
        } else {
            let leaf = chain.first().ok_or(PeerError::NoCertificate);
            let facts = leaf.and_then(|leaf| Ok(CertificateFacts::of(leaf)?));
            facts.map_err(LinkError::Peer)?
        };
        Ok(Peer {
            role: attempt.peer(),
            chain,
            facts,
        })
    }

    /// Verifies a chain and what is demanded beside that, on a thread of the pool: it is as much
    /// arithmetic as a handshake's.
    async fn verify(
        &self,
        attempt: &Attempt<'_>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<CertificateFacts, LinkError> {
        let (epoch, peer) = (attempt.epoch.clone(), attempt.peer());
        let verifying = move || epoch.verify(&chain, peer);
        let request = &attempt.request;
        let verified = self.config.pool.run(request.deadline, verifying).await?;
        let facts = verified.map_err(LinkError::Peer)?;
        let named = request.naming.check(&facts, request.destination.ip());
        named.map_err(LinkError::Peer)?;
        Ok(facts)
    }

    fn facts(
        &self,
        attempt: &Attempt<'_>,
        connection: &Connection,
        peer: &CertificateFacts,
        handshake: Duration,
    ) -> LinkFacts {
        let epoch = attempt.epoch;
        let own = epoch.credentials().facts();
        LinkFacts {
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
                .map_or_else(|| "unknown".to_owned(), iana_name),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("unknown")
                .to_owned(),
            resumed: is_resumed(connection),
            handshake_seconds: handshake.as_secs_f64(),
            ends: own.not_after.min(peer.not_after),
        }
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

/// A link in the making.
struct Attempt<'a> {
    direction: Direction,
    epoch: &'a Arc<Epoch>,
    request: Request,
}

impl Attempt<'_> {
    /// Which side the peer is.
    fn peer(&self) -> Role {
        match self.direction {
            Direction::Inbound => Role::Client,
            Direction::Outbound => Role::Server,
        }
    }
}

fn is_resumed(connection: &Connection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// A sealed link to a peer that has proven its identity.
pub struct Link {
    sealed: Sealed,
    end: End,
    membership: Membership,
    half_closed_idle: Duration,
    relays: Option<Handle>,
}

impl Link {
    /// What is known about the link.
    pub fn facts(&self) -> &LinkFacts {
        &self.membership.link.facts
    }

    /// The link as the registry lists it.
    pub fn live(&self) -> &Arc<LiveLink> {
        &self.membership.link
    }

    /// What the peer's certificate says.
    pub fn peer(&self) -> &CertificateFacts {
        &self.membership.peer.facts
    }

    /// Relays an application's bytes until both directions ended, a side broke off, or the link
    /// was closed.
    pub async fn relay(self, app: TcpStream) -> Ended {
        let Some(relays) = self.relays.clone() else {
            return self.relay_here(app).await.0;
        };
        let taken_along = leave_runtime(app).and_then(|app| {
            let socket = leave_runtime(self.sealed.socket)?;
            Ok((app, socket))
        });
        let (connection, end, membership) = (self.sealed.connection, self.end, self.membership);
        let half_closed_idle = self.half_closed_idle;
        let relaying = relays.spawn(async move {
            let (app, socket) = taken_along?;
            let link = Self {
                sealed: Sealed {
                    connection,
                    socket: enter_runtime(socket)?,
                },
                end,
                membership,
                half_closed_idle,
                relays: None,
            };
            Ok::<_, io::Error>(link.relay_here(enter_runtime(app)?).await)
        });
        let lost = |error: &dyn fmt::Display| Ended {
            moved: Moved::default(),
            outcome: Outcome::Reset {
                reason: "relay",
                detail: format!("the relay could not take the link over: {error}"),
            },
        };
        match relaying.await {
            // The place in the registry is given up here: those who relay wait for no lock.
            Ok(Ok((ended, _membership))) => ended,
            Ok(Err(error)) => lost(&error),
            Err(error) => lost(&error),
        }
    }

    async fn relay_here(self, app: TcpStream) -> (Ended, Membership) {
        let mut membership = self.membership;
        let moving = membership.link.moved.clone();
        let ended = relay_sealed(
            app,
            self.sealed,
            self.end,
            self.half_closed_idle,
            membership.closed(),
            &moving,
        )
        .await;
        (ended, membership)
    }

    /// Ends the link without an application: after a refusal that only its identity allows.
    pub fn refuse(self) {
        reset(self.sealed.socket);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(self.facts()).finish()
    }
}
