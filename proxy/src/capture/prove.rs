//! Proof, without any privilege, that capture works, in two ways: the proxy's own connection to a
//! reserved address, which the rules leave out of its exemption, must come back to its outbound
//! port with that destination; and a UDP datagram to a reserved address must be refused at once.
//!
//! Inbound capture cannot be proven from inside a pod.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::rules::{PROOF_V4, PROOF_V6};

/// How long a proof may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// The port of the reserved addresses that is dialled.
const PORT: u16 = 443;

/// What a proof's connection is known by: the bytes that it carries, which nobody else knows. Not by
/// its source, which the kernel changes where another connection that it redirects has the same port.
type Nonce = [u8; 16];

/// Where the outbound side hands connections to the reserved addresses in, and the proof waits for
/// its own among them.
#[derive(Debug, Default)]
pub struct ProofDesk {
    awaited: Mutex<HashMap<Nonce, Awaited>>,
    /// Datagrams that the kernel has refused, or is about to.
    datagrams: AtomicU64,
}

#[derive(Debug)]
struct Awaited {
    destination: SocketAddr,
    arrived: oneshot::Sender<()>,
}

/// Capture has been seen to work.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Whether IPv6 was proven as well; false where the pod has no route for it.
    pub ipv6: bool,
}

/// Capture does not work, or cannot be seen to.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The connection did not come back.
    #[error(
        "a connection to the reserved address {destination} was not captured ({problem}): run `sealwire-proxy capture` \
         with the same configuration in an init container with NET_ADMIN, before this one"
    )]
    NotCaptured {
        /// The reserved address.
        destination: SocketAddr,
        /// What happened instead.
        problem: String,
    },
    /// A datagram was not refused.
    #[error(
        "a UDP datagram to the reserved address {destination} was not refused: UDP could leave the pod unseen; run \
         `sealwire-proxy capture` in an init container with NET_ADMIN"
    )]
    DatagramPassed {
        /// The reserved address.
        destination: SocketAddr,
    },
}

impl ProofDesk {
    /// Takes a connection that arrived at the outbound port and was for a reserved address: it goes
    /// no further.
    pub async fn receive(&self, mut socket: TcpStream, destination: SocketAddr) {
        let mut nonce = Nonce::default();
        if let Ok(Ok(_)) = timeout(DEADLINE, socket.read_exact(&mut nonce)).await {
            self.take(&nonce, destination);
        }
    }

    /// Proves outbound capture now.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub async fn prove(&self) -> Result<Proof, ProofError> {
        let [v4, v6] = addresses().map(|ip| SocketAddr::new(ip, PORT));
        self.prove_tcp(v4).await?;
        let ipv6 = self.prove_tcp(v6).await?;
        self.prove_udp(v4).await?;
        if ipv6 {
            self.prove_udp(v6).await?;
        }
        Ok(Proof {
            at: OffsetDateTime::now_utc(),
            ipv6,
        })
    }

    /// How many datagrams the kernel has refused for the sake of proofs. One that is on its way to be
    /// refused is among them already.
    pub fn datagrams_refused(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// True when it was captured, false when there is no route at all, and so nothing to capture.
    async fn prove_tcp(&self, destination: SocketAddr) -> Result<bool, ProofError> {
        let failed = |problem: String| ProofError::NotCaptured {
            destination,
            problem,
        };
        let mut nonce = Nonce::default();
        getrandom(&mut nonce, GetRandomFlags::empty())
            .map_err(|error| failed(error.to_string()))?;
        let (arrived, arrival) = oneshot::channel();
        let awaited = Awaited {
            destination,
            arrived,
        };
        self.awaited().insert(nonce, awaited);
        let attempt = async {
            let mut socket = match TcpStream::connect(destination).await {
                Ok(socket) => socket,
                Err(error) if destination.is_ipv6() && is_unroutable(&error) => return Ok(false),
                Err(error) => return Err(failed(error.to_string())),
            };
            let written = socket.write_all(&nonce).await;
            written.map_err(|error| failed(error.to_string()))?;
            let arrived = arrival.await.map(|()| true);
            arrived.map_err(|_| failed("nobody waits for it any more".to_owned()))
        };
        let outcome = timeout(DEADLINE, attempt)
            .await
            .unwrap_or_else(|_| Err(failed(format!("nothing arrived within {DEADLINE:?}"))));
        self.awaited().remove(&nonce);
        outcome
    }

    fn take(&self, nonce: &Nonce, destination: SocketAddr) {
        let mut awaited = self.awaited();
        let is_its = |awaited: &Awaited| {
            awaited.destination.ip() == destination.ip().to_canonical()
                && awaited.destination.port() == destination.port()
        };
        if awaited.get(nonce).is_some_and(is_its)
            && let Some(Awaited { arrived, .. }) = awaited.remove(nonce)
        {
            // Whoever waited may have given up.
            let _ = arrived.send(());
        }
    }

    fn awaited(&self) -> MutexGuard<'_, HashMap<Nonce, Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prove_udp(&self, destination: SocketAddr) -> Result<(), ProofError> {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
        let error = match send_datagram(destination).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            sent => {
                self.datagrams.fetch_sub(1, Ordering::Relaxed);
                sent.err()
            }
        };
        match error {
            None => Err(ProofError::DatagramPassed { destination }),
            Some(error) if is_unroutable(&error) => Ok(()),
            // Anything else says nothing about the rules.
            Some(error) => Err(ProofError::NotCaptured {
                destination,
                problem: error.to_string(),
            }),
        }
    }
}

async fn send_datagram(destination: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if destination.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.send_to(b"sealwire", destination).await.map(|_| ())
}

/// The reserved addresses.
pub(super) fn addresses() -> [IpAddr; 2] {
    [PROOF_V4, PROOF_V6].map(|text| text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

fn is_unroutable(error: &io::Error) -> bool {
    let unroutable = [
        Errno::NETUNREACH,
        Errno::ADDRNOTAVAIL,
        Errno::AFNOSUPPORT,
        Errno::HOSTUNREACH,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| unroutable.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_proof_is_known_by_what_it_carries_and_by_nothing_else() {
        let desk = ProofDesk::default();
        let destination: SocketAddr = "198.51.100.1:443".parse().unwrap();
        let other: SocketAddr = "198.51.100.1:80".parse().unwrap();
        let (arrived, mut arrival) = oneshot::channel();
        desk.awaited().insert(
            [7; 16],
            Awaited {
                destination,
                arrived,
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receive = async |sent: &[u8], destination| {
            let address = listener.local_addr().unwrap();
            let mut dialled = TcpStream::connect(address).await.unwrap();
            dialled.write_all(sent).await.unwrap();
            drop(dialled);
            let (socket, _) = listener.accept().await.unwrap();
            desk.receive(socket, destination).await;
        };
        receive(&[8; 16], destination).await;
        receive(&[7; 15], destination).await;
        receive(&[7; 16], other).await;
        assert!(arrival.try_recv().is_err());
        receive(&[7; 16], destination).await;
        assert!(arrival.try_recv().is_ok());
        assert!(desk.awaited().is_empty());
    }
}
