//! A socket as the kernel describes it. Used throughout the census.

use std::net::SocketAddr;

use sealwire_evidence::record;

/// One socket of the pod's network namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Socket {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its state, for TCP and SCTP.
    pub state: TcpState,
    /// Its own end; none for packet sockets. For a raw socket the port is the number of the
    /// protocol.
    pub local: Option<SocketAddr>,
    /// The other end, if it is connected.
    pub remote: Option<SocketAddr>,
    /// Whose it is: the user that made it, or its owner since. None when no process holds it any
    /// more, or the kernel does not say.
    pub uid: Option<u32>,
    /// Its inode, by which `/proc/PID/fd` names it; 0 when no process holds it.
    pub inode: u32,
    /// The kernel's number of it, which is not used again.
    pub cookie: u64,
    /// Payload that it moved, for TCP. None where the kernel does not say.
    pub bytes: Option<Bytes>,
}

impl Socket {
    /// As it stands in evidence.
    pub(super) fn record(&self) -> record::Socket {
        record::Socket {
            protocol: self.protocol.into(),
            state: self.state.name().to_owned(),
            local: self.local,
            remote: self.remote,
            process: record::Process {
                uid: self.uid,
                inode: (self.inode != 0).then_some(self.inode.into()),
                ..record::Process::default()
            },
            bytes: self.bytes.map(|bytes| record::Bytes {
                sent: bytes.sent,
                received: bytes.received,
            }),
        }
    }

    /// By which it is known in another list.
    pub(super) fn identity(&self) -> (Protocol, u64, u32) {
        (self.protocol, self.cookie, self.inode)
    }
}

/// Payload that a TCP socket moved, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bytes {
    /// Sent, each byte once.
    pub sent: u64,
    /// Received, in order.
    pub received: u64,
    /// Sent once more.
    pub retransmitted: u64,
}

/// What a socket speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828).
    UdpLite,
    /// SCTP.
    Sctp,
    /// IP itself.
    Raw,
    /// The link layer.
    Packet,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Tcp,
        Self::Udp,
        Self::UdpLite,
        Self::Sctp,
        Self::Raw,
        Self::Packet,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udp-lite",
            Self::Sctp => "sctp",
            Self::Raw => "raw",
            Self::Packet => "packet",
        }
    }

    /// Whether the kernel counts these even where it does not tell them.
    pub(super) fn is_counted(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// What `/proc/net/protocols` calls it, for IPv4 and IPv6.
    pub(super) fn listed_as(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["TCP", "TCPv6"],
            Self::Udp => &["UDP", "UDPv6"],
            Self::UdpLite => &["UDP-Lite", "UDPLITEv6"],
            Self::Sctp => &["SCTP", "SCTPv6"],
            Self::Raw => &["RAW", "RAWv6"],
            Self::Packet => &["PACKET"],
        }
    }
}

impl From<Protocol> for record::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::UdpLite => Self::UdpLite,
            Protocol::Sctp => Self::Sctp,
            Protocol::Raw => Self::Raw,
            Protocol::Packet => Self::Packet,
        }
    }
}

/// State of a TCP socket (include/net/tcp_states.h); others use some of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TcpState {
    /// Connected.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to.
    SynReceived,
    /// Closed by this side, or by both, but not yet wholly.
    Closing,
    /// Closed by the other side.
    CloseWait,
    /// Closed by both; kept for late packets.
    TimeWait,
    /// Waiting for connections.
    Listen,
    /// Neither connected nor waiting for it.
    Closed,
}

impl TcpState {
    pub(super) fn from_kernel(state: u8) -> Self {
        match state {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            4 | 5 | 9 | 11 => Self::Closing,
            6 => Self::TimeWait,
            8 => Self::CloseWait,
            10 => Self::Listen,
            _ => Self::Closed,
        }
    }

    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECV",
            Self::Closing => "CLOSING",
            Self::CloseWait => "CLOSE_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Listen => "LISTEN",
            Self::Closed => "CLOSE",
        }
    }
}
