//! One TLS handshake, step by step: the socket is read and written on the runtime, every step of
//! the protocol (key shares, signatures, verification) runs on the signing threads. rustls signs
//! synchronously; this loop is what keeps an HSM's latency off the workers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use crate::error::LinkError;
use crate::pool::{ALERT_GRACE, SigningPool};

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
    role: Role,
    socket: TcpStream,
    deadline: Instant,
) -> Result<Sealed, LinkError> {
    let begun = Instant::now();
    let steps = Steps {
        pool,
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
    socket: &'a TcpStream,
    deadline: Instant,
}

impl Steps<'_> {
    async fn run(&self, role: Role) -> Result<Connection, LinkError> {
        let mut connection = self.pool.run(self.deadline, move || role.begin()).await??;
        let mut piece = Vec::new();
        loop {
            self.flush(&mut connection).await?;
            if !connection.is_handshaking() {
                return Ok(connection);
            }
            self.read(&mut piece).await?;
            let fed = self
                .pool
                .run(self.deadline, move || feed(connection, piece))
                .await?;
            let result;
            (connection, piece, result) = fed;
            if let Err(error) = result {
                // The alert is a courtesy; the refusal stands whether or not it arrives.
                let _ = tokio::time::timeout(ALERT_GRACE, self.flush(&mut connection)).await;
                return Err(error.into());
            }
        }
    }

    async fn read(&self, piece: &mut Vec<u8>) -> Result<(), LinkError> {
        piece.clear();
        piece.reserve_exact(PIECE);
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

impl Role {
    fn begin(self) -> Result<Connection, LinkError> {
        let mut connection = match self {
            Self::Client(config, name) => Connection::from(ClientConnection::new(config, name)?),
            Self::Server(config) => Connection::from(ServerConnection::new(config)?),
        };
        // The relay writes only when nothing is unsent: the bound is there, not here.
        connection.set_buffer_limit(None);
        Ok(connection)
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
