//! Proof, without any privilege, that capture works, in two ways: the proxy's own connection to a
//! reserved address, which the rules leave out of its exemption, must come back to its outbound
//! port with that destination; and a UDP datagram to a reserved address must be refused at once.
//!
//! Inbound capture cannot be proven from inside a pod.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Notify;

use super::rules::{PROOF_V4, PROOF_V6};

/// How long a proof may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// The port of the reserved addresses that is dialled.
const PORT: u16 = 443;

/// Most arrivals remembered at once: applications can dial the reserved addresses too.
const MAX_ARRIVALS: usize = 64;

/// Where the outbound side reports connections to the reserved addresses, and the proof waits for
/// its own among them.
#[derive(Debug, Default)]
pub struct ProofDesk {
    arrivals: Mutex<HashSet<(SocketAddr, SocketAddr)>>,
    arrived: Notify,
    /// Datagrams that the kernel has refused, or is about to.
    datagrams: AtomicU64,
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
    /// Reports a connection that arrived at the outbound port; true when it was one to a reserved
    /// address, which goes no further.
    pub fn claim(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        if !addresses().contains(&destination.ip()) {
            return false;
        }
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() < MAX_ARRIVALS {
            arrivals.insert((canonical(source), canonical(destination)));
        }
        drop(arrivals);
        self.arrived.notify_waiters();
        true
    }

    /// Proves outbound capture now.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub async fn prove(&self) -> Result<Proof, ProofError> {
        self.forget();
        let [v4, v6] = addresses().map(|ip| SocketAddr::new(ip, PORT));
        self.prove_tcp(v4).await?;
        let ipv6 = self.prove_tcp(v6).await?;
        self.prove_udp(v4).await?;
        if ipv6 {
            self.prove_udp(v6).await?;
        }
        self.forget();
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
        let attempt = async {
            let socket = match TcpStream::connect(destination).await {
                Ok(socket) => socket,
                Err(error) if destination.is_ipv6() && is_unroutable(&error) => return Ok(false),
                Err(error) => return Err(failed(error.to_string())),
            };
            let local = socket
                .local_addr()
                .map_err(|error| failed(error.to_string()))?;
            self.wait_for(canonical(local), destination).await;
            Ok(true)
        };
        match tokio::time::timeout(DEADLINE, attempt).await {
            Ok(result) => result,
            Err(_) => Err(failed(format!("nothing arrived within {DEADLINE:?}"))),
        }
    }

    async fn wait_for(&self, source: SocketAddr, destination: SocketAddr) {
        loop {
            // Registered before looking, so that an arrival in between is not missed.
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if self.has_arrived(source, destination) {
                return;
            }
            arrived.await;
        }
    }

    fn has_arrived(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(source, destination))
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

    fn forget(&self) {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
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

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_to_the_reserved_addresses_are_claimed() {
        let desk = ProofDesk::default();
        let source = "198.18.0.2:40000".parse().unwrap();
        assert!(desk.claim(source, "198.51.100.1:443".parse().unwrap()));
        assert!(desk.claim(source, "[2001:db8::1]:443".parse().unwrap()));
        assert!(!desk.claim(source, "198.18.0.3:443".parse().unwrap()));
    }

    #[test]
    fn applications_that_dial_the_reserved_addresses_take_no_memory() {
        let desk = ProofDesk::default();
        for port in 1..10_000 {
            desk.claim(
                SocketAddr::from(([198, 18, 0, 2], port)),
                "198.51.100.1:443".parse().unwrap(),
            );
        }
        assert_eq!(desk.arrivals.lock().unwrap().len(), MAX_ARRIVALS);
    }
}
