//! One TLS handshake, step by step: the socket is read and written on the runtime, every step of
//! the protocol (key shares, signatures, verification) runs on the threads of the pool. rustls
//! signs synchronously; this loop is what keeps an HSM's latency off the workers.
//!
//! Whether a step signs is known before it runs: a server signs when it gets a ClientHello that
//! resumes nothing, a client while it reads the flight of a server that resumes nothing. Such a
//! handshake needs a place among those that sign; one that resumes needs none, and passes by.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use crate::admission::Admission;
use crate::error::LinkError;
use crate::hello::{Framing, Hello, Look};
use crate::pool::{ALERT_GRACE, Lane, SigningPool};

/// Which side of the handshake to play, and with what.
pub(crate) enum Role {
    Client(Arc<ClientConfig>, ServerName<'static>),
    Server(Arc<ServerConfig>),
}

/// A finished handshake. Every byte that was read from the socket has been fed to the
/// connection, so what the peer sent behind its Finished waits in the connection's reader.
pub(crate) struct Sealed {
    pub(crate) connection: Connection,
    pub(crate) socket: TcpStream,
}

/// Performs the handshake on `socket` within `deadline`.
///
/// On refusal the peer gets our alert before the socket is closed, within a short grace.
pub(crate) async fn handshake(
    pool: &SigningPool,
    admission: &Admission,
    role: Role,
    socket: TcpStream,
    deadline: Instant,
) -> Result<Sealed, LinkError> {
    let begun = Instant::now();
    let steps = Steps {
        pool,
        admission,
        socket: &socket,
        deadline,
    };
    match tokio::time::timeout_at(deadline.into(), steps.run(role)).await {
        Ok(connection) => Ok(Sealed {
            connection: connection?,
            socket,
        }),
        Err(_) => Err(LinkError::Deadline {
            stage: "in the TLS handshake",
            waited: begun.elapsed(),
        }),
    }
}

/// The largest piece read at once. No more than rustls holds as undelivered plaintext, so that
/// whatever follows the Finished in one piece fits.
const PIECE: usize = 16 * 1024;

struct Steps<'a> {
    pool: &'a SigningPool,
    admission: &'a Admission,
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Steps<'_> {
    async fn run(&self, role: Role) -> Result<Connection, LinkError> {
        let server = match &role {
            Role::Server(config) => Some(config.clone()),
            Role::Client(..) => None,
        };
        let (mut connection, hello) = match role {
            // Nothing is calculated before a hello has come.
            Role::Server(_) => role.begin()?,
            Role::Client(..) => self.pool.run(self.deadline, move || role.begin()).await??,
        };
        let mut place = None;
        // Whoever has nothing to resume will sign: better it waits before the peer has, too.
        if Framing::default().look(&hello) == Look::Hello(Hello::Client(None)) {
            place = Some(self.admission.admit(self.deadline).await?);
        }
        self.write(&hello).await?;
        let mut piece = Vec::new();
        let mut framing = Framing::default();
        let mut lane = Lane::Light;
        loop {
            self.flush(&mut connection).await?;
            if !connection.is_handshaking() {
                return Ok(connection);
            }
            piece.clear();
            self.read(&mut piece).await?;
            while framing.look(&piece) == Look::Incomplete && piece.len() < PIECE {
                self.read(&mut piece).await?;
            }
            lane = lane_of(framing.look(&piece), server.as_deref(), lane);
            framing.pass(&piece);
            if lane == Lane::Light {
                place = None;
            } else if place.is_none() {
                place = Some(self.admission.admit(self.deadline).await?);
            }
            let fed = self
                .pool
                .run_in(lane, self.deadline, move || feed(connection, piece))
                .await?;
            let result;
            (connection, piece, result) = fed;
            if let Err(error) = result {
                // The alert is a courtesy; the refusal stands whether or not it arrives.
                let _ = tokio::time::timeout(ALERT_GRACE, self.flush(&mut connection)).await;
                return Err(error.into());
            }
            if server.is_some() {
                // The signature is made: whoever is silent now keeps nobody waiting.
                place = None;
            }
        }
    }

    /// Adds what has come to the piece.
    async fn read(&self, piece: &mut Vec<u8>) -> Result<(), LinkError> {
        piece.reserve_exact(PIECE - piece.len());
        loop {
            self.socket
                .readable()
                .await
                .map_err(LinkError::Interrupted)?;
            match self.socket.try_read_buf(piece) {
                Ok(0) => {
                    return Err(LinkError::Interrupted(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Interrupted(error)),
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            self.socket
                .writable()
                .await
                .map_err(LinkError::Interrupted)?;
            match self.socket.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Interrupted(error)),
            }
        }
        Ok(())
    }

    async fn flush(&self, connection: &mut Connection) -> Result<(), LinkError> {
        while connection.wants_write() {
            self.socket
                .writable()
                .await
                .map_err(LinkError::Interrupted)?;
            match connection.write_tls(&mut TryWrite(self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Interrupted(error)),
            }
        }
        Ok(())
    }
}

/// The lane of the step that takes what was looked at, after one in lane `before`. In doubt it may
/// sign.
fn lane_of(look: Look<'_>, server: Option<&ServerConfig>, before: Lane) -> Lane {
    match (server, look) {
        (Some(server), Look::Hello(Hello::Client(Some(ticket))))
            if server.ticketer.enabled() && server.ticketer.decrypt(ticket).is_some() =>
        {
            Lane::Light
        }
        // A server signs at a hello, and at nothing else.
        (Some(_), Look::Nothing) | (None, Look::Hello(Hello::Server(true))) => Lane::Light,
        (None, Look::Nothing) => before,
        _ => Lane::Signing,
    }
}

impl Role {
    /// Makes the connection, and a client's first message.
    fn begin(self) -> Result<(Connection, Vec<u8>), LinkError> {
        let mut connection = match self {
            Self::Client(config, name) => Connection::from(ClientConnection::new(config, name)?),
            Self::Server(config) => Connection::from(ServerConnection::new(config)?),
        };
        // The relay writes only when nothing is unsent: the bound is there, not here.
        connection.set_buffer_limit(None);
        let mut hello = Vec::new();
        while connection.wants_write() {
            connection
                .write_tls(&mut hello)
                .map_err(LinkError::Interrupted)?;
        }
        Ok((connection, hello))
    }
}

/// Feeds the whole piece: `read_tls` takes a part at a time, and bytes left over at the switch
/// from handshake to relay would be lost.
fn feed(
    mut connection: Connection,
    piece: Vec<u8>,
) -> (Connection, Vec<u8>, Result<(), rustls::Error>) {
    let mut rest = piece.as_slice();
    let mut result = Ok(());
    while result.is_ok() && !rest.is_empty() {
        result = connection
            .read_tls(&mut rest)
            .map_err(|error| rustls::Error::General(error.to_string()))
            .and_then(|_| connection.process_new_packets().map(|_| ()));
    }
    (connection, piece, result)
}

/// A socket as a writer that says `WouldBlock` rather than waiting.
struct TryWrite<'a>(&'a TcpStream);

impl io::Write for TryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
