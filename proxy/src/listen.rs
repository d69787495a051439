//! Listening sockets, opened before the proxy locks itself in, and the loop that accepts from
//! them: back off on errors, a cap on what is open, a reset for what is beyond it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use rustix::io::Errno;
use sealwire_link::{Direction, reset};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::capture::{is_proof_address, original_destination};
use crate::config::Ports;
use crate::observe::{Ending, Observer};

/// How many connections may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How many places there are beside those of `limits.connections`. A proof needs one or two, and an
/// application that dials the reserved addresses holds one for seconds.
pub(crate) const SPARES: usize = 32;

/// The longest pause after an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// All sockets that the proxy listens on.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) outbound: Vec<StdListener>,
    pub(crate) inbound: Vec<StdListener>,
    pub(crate) admin: Vec<StdListener>,
    pub(crate) metrics: Vec<StdListener>,
    pub(crate) health: Vec<StdListener>,
}

impl Listeners {
    /// Opens them. IPv6 is left out where the kernel has none.
    ///
    /// # Errors
    /// When a port is taken, with its name in the message.
    pub fn open(ports: &Ports) -> io::Result<Self> {
        let everywhere = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let open = |name, addresses, port| open(name, addresses, port);
        Ok(Self {
            outbound: open("outbound", everywhere, ports.outbound)?,
            inbound: open("inbound", everywhere, ports.inbound)?,
            admin: open("admin", loopback, ports.admin)?,
            metrics: open("metrics", everywhere, ports.metrics)?,
            health: open("health", everywhere, ports.health)?,
        })
    }
}

/// Registers sockets with the runtime.
pub(crate) fn register(listeners: Vec<StdListener>) -> io::Result<Vec<TcpListener>> {
    listeners.into_iter().map(TcpListener::from_std).collect()
}

/// What comes to one listening socket.
pub(crate) struct Arrivals {
    pub(crate) listener: TcpListener,
    pub(crate) direction: Direction,
    /// The places of open connections, which all listeners share.
    pub(crate) places: Arc<Semaphore>,
    /// Places beside them for what the proxy proves capture by: a pod that is full is sealed, too.
    pub(crate) spares: Arc<Semaphore>,
    /// Who is told of those that are refused for want of a place.
    pub(crate) observer: Observer,
}

impl Arrivals {
    /// Accepts for ever and hands each connection, with its place among the open ones, to `serve`.
    pub(crate) async fn accept<F>(self, serve: F)
    where
        F: Fn(TcpStream, SocketAddr, OwnedSemaphorePermit),
    {
        let direction = self.direction.name();
        let mut pause = Duration::from_millis(5);
        loop {
            match self.listener.accept().await {
                Ok((socket, source)) => {
                    pause = Duration::from_millis(5);
                    let place = self.places.clone().try_acquire_owned().ok();
                    match place.or_else(|| self.spare(&socket)) {
                        Some(place) => serve(socket, source, place),
                        None => self.refuse(socket, source),
                    }
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    counter!("sealwire_accept_errors_total", "direction" => direction).increment(1);
                    tracing::warn!(%error, direction, ?pause, "cannot accept, pausing");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// A place for a connection to a reserved address, of which each is short.
    fn spare(&self, socket: &TcpStream) -> Option<OwnedSemaphorePermit> {
        let destination = original_destination(socket).ok().flatten()?;
        if !is_proof_address(destination.ip()) {
            return None;
        }
        self.spares.clone().try_acquire_owned().ok()
    }

    fn refuse(&self, socket: TcpStream, source: SocketAddr) {
        let original = original_destination(&socket).ok().flatten();
        let destination = original.unwrap_or_else(|| socket.local_addr().unwrap_or(source));
        reset(socket);
        let begun = self.observer.begin(self.direction, source, destination);
        begun.end(Ending::refused(
            "overloaded",
            "limits.connections is reached: raise it, or run more replicas",
        ));
    }
}

/// The connection ended before it was accepted; the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn open(name: &str, addresses: [IpAddr; 2], port: u16) -> io::Result<Vec<StdListener>> {
    let mut listeners = Vec::new();
    for ip in addresses {
        match listen(SocketAddr::new(ip, port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if ip.is_ipv6() && has_no_ipv6(&error) => {}
            Err(error) => {
                let message = format!(
                    "cannot listen on {ip} port {port} (ports.{name}): {error}: free the port, or choose another"
                );
                return Err(io::Error::new(error.kind(), message));
            }
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let absent = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    error
        .raw_os_error()
        .is_some_and(|code| absent.iter().any(|errno| errno.raw_os_error() == code))
}
