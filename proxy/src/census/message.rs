//! What the kernel answers to questions about sockets (sock_diag(7)), taken apart: linux/netlink.h,
//! linux/inet_diag.h, linux/packet_diag.h. Pure, and bounded by what it is given: a length that does
//! not fit is a fault, never a guess. Used by `diag` alone, and by the fuzzer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::socket::{Bytes, Protocol, Socket, TcpState};

/// NLMSG_ERROR.
const ERROR: u16 = 2;
/// NLMSG_DONE.
const DONE: u16 = 3;
/// SOCK_DIAG_BY_FAMILY.
pub(super) const BY_FAMILY: u16 = 20;

/// NLM_F_DUMP_INTR: what was listed has changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// Length of a netlink message's head.
pub(super) const HEAD: usize = 16;
/// Length of `inet_diag_msg`.
const INET: usize = 72;
/// Length of `packet_diag_msg`.
const PACKET: usize = 16;

/// INET_DIAG_INFO: `tcp_info`, for TCP.
pub(super) const INFO: u16 = 2;
/// PACKET_DIAG_UID.
const PACKET_UID: u16 = 5;

/// Where `tcp_info` has its counters of bytes.
const BYTES_RECEIVED: usize = 128;
const BYTES_SENT: usize = 200;
const BYTES_RETRANSMITTED: usize = 208;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An answer that is not what the kernel's headers say.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the kernel's answer cannot be read: {0}")]
pub struct Malformed(pub(super) &'static str);

/// One message of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// A socket.
    Socket(Socket),
    /// The list is complete.
    Done,
    /// The question was refused, with this error number.
    Refused(i32),
    /// Of a kind that says nothing about sockets.
    Other,
}

/// Takes a datagram from the kernel apart: the messages of the question with this number, and
/// whether the kernel says that the list has changed while it was made.
///
/// # Errors
/// At the first message that does not fit.
pub fn messages(
    datagram: &[u8],
    protocol: Protocol,
    question: u32,
) -> Result<(Vec<Message>, bool), Malformed> {
    let mut rest = datagram;
    let mut found = Vec::new();
    let mut interrupted = false;
    while !rest.is_empty() {
        let length = u32_at(rest, 0).ok_or(Malformed("a message without a head"))?;
        let length = usize::try_from(length).map_err(|_| Malformed("a length"))?;
        let message = rest.get(..length).filter(|whole| whole.len() >= HEAD);
        let message = message.ok_or(Malformed("a message of another length than it says"))?;
        if u32_at(message, 8) == Some(question) {
            interrupted |= u16_at(message, 6).unwrap_or_default() & INTERRUPTED != 0;
            let kind = u16_at(message, 4).unwrap_or_default();
            found.push(one(kind, &message[HEAD..], protocol)?);
        }
        // Messages begin at multiples of four; the last need not be filled up.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok((found, interrupted))
}

fn one(kind: u16, body: &[u8], protocol: Protocol) -> Result<Message, Malformed> {
    Ok(match (kind, protocol) {
        (BY_FAMILY, Protocol::Packet) => Message::Socket(packet(body)?),
        (BY_FAMILY, _) => Message::Socket(inet(body, protocol)?),
        // With an error where the list broke off.
        (DONE, _) => match i32_at(body, 0) {
            None | Some(0..) => Message::Done,
            Some(error) => Message::Refused(error.saturating_neg()),
        },
        (ERROR, _) => {
            let error = i32_at(body, 0).ok_or(Malformed("an error without a number"))?;
            Message::Refused(error.saturating_neg())
        }
        _ => Message::Other,
    })
}

/// An `inet_diag_msg` and its attributes.
fn inet(body: &[u8], protocol: Protocol) -> Result<Socket, Malformed> {
    let (fixed, attributes) = body
        .split_at_checked(INET)
        .ok_or(Malformed("a socket cut short"))?;
    let family = fixed[0];
    let address = |at: usize| -> Result<IpAddr, Malformed> {
        let bytes: [u8; 16] = array_at(fixed, at).ok_or(Malformed("an address"))?;
        match family {
            AF_INET => {
                let [a, b, c, d, ..] = bytes;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            AF_INET6 => Ok(Ipv6Addr::from(bytes).to_canonical()),
            _ => Err(Malformed("a socket of another family")),
        }
    };
    let port = |at| array_at(fixed, at).map_or(0, u16::from_be_bytes);
    let remote = SocketAddr::new(address(24)?, port(6));
    let mut bytes = None;
    each_attribute(attributes, |kind, value| {
        if kind == INFO && protocol == Protocol::Tcp {
            bytes = tcp_bytes(value);
        }
    })?;
    let inode = u32_at(fixed, 68).unwrap_or_default();
    Ok(Socket {
        protocol,
        state: TcpState::from_kernel(fixed[1]),
        local: Some(SocketAddr::new(address(8)?, port(4))),
        remote: (remote.port() != 0 || !remote.ip().is_unspecified()).then_some(remote),
        uid: u32_at(fixed, 64).filter(|_| inode != 0),
        inode,
        cookie: cookie(fixed, 44),
        bytes,
    })
}

/// A `packet_diag_msg` and its attributes.
fn packet(body: &[u8]) -> Result<Socket, Malformed> {
    let (fixed, attributes) = body
        .split_at_checked(PACKET)
        .ok_or(Malformed("a packet socket cut short"))?;
    let mut uid = None;
    each_attribute(attributes, |kind, value| {
        if kind == PACKET_UID {
            uid = u32_at(value, 0);
        }
    })?;
    Ok(Socket {
        protocol: Protocol::Packet,
        state: TcpState::Closed,
        local: None,
        remote: None,
        uid,
        inode: u32_at(fixed, 4).unwrap_or_default(),
        cookie: cookie(fixed, 8),
        bytes: None,
    })
}

/// What `tcp_info` counts. A kernel that knows less of it says less.
fn tcp_bytes(info: &[u8]) -> Option<Bytes> {
    let retransmitted = u64_at(info, BYTES_RETRANSMITTED)?;
    Some(Bytes {
        sent: u64_at(info, BYTES_SENT)?.saturating_sub(retransmitted),
        received: u64_at(info, BYTES_RECEIVED)?,
        retransmitted,
    })
}

fn each_attribute(mut rest: &[u8], mut take: impl FnMut(u16, &[u8])) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (length, kind) = u16_at(rest, 0)
            .zip(u16_at(rest, 2))
            .ok_or(Malformed("an attribute without a head"))?;
        let length = usize::from(length);
        let value = rest.get(4..length);
        take(kind, value.ok_or(Malformed("an attribute cut short"))?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// The kernel's own number of a socket, never used again while it runs.
fn cookie(bytes: &[u8], at: usize) -> u64 {
    let half = |at| u64::from(u32_at(bytes, at).unwrap_or_default());
    half(at) | half(at + 4) << 32
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUESTION: u32 = 7;

    /// A message as the kernel writes it.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend(QUESTION.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn established(local: SocketAddr, remote: SocketAddr, info: &[u8]) -> Vec<u8> {
        let mut body = vec![0; INET];
        body[0] = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        body[1] = 1;
        for (address, ip, port) in [(local, 8, 4), (remote, 24, 6)] {
            body[port..port + 2].copy_from_slice(&address.port().to_be_bytes());
            match address.ip() {
                IpAddr::V4(v4) => body[ip..ip + 4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => body[ip..ip + 16].copy_from_slice(&v6.octets()),
            }
        }
        body[44..48].copy_from_slice(&5_u32.to_ne_bytes());
        body[48..52].copy_from_slice(&1_u32.to_ne_bytes());
        body[64..68].copy_from_slice(&1000_u32.to_ne_bytes());
        body[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        body.extend(attribute(8, &[0]));
        body.extend(attribute(INFO, info));
        message(BY_FAMILY, &body)
    }

    fn info() -> Vec<u8> {
        let mut info = vec![0; 248];
        info[BYTES_RECEIVED..][..8].copy_from_slice(&30_u64.to_ne_bytes());
        info[BYTES_SENT..][..8].copy_from_slice(&50_u64.to_ne_bytes());
        info[BYTES_RETRANSMITTED..][..8].copy_from_slice(&8_u64.to_ne_bytes());
        info
    }

    fn only_socket(datagram: &[u8]) -> Socket {
        match messages(datagram, Protocol::Tcp, QUESTION)
            .unwrap()
            .0
            .as_slice()
        {
            [Message::Socket(socket)] => socket.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_socket_has_its_ends_its_user_and_the_bytes_that_arrived_once() {
        let ends = [
            ("198.18.0.2:40000", "198.18.0.3:8080"),
            ("[fd00::2]:40000", "[fd00::3]:8080"),
        ];
        for (local, remote) in ends.map(|(l, r)| (l.parse().unwrap(), r.parse().unwrap())) {
            let socket = only_socket(&established(local, remote, &info()));
            assert_eq!(socket.local, Some(local));
            assert_eq!(socket.remote, Some(remote));
            assert_eq!((socket.uid, socket.inode), (Some(1000), 4711));
            assert_eq!(socket.cookie, 5 | 1 << 32);
            let bytes = socket.bytes.unwrap();
            assert_eq!(
                (bytes.sent, bytes.received, bytes.retransmitted),
                (42, 30, 8)
            );
        }
    }

    #[test]
    fn a_v4_connection_of_a_v6_socket_is_one_of_v4() {
        let mapped = |text: &str| SocketAddr::V6(text.parse().unwrap());
        let socket = only_socket(&established(
            mapped("[::ffff:198.18.0.2]:1"),
            mapped("[::ffff:198.18.0.3]:2"),
            &info(),
        ));
        assert_eq!(socket.remote, Some("198.18.0.3:2".parse().unwrap()));
    }

    #[test]
    fn a_kernel_that_counts_no_bytes_is_not_said_to_have_counted_none() {
        let end = "198.18.0.2:1".parse().unwrap();
        let socket = only_socket(&established(end, end, &info()[..200]));
        assert_eq!(socket.bytes, None);
    }

    #[test]
    fn the_end_a_refusal_and_somebody_elses_answer_are_told_apart() {
        let mut datagram = message(ERROR, &(-2_i32).to_ne_bytes());
        datagram.extend(message(DONE, &0_i32.to_ne_bytes()));
        let (found, _) = messages(&datagram, Protocol::Tcp, QUESTION).unwrap();
        assert_eq!(found, [Message::Refused(2), Message::Done]);
        let (others, _) = messages(&datagram, Protocol::Tcp, QUESTION + 1).unwrap();
        assert_eq!(others, []);
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_said_to_have() {
        let mut datagram = message(DONE, &[]);
        datagram[6..8].copy_from_slice(&INTERRUPTED.to_ne_bytes());
        assert!(messages(&datagram, Protocol::Tcp, QUESTION).unwrap().1);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(
            datagram in prop::collection::vec(any::<u8>(), 0..400),
            packet in any::<bool>(),
        ) {
            let protocol = if packet { Protocol::Packet } else { Protocol::Tcp };
            if let Ok((found, _)) = messages(&datagram, protocol, QUESTION) {
                prop_assert!(found.len() <= datagram.len() / HEAD);
            }
        }

        #[test]
        fn an_answer_cut_anywhere_or_with_a_byte_changed_is_read_or_refused(
            cut in 0..400_usize, at in 0..400_usize, byte in any::<u8>(),
        ) {
            let end = "198.18.0.2:1".parse().unwrap();
            let whole = established(end, end, &info());
            let shorter = &whole[..cut.min(whole.len())];
            if !shorter.is_empty() && shorter.len() < whole.len() {
                prop_assert!(messages(shorter, Protocol::Tcp, QUESTION).is_err());
            }
            let mut changed = whole;
            let at = at % changed.len();
            changed[at] = byte;
            let _ = messages(&changed, Protocol::Tcp, QUESTION);
        }
    }
}
