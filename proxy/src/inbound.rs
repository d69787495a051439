//! What peers open: mutual TLS or nothing, then the rules by identity and port, then the pod's own
//! address. Never loopback: what an application listens on there is its own business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealwire_identity::PeerError;
use sealwire_link::{Direction, Ended, Link, Links, Treatment, prepare, reset};
use tokio::net::{TcpSocket, TcpStream};

use crate::capture::original_destination;
use crate::observe::{Begun, Ending, Observer};
use crate::state::{InForce, State};

/// Where inbound connections come from, seen by the application: addresses that the capture rules
/// let pass to the pod's own, and that mean "through the proxy". Any process of the pod can use
/// them, so they prove nothing to the application.
const HANDOVER_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const HANDOVER_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Whether a connection from or to this address is one that the proxy hands over.
pub(crate) fn is_handover(ip: IpAddr) -> bool {
    ip == HANDOVER_V4 || ip == HANDOVER_V6
}

/// How long the application may take to accept: it is in the same kernel.
const HANDOVER: Duration = Duration::from_secs(5);

/// The inbound side.
#[derive(Debug)]
pub struct Inbound {
    /// What is in force.
    pub state: Arc<State>,
    /// The accepter of links.
    pub links: Arc<Links>,
    /// Who is told of connections.
    pub observer: Observer,
}

impl Inbound {
    /// Serves one captured connection to its end.
    pub async fn serve(&self, peer: TcpStream, source: SocketAddr) {
        let destination = match original_destination(&peer) {
            Ok(Some(destination)) if !destination.ip().to_canonical().is_loopback() => destination,
            Ok(_) => {
                return self.refuse_unredirected(
                    peer,
                    source,
                    "it was addressed to the proxy's own port, or to loopback",
                );
            }
            Err(error) => return self.refuse_unredirected(peer, source, error),
        };
        let mut begun = self.observer.begin(Direction::Inbound, source, destination);
        let ending = match self.state.flowing() {
            Ok(in_force) => self.open(peer, &in_force, destination, &mut begun).await,
            Err(missing) => {
                reset(peer);
                Ending::refused("not_ready", missing)
            }
        };
        begun.end(ending);
    }

    async fn open(
        &self,
        peer: TcpStream,
        in_force: &InForce,
        destination: SocketAddr,
        begun: &mut Begun<'_>,
    ) -> Ending {
        let deadline = Instant::now() + self.links.limits().handshake;
        let accepting = self
            .links
            .accept(&in_force.epoch, peer, destination, deadline);
        let link = match accepting.await {
            Ok(link) => link,
            Err(error) => return Ending::refused(error.reason(), error),
        };
        let facts = link.facts().clone();
        let app = match self.admit(&link, destination).await {
            Ok(app) => app,
            Err((reason, why)) => {
                link.refuse();
                return Ending {
                    link: Some(facts),
                    ..Ending::refused(reason, why)
                };
            }
        };
        begun.sealed(link.live());
        let Ended { moved, outcome } = link.relay(app).await;
        Ending {
            treatment: Treatment::Seal,
            link: Some(facts),
            observed_tls: None,
            moved,
            outcome,
        }
    }

    /// Asks the rules, then connects to the application.
    ///
    /// The rules of now: should they have changed since the handshake began, the links that were
    /// live then have been judged by the new ones, and this one is to be as well.
    async fn admit(
        &self,
        link: &Link,
        destination: SocketAddr,
    ) -> Result<TcpStream, (&'static str, String)> {
        let in_force = self
            .state
            .flowing()
            .map_err(|missing| ("not_ready", missing))?;
        let peer = &link.peer().spiffe_id;
        if !in_force.settings.inbound.allows(peer, destination.port()) {
            let refused = PeerError::NotAllowed {
                peer: peer.to_string(),
                port: destination.port(),
            };
            return Err((refused.reason(), refused.to_string()));
        }
        match tokio::time::timeout(HANDOVER, hand_over(destination)).await {
            Ok(Ok(app)) => Ok(app),
            Ok(Err(error)) => Err((
                "application_unreachable",
                format!(
                    "the application does not answer at {destination}: {error}: is it listening on the pod's address or on all addresses?"
                ),
            )),
            Err(_) => Err((
                "application_unreachable",
                format!("the application did not accept at {destination} within {HANDOVER:?}"),
            )),
        }
    }

    fn refuse_unredirected(&self, peer: TcpStream, source: SocketAddr, why: impl ToString) {
        let destination = peer.local_addr().unwrap_or(source);
        reset(peer);
        let begun = self.observer.begin(Direction::Inbound, source, destination);
        begun.end(Ending::refused("not_captured", why));
    }
}

/// Connects to the application as one of its own pod that comes through the proxy.
pub(crate) async fn hand_over(destination: SocketAddr) -> io::Result<TcpStream> {
    let (socket, source) = match destination.ip() {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(HANDOVER_V4)),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(HANDOVER_V6)),
    };
    socket.bind(SocketAddr::new(source, 0))?;
    let app = socket.connect(destination).await?;
    prepare(&app)?;
    Ok(app)
}
