//! Asks the kernel for sockets, over NETLINK_SOCK_DIAG. That needs no privilege, and shows the
//! sockets of the network namespace that the asking socket is of, in whatever process they are.
//! Blocks, though the kernel answers at once. Used by the census alone.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recvfrom, send, socket_with};

use super::message::{BY_FAMILY, HEAD, INFO, Malformed, Message, messages};
use super::socket::{Protocol, Socket};

/// Most sockets that are looked at; a pod with more has other troubles, and its census says so.
pub(super) const MAX_SOCKETS: usize = 200_000;

/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 * 1024;

/// How long a single answer may take. The kernel has it at hand.
const PATIENCE: Duration = Duration::from_secs(5);

/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMP: u16 = 0x1 | 0x300;

/// PACKET_SHOW_INFO, which brings the user.
const SHOW_INFO: u32 = 1;

/// Why sockets of a kind are not told.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The kernel has no diagnostics for this kind.
    #[error("this kernel does not tell")]
    NotTold,
    /// There are too many.
    #[error("there are more than {MAX_SOCKETS} sockets: only so many were looked at")]
    TooMany,
    /// Netlink failed.
    #[error("the kernel was asked for sockets, and failed: {0}")]
    Failed(#[from] io::Error),
    /// The answer makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A way to ask.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    /// Of the last question.
    number: u32,
    buffer: Vec<u8>,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            number: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Every socket of a protocol, added to those found so far.
    ///
    /// The kernel walks its tables while they change: a socket that opens or ends meanwhile may be
    /// missed, or be listed twice.
    pub(super) fn sockets(
        &mut self,
        protocol: Protocol,
        found: &mut Vec<Socket>,
    ) -> Result<(), DiagError> {
        for family in families(protocol) {
            self.list(*family, protocol, found)?;
        }
        Ok(())
    }

    fn list(
        &mut self,
        family: AddressFamily,
        protocol: Protocol,
        found: &mut Vec<Socket>,
    ) -> Result<(), DiagError> {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        let question = question(number, family, protocol);
        send(&self.socket, &question, SendFlags::empty()).map_err(io::Error::from)?;
        let mut too_many = false;
        loop {
            let datagram = self.receive()?;
            for message in messages(datagram, protocol, number)?.0 {
                match message {
                    // The rest is read all the same, lest the next answer begins with it.
                    Message::Socket(_) if found.len() >= MAX_SOCKETS => too_many = true,
                    Message::Socket(socket) => found.push(socket),
                    Message::Done if too_many => return Err(DiagError::TooMany),
                    Message::Done => return Ok(()),
                    Message::Refused(error) => return Err(refused(error)),
                    Message::Other => {}
                }
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], DiagError> {
        loop {
            let received = recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC);
            let (kept, length, sender) = match received {
                Err(Errno::INTR) => continue,
                received => received.map_err(io::Error::from)?,
            };
            // Only the kernel is believed.
            let sender = sender.map(SocketAddrNetlink::try_from);
            if sender != Some(Ok(SocketAddrNetlink::new(0, 0))) {
                continue;
            }
            if length > kept {
                return Err(Malformed("it is longer than the kernel makes them").into());
            }
            return Ok(&self.buffer[..kept]);
        }
    }
}

fn families(protocol: Protocol) -> &'static [AddressFamily] {
    match protocol {
        Protocol::Packet => &[AddressFamily::PACKET],
        _ => &[AddressFamily::INET, AddressFamily::INET6],
    }
}

/// A netlink message with an `inet_diag_req_v2`, or with a `packet_diag_req`.
fn question(number: u32, family: AddressFamily, protocol: Protocol) -> Vec<u8> {
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let mut body = match protocol {
        Protocol::Packet => {
            let mut body = vec![family, 0, 0, 0];
            body.extend(0_u32.to_ne_bytes());
            body.extend(SHOW_INFO.to_ne_bytes());
            body.resize(20, 0);
            body
        }
        _ => {
            let info = 1 << (INFO - 1);
            let mut body = vec![family, number_of(protocol), info, 0];
            // Every state.
            body.extend(u32::MAX.to_ne_bytes());
            body.resize(56, 0);
            body
        }
    };
    let length = u32::try_from(HEAD + body.len()).unwrap_or_default();
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(DUMP.to_ne_bytes());
    question.extend(number.to_ne_bytes());
    question.extend(0_u32.to_ne_bytes());
    question.append(&mut body);
    question
}

/// Its number in IP.
fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::UdpLite => 136,
        Protocol::Raw | Protocol::Packet => 255,
    }
}

fn refused(error: i32) -> DiagError {
    let unknown = [
        Errno::NOENT,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::PROTONOSUPPORT,
    ];
    if unknown.iter().any(|errno| errno.raw_os_error() == error) {
        DiagError::NotTold
    } else {
        DiagError::Failed(io::Error::from_raw_os_error(error))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::census::socket::TcpState;

    fn listed(protocol: Protocol) -> Vec<Socket> {
        let mut found = Vec::new();
        Diag::open().unwrap().sockets(protocol, &mut found).unwrap();
        found
    }

    #[test]
    fn the_kernel_tells_both_ends_of_a_connection_and_the_bytes_that_went_over_it() {
        use std::io::{Read, Write};
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            near.write_all(b"twelve bytes").unwrap();
            far.read_exact(&mut [0; 12]).unwrap();
            let sockets = listed(Protocol::Tcp);
            let find = |local, remote| {
                let ends = (Some(local), Some(remote));
                let mut all = sockets.iter();
                all.find(|socket| (socket.local, socket.remote) == ends)
                    .unwrap()
            };
            let (near, far) = (near.local_addr().unwrap(), far.local_addr().unwrap());
            let sender = find(near, far);
            assert_eq!(sender.state, TcpState::Established);
            assert_eq!(sender.uid, Some(rustix::process::getuid().as_raw()));
            assert_ne!(sender.inode, 0);
            assert_eq!(sender.bytes.unwrap().sent, 12);
            assert_eq!(find(far, near).bytes.unwrap().received, 12);
            let listening = |socket: &&Socket| socket.state == TcpState::Listen;
            assert!(
                sockets
                    .iter()
                    .filter(listening)
                    .any(|socket| socket.local == Some(far))
            );
        }
    }

    #[test]
    fn the_kernel_tells_datagram_sockets() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let found = listed(Protocol::Udp);
        let found = found
            .iter()
            .find(|socket| socket.local == Some(local))
            .unwrap();
        assert_eq!(found.remote, None);
    }

    #[test]
    fn a_refused_question_leaves_no_answer_for_the_next() {
        let mut diag = Diag::open().unwrap();
        let mut found = Vec::new();
        // Not in every kernel; whichever it is, what follows is answered.
        let _ = diag.sockets(Protocol::Sctp, &mut found);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        diag.sockets(Protocol::Tcp, &mut found).unwrap();
        assert!(found.iter().any(|socket| socket.local == Some(local)));
    }
}
