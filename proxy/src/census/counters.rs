//! What the kernel has counted in the pod's network namespace since that was made: interfaces,
//! protocols, and how many sockets of each kind there are. Text under `/proc/self/net`, which
//! everybody in the namespace may read. Used by the census alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use sealwire_evidence::record;

/// The most that is read of a file there.
const MAX_BYTES: u64 = 256 * 1024;

/// Most interfaces that are listed one by one; the others are added up. A census has to fit into a
/// record.
const MAX_INTERFACES: usize = 64;

/// What is kept of `/proc/net/snmp` and `/proc/net/snmp6`: what says how much came and went, and
/// what was kept from it.
const KEPT: [(&str, &[&str]); 7] = [
    (
        "Ip",
        &[
            "InReceives",
            "InDelivers",
            "InDiscards",
            "OutRequests",
            OUT_DISCARDS,
        ],
    ),
    (
        "Ip6",
        &[
            "InReceives",
            "InDelivers",
            "InDiscards",
            "OutRequests",
            OUT_DISCARDS,
        ],
    ),
    (
        "Tcp",
        &[
            "ActiveOpens",
            "PassiveOpens",
            "InSegs",
            "OutSegs",
            "RetransSegs",
        ],
    ),
    ("Udp", &["InDatagrams", "NoPorts", "OutDatagrams"]),
    ("Udp6", &["InDatagrams", "NoPorts", "OutDatagrams"]),
    ("UdpLite", &["InDatagrams", "OutDatagrams"]),
    ("Icmp", &["InMsgs", "OutMsgs"]),
];

/// Datagrams that a process sent, and that the rules, or a full queue, kept from leaving.
const OUT_DISCARDS: &str = "OutDiscards";

/// What the kernel has counted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// What passed each interface but loopback.
    interfaces: BTreeMap<String, Traffic>,
    /// What protocols counted: by protocol and name.
    protocols: BTreeMap<(&'static str, &'static str), u64>,
}

/// What passed interfaces.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Bytes sent, with the heads of the link layer.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
}

/// Counters cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {problem}", path.display())]
pub struct CountersError {
    path: PathBuf,
    problem: String,
}

impl Counters {
    /// As they are now.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be. Where IPv6 is off, it counts nothing.
    pub(super) fn read() -> Result<Self, CountersError> {
        let v4 = parsed("/proc/self/net/snmp", table)?;
        let v6 = match parsed("/proc/self/net/snmp6", list) {
            Err(error) if !error.path.exists() => BTreeMap::new(),
            read => read?,
        };
        Ok(Self {
            interfaces: parsed("/proc/self/net/dev", traffic)?,
            protocols: kept(&v4, &v6),
        })
    }

    /// By how much the datagrams have grown that were kept from leaving.
    pub fn kept_from_leaving(&self, before: &Self) -> u64 {
        let names = ["Ip", "Ip6"].map(|protocol| (protocol, OUT_DISCARDS));
        let grown = names.map(|name| {
            let count =
                |counters: &Self| counters.protocols.get(&name).copied().unwrap_or_default();
            count(self).saturating_sub(count(before))
        });
        grown
            .iter()
            .fold(0, |sum, grown| sum.saturating_add(*grown))
    }

    /// What passed the interfaces since, as it stands in evidence. Those beyond [`MAX_INTERFACES`] are
    /// one.
    pub(super) fn interfaces(&self, before: Option<&Self>) -> Vec<record::InterfaceCounters> {
        let grown = |(name, now): (&String, &Traffic)| {
            let then = before.and_then(|before| before.interfaces.get(name));
            let since = now.since(then.copied().unwrap_or_default());
            record::InterfaceCounters {
                name: name.clone(),
                bytes: record::Bytes {
                    sent: since.sent_bytes,
                    received: since.received_bytes,
                },
                packets_sent: since.sent_packets,
                packets_received: since.received_packets,
                absolute: then.is_none(),
            }
        };
        let mut all = self.interfaces.iter().map(grown);
        let mut listed: Vec<_> = all.by_ref().take(MAX_INTERFACES).collect();
        listed.extend(all.reduce(together));
        listed
    }

    /// What protocols counted since, as it stands in evidence. What did not grow is left out.
    pub(super) fn protocols(&self, before: Option<&Self>) -> Vec<record::ProtocolCounters> {
        let grown = |(name, now): (&(&'static str, &'static str), &u64)| {
            let then = before.and_then(|before| before.protocols.get(name));
            let count = now.saturating_sub(then.copied().unwrap_or_default());
            (count > 0).then(|| record::ProtocolCounters {
                protocol: name.0.to_owned(),
                counter: name.1.to_owned(),
                count,
                absolute: then.is_none(),
            })
        };
        self.protocols.iter().filter_map(grown).collect()
    }
}

impl Traffic {
    fn since(self, before: Self) -> Self {
        let since = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            sent_bytes: since(self.sent_bytes, before.sent_bytes),
            sent_packets: since(self.sent_packets, before.sent_packets),
            received_bytes: since(self.received_bytes, before.received_bytes),
            received_packets: since(self.received_packets, before.received_packets),
        }
    }
}

/// Two interfaces as one.
fn together(
    one: record::InterfaceCounters,
    other: record::InterfaceCounters,
) -> record::InterfaceCounters {
    record::InterfaceCounters {
        name: "others".to_owned(),
        bytes: record::Bytes {
            sent: one.bytes.sent.saturating_add(other.bytes.sent),
            received: one.bytes.received.saturating_add(other.bytes.received),
        },
        packets_sent: one.packets_sent.saturating_add(other.packets_sent),
        packets_received: one.packets_received.saturating_add(other.packets_received),
        absolute: one.absolute || other.absolute,
    }
}

/// What is worth keeping. The protocols of IPv6 are written in one word with their counters.
fn kept(
    v4: &BTreeMap<String, u64>,
    v6: &BTreeMap<String, u64>,
) -> BTreeMap<(&'static str, &'static str), u64> {
    let mut kept = BTreeMap::new();
    for (protocol, counters) in KEPT {
        for counter in counters {
            let here = v4.get(&format!("{protocol}.{counter}"));
            if let Some(count) = here.or_else(|| v6.get(&format!("{protocol}{counter}"))) {
                kept.insert((protocol, *counter), *count);
            }
        }
    }
    kept
}

/// How many sockets there are in the namespace by `/proc/net/protocols`; of a protocol that is not
/// listed the kernel has none.
pub(super) fn sockets_by_protocol() -> Result<BTreeMap<String, u64>, CountersError> {
    parsed("/proc/self/net/protocols", protocols)
}

fn parsed<T>(path: &str, parse: fn(&str) -> Result<T, &'static str>) -> Result<T, CountersError> {
    let failed = |problem: String| CountersError {
        path: path.into(),
        problem,
    };
    let text = read(path).map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(|problem| failed(problem.to_owned()))
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// `/proc/net/dev`: two lines of titles, then an interface a line.
fn traffic(text: &str) -> Result<BTreeMap<String, Traffic>, &'static str> {
    let mut found = BTreeMap::new();
    for line in text.lines().skip(2) {
        // An interface's name may hold a colon, its numbers none.
        let (name, numbers) = line.rsplit_once(':').ok_or("an interface without a name")?;
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let [
            received_bytes,
            received_packets,
            ..,
            sent_bytes,
            sent_packets,
            _,
            _,
            _,
            _,
            _,
            _,
        ] = numbers[..]
        else {
            return Err("an interface without its counters");
        };
        let traffic = Traffic {
            sent_bytes,
            sent_packets,
            received_bytes,
            received_packets,
        };
        found.insert(name.trim().to_owned(), traffic);
    }
    Ok(found)
}

/// `/proc/net/snmp`: a line of names and a line of numbers for each protocol. Some numbers are
/// negative and none of ours.
fn table(text: &str) -> Result<BTreeMap<String, u64>, &'static str> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let split = names.split_once(':').zip(numbers.split_once(':'));
        let ((protocol, names), (_, numbers)) = split
            .filter(|((one, _), (other, _))| one == other)
            .ok_or("names and numbers do not go together")?;
        for (name, number) in names
            .split_ascii_whitespace()
            .zip(numbers.split_ascii_whitespace())
        {
            if let Ok(number) = number.parse() {
                found.insert(format!("{protocol}.{name}"), number);
            }
        }
    }
    Ok(found)
}

/// `/proc/net/snmp6`: a name and a number a line.
fn list(text: &str) -> Result<BTreeMap<String, u64>, &'static str> {
    let pair = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    let pairs: Option<_> = text.lines().map(pair).collect();
    pairs.ok_or("a line that is no name and number")
}

/// `/proc/net/protocols`: a line of titles, then a protocol a line, its sockets third.
fn protocols(text: &str) -> Result<BTreeMap<String, u64>, &'static str> {
    let row = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.nth(1)?.parse().unwrap_or_default()))
    };
    let rows: Option<_> = text.lines().skip(1).map(row).collect();
    rows.ok_or("a protocol without its sockets")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_interface_but_loopback_counts() {
        let text = "Inter-|   Receive |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0
  eth0: 100 3 0 0 0 0 0 0 50 2 0 0 0 0 0 0
eth0:1: 1000 30 0 0 0 0 0 0 500 20 0 0 0 0 0 0
";
        let found = traffic(text).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["eth0", "eth0:1"]);
        let expected = Traffic {
            sent_bytes: 50,
            sent_packets: 2,
            received_bytes: 100,
            received_packets: 3,
        };
        assert_eq!(found["eth0"], expected);
        assert!(traffic("a\nb\neth0: 100 3\n").is_err());
    }

    #[test]
    fn a_node_full_of_interfaces_fits_into_a_record_and_no_byte_is_left_out() {
        let one = Traffic {
            sent_bytes: 3,
            ..Traffic::default()
        };
        let names = (0..2000).map(|number| (format!("veth{number:08x}"), one));
        let counters = Counters {
            interfaces: names.collect(),
            ..Counters::default()
        };
        let listed = counters.interfaces(None);
        assert_eq!(listed.len(), MAX_INTERFACES + 1);
        assert_eq!(listed.last().unwrap().name, "others");
        let sent: u64 = listed.iter().map(|one| one.bytes.sent).sum();
        assert_eq!(sent, 6000);
    }

    fn counted(v4: &str, v6: &str) -> Counters {
        Counters {
            interfaces: BTreeMap::new(),
            protocols: kept(&table(v4).unwrap(), &list(v6).unwrap()),
        }
    }

    #[test]
    fn what_grew_between_two_looks_is_told_and_nothing_else() {
        let before = counted(
            "Ip: InReceives OutDiscards Junk\nIp: 10 2 5\nTcp: MaxConn OutSegs\nTcp: -1 77\n",
            "Ip6OutDiscards 3\n",
        );
        let after = counted(
            "Ip: InReceives OutDiscards Junk\nIp: 10 4 9\nTcp: MaxConn OutSegs\nTcp: -1 80\n",
            "Ip6OutDiscards 4\n",
        );
        let grown: Vec<_> = after
            .protocols(Some(&before))
            .into_iter()
            .map(|grown| {
                (
                    grown.protocol + "." + &grown.counter,
                    grown.count,
                    grown.absolute,
                )
            })
            .collect();
        let expected = [
            ("Ip.OutDiscards", 2),
            ("Ip6.OutDiscards", 1),
            ("Tcp.OutSegs", 3),
        ];
        assert_eq!(
            grown,
            expected.map(|(name, count)| (name.to_owned(), count, false))
        );
        assert_eq!(after.kept_from_leaving(&before), 3);
        assert!(after.protocols(None).iter().all(|grown| grown.absolute));
    }

    #[test]
    fn this_kernel_counts_a_datagram_and_a_socket() {
        let before = Counters::read().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        let after = Counters::read().unwrap();
        let name = ("Udp", "OutDatagrams");
        assert!(after.protocols[&name] > before.protocols[&name]);
        assert!(sockets_by_protocol().unwrap()["UDP"] >= 1);
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_refused(text in "[a-zA-Z0-9: |\n-]{0,300}") {
            let _ = (traffic(&text), table(&text), list(&text), protocols(&text));
        }
    }
}
