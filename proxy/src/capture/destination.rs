//! Where a captured connection was meant to go, as the kernel remembers it.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The original destination of a redirected connection (`SO_ORIGINAL_DST`,
/// `IP6T_SO_ORIGINAL_DST`); `None` when it was not redirected, but came here by its own choice.
///
/// # Errors
/// When the kernel cannot tell, which is no reason to let the connection pass.
pub fn original_destination(socket: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = socket.local_addr()?;
    let reference = SockRef::from(socket);
    let original = if local.is_ipv4() {
        reference.original_dst_v4()
    } else {
        reference.original_dst_v6()
    };
    match original {
        Ok(original) => Ok(original.as_socket().filter(|original| *original != local)),
        // No entry for the connection: it was never redirected.
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
