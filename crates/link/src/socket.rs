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

/// Takes a socket from the runtime that made it, to [`enter_runtime`] in another. Should it be lost
/// on the way, as when that one ends, it ends with a reset.
pub(crate) fn leave_runtime(socket: TcpStream) -> io::Result<std::net::TcpStream> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.into_std()
}

/// Gives a socket to the current runtime.
pub(crate) fn enter_runtime(socket: std::net::TcpStream) -> io::Result<TcpStream> {
    let socket = TcpStream::from_std(socket)?;
    SockRef::from(&socket).set_linger(None)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn a_socket_that_is_lost_between_runtimes_ends_with_a_reset() {
        let (ours, mut theirs) = pair().await;
        drop(leave_runtime(ours).unwrap());
        let end = theirs.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_socket_that_has_changed_its_runtime_ends_in_order() {
        let (ours, mut theirs) = pair().await;
        drop(enter_runtime(leave_runtime(ours).unwrap()).unwrap());
        let end = theirs.read_u8().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
