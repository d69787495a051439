//! What every socket of a link or an application gets before a byte moves.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sets `TCP_NODELAY` (without it a handshake waits 41 ms for a delayed acknowledgement) and
/// keep-alive well under the 60 s after which middleboxes forget a quiet connection.
///
/// `TCP_USER_TIMEOUT` stays unset: Linux counts time in a zero window against it, and would cut
/// a connection whose application merely does not read. Unacknowledged data is bounded by
/// `net.ipv4.tcp_retries2`, silence by the keep-alive probes.
///
/// # Errors
/// When the kernel refuses an option, which it does not for a connected TCP socket.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(45))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Closes with a reset instead of an orderly end: the other side must not take what it has for
/// the whole.
pub fn reset(socket: TcpStream) {
    // A socket that refuses the option is already gone, and a reset with it.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}
