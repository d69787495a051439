//! Sockets for the tests of the census.

use std::net::SocketAddr;

use super::socket::{Protocol, Socket, TcpState};

/// The proxy's user, and an application's; of each there is one process, with one inode of that number.
pub(super) const PROXY: u32 = 1337;
pub(super) const APP: u32 = 1000;

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An open connection.
pub(super) fn socket(uid: u32, local: &str, remote: &str) -> Socket {
    Socket {
        protocol: Protocol::Tcp,
        state: TcpState::Established,
        local: Some(at(local)),
        remote: Some(at(remote)),
        uid: Some(uid),
        inode: uid,
        cookie: 0,
        bytes: None,
    }
}
