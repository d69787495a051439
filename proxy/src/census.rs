//! The census: every socket of the pod's network namespace, as the kernel tells anybody in there,
//! each with what it is there for, and beside that what the kernel has counted. It says what else
//! moved than what the proxy moved. Taken at the end of each window of evidence, on the thread that
//! writes that; nobody else calls it.
//!
//! It sees every socket for TCP, UDP, raw IP and packets of whatever process, and no vsock, since
//! those belong to no network namespace. It is a look at one moment: what came and went between two
//! looks is in the kernel's counters alone. What cannot be had is said with its reason.

mod captured;
mod class;
mod counters;
mod diag;
pub mod message;
mod own;
mod socket;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, HashSet};
use std::os::linux::fs::MetadataExt;
use std::time::Instant;

use sealwire_evidence::record::{self, SocketClass};
use time::OffsetDateTime;

pub use self::class::Known;
pub use self::counters::{Counters, CountersError, Traffic};
pub use self::diag::DiagError;
pub use self::own::own_sockets;
pub use self::socket::{Bytes, Protocol, Socket, TcpState};

use self::class::Classes;
use self::counters::sockets_by_protocol;
use self::diag::Diag;

/// Most unaccounted sockets that are described; the others are counted.
pub const MAX_LISTED: usize = 64;

/// Kinds of sockets in the kernel's summary that need no account: the machine's own, netlink, and
/// MPTCP, whose connections are told as those of TCP.
const ASIDE: [&str; 6] = [
    "UNIX",
    "UNIX-STREAM",
    "NETLINK",
    "AF_VSOCK",
    "MPTCP",
    "MPTCPv6",
];

/// Takes one census after the other.
#[derive(Clone, Debug, Default)]
pub struct Taker {
    /// What the kernel had counted when the last was taken.
    before: Option<Counters>,
}

/// A census, and what follows from it.
#[derive(Clone, Debug)]
pub struct Taken {
    /// As it stands in evidence; what the proxy moved is for others to say.
    pub record: record::Census,
    /// Datagrams that processes of the pod tried to send since the census before, and that were
    /// kept from leaving; those of the proxy's own proofs among them.
    pub kept_from_leaving: u64,
}

impl Taker {
    /// Notes what the kernel has counted so far, as a census would.
    pub fn begin() -> Self {
        Self {
            before: Counters::read().ok(),
        }
    }

    /// Takes a census. `know` says what the proxy knows, and is asked after the kernel was: what
    /// the proxy opens meanwhile is then among what it knows.
    ///
    /// Blocks for some milliseconds.
    pub fn take(&mut self, know: impl Fn() -> Known) -> Taken {
        let begun = Instant::now();
        let taken = OffsetDateTime::now_utc();
        let mut look = Look::take();
        let known = know();
        let classes = Classes::new(&look.sockets, &known);
        let mut counts = BTreeMap::<(Protocol, SocketClass), u64>::new();
        let mut suspects = Vec::new();
        for socket in &look.sockets {
            match classes.of(socket) {
                SocketClass::Unaccounted => suspects.push(socket.clone()),
                class => *counts.entry((socket.protocol, class)).or_default() += 1,
            }
        }
        // The kernel walks its tables while they change, so one end of a connection may be missing
        // from a list that has the other. What is unaccounted stays so at a second look.
        let suspects = confirmed(suspects, &know);
        for socket in &suspects {
            let unaccounted = (socket.protocol, SocketClass::Unaccounted);
            *counts.entry(unaccounted).or_default() += 1;
        }
        let others = look.others.values().sum::<u64>();
        let counters = Counters::read();
        let before = self.before.take();
        if let Err(error) = &counters {
            look.unavailable("counters", error);
        }
        self.before = counters.ok();
        let listed = suspects.iter().take(MAX_LISTED).map(Socket::record);
        let now = self.before.as_ref();
        let record = record::Census {
            taken: taken.into(),
            took_micros: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            namespace: namespace(),
            sockets: look.counts(&counts),
            unaccounted: listed.collect(),
            unaccounted_more: length(suspects.len().saturating_sub(MAX_LISTED)) + others,
            interfaces: now.map_or_else(Vec::new, |now| now.interfaces(before.as_ref())),
            protocols: now.map_or_else(Vec::new, |now| now.protocols(before.as_ref())),
            sealed: record::Bytes::default(),
            excepted: record::Bytes::default(),
            unavailable: look.unavailable,
        };
        Taken {
            record,
            kept_from_leaving: now
                .zip(before.as_ref())
                .map_or(0, |(now, before)| now.kept_from_leaving(before)),
        }
    }
}

fn confirmed(suspects: Vec<Socket>, know: &impl Fn() -> Known) -> Vec<Socket> {
    if suspects.is_empty() {
        return suspects;
    }
    let look = Look::take();
    let known = know();
    let classes = Classes::new(&look.sockets, &known);
    let still: HashSet<_> = look
        .sockets
        .iter()
        .filter(|socket| classes.of(socket) == SocketClass::Unaccounted)
        .map(Socket::identity)
        .collect();
    let mut counted = HashSet::new();
    suspects
        .into_iter()
        .filter(|socket| still.contains(&socket.identity()) && counted.insert(socket.identity()))
        .collect()
}

/// What the kernel tells of sockets.
#[derive(Debug, Default)]
struct Look {
    sockets: Vec<Socket>,
    /// Kinds that are counted but not told one by one, such as ping and MPTCP, as far as there are
    /// any.
    others: BTreeMap<String, u64>,
    unavailable: Vec<record::Unavailable>,
}

impl Look {
    fn take() -> Self {
        let mut look = Self::default();
        match sockets_by_protocol() {
            Ok(numbers) => look.others = numbers,
            Err(error) => look.unavailable("sockets of other kinds", &error),
        }
        look.others
            .retain(|name, number| *number > 0 && !ASIDE.contains(&name.as_str()));
        match Diag::open() {
            Ok(mut diag) => {
                for protocol in Protocol::ALL {
                    look.ask(&mut diag, protocol);
                }
            }
            Err(error) => look.unavailable("sockets", &error),
        }
        for (name, count) in look.others.clone() {
            let why = format!("{count} in this pod, which the kernel does not tell one by one");
            look.unavailable(&format!("sockets of {name}"), &why);
        }
        look
    }

    fn ask(&mut self, diag: &mut Diag, protocol: Protocol) {
        match diag.sockets(protocol, &mut self.sockets) {
            Ok(()) => {
                for name in protocol.listed_as() {
                    self.others.remove(*name);
                }
            }
            // How many there are is known all the same, and most often there are none.
            Err(DiagError::NotTold) if protocol.is_counted() => {}
            Err(error) => self.unavailable(&format!("sockets of {}", protocol.name()), &error),
        }
    }

    fn unavailable(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.unavailable.push(record::Unavailable {
            what: what.to_owned(),
            why: why.to_string(),
        });
    }

    /// Sockets by protocol and class, those of other kinds among them: nothing accounts for those.
    fn counts(&self, counts: &BTreeMap<(Protocol, SocketClass), u64>) -> Vec<record::SocketCount> {
        let told = counts
            .iter()
            .map(|((protocol, class), count)| ((*protocol).into(), *class, *count));
        let others: u64 = self.others.values().sum();
        let others = (record::Protocol::Other, SocketClass::Unaccounted, others);
        told.chain((others.2 > 0).then_some(others))
            .map(|(protocol, class, count)| record::SocketCount {
                protocol,
                class,
                count,
            })
            .collect()
    }
}

/// The inode of this process's network namespace.
fn namespace() -> Option<u64> {
    let file = std::fs::metadata("/proc/self/ns/net").ok()?;
    Some(file.st_ino())
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::sync::Arc;

    use time::OffsetDateTime;

    use std::collections::HashMap;

    use super::*;
    use crate::config::Config;

    fn known() -> Known {
        let text = include_str!("config/example.yaml");
        Known {
            settings: Arc::new(Config::parse(text).unwrap().settings().unwrap()),
            // Those of this process stand for applications.
            sockets: HashSet::new(),
            links: HashSet::new(),
            captured: HashMap::new(),
            exceptions: HashSet::new(),
            now: OffsetDateTime::now_utc(),
        }
    }

    #[test]
    fn a_connection_inside_the_pod_is_accounted_for_and_a_stray_datagram_socket_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _far = listener.accept().unwrap();
        let stray = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing. Where there is no route, there is no such socket either.
        let routed = stray.connect("192.0.2.1:9").is_ok();
        let mut taker = Taker::default();
        let census = taker.take(known).record;
        let count = |protocol, class| {
            let mut counts = census.sockets.iter();
            let found = counts.find(|count| count.protocol == protocol && count.class == class);
            found.map_or(0, |found| found.count)
        };
        assert!(count(record::Protocol::Tcp, SocketClass::Loopback) >= 2);
        assert!(count(record::Protocol::Tcp, SocketClass::Listening) >= 1);
        let to: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let is_listed = census.unaccounted.iter().any(|one| one.remote == Some(to));
        assert_eq!(is_listed, routed);
        let stray = count(record::Protocol::Udp, SocketClass::Unaccounted);
        assert!(stray >= u64::from(routed));
        let unavailable: Vec<_> = census.unavailable.iter().map(|one| &one.what).collect();
        assert!(
            !unavailable.iter().any(|what| *what == "counters"),
            "{unavailable:?}"
        );
        assert!(
            !unavailable.iter().any(|what| what.contains("tcp")),
            "{unavailable:?}"
        );
        assert!(census.protocols.iter().all(|grown| grown.absolute));
        let next = taker.take(known).record;
        assert!(next.protocols.iter().all(|grown| !grown.absolute));
    }
}
