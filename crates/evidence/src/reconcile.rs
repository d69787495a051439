//! What the kernel counted against what the proxy says it moved. The two count at different places,
//! so they never agree to the byte; here is how far apart they may be, and why. Reports and tests
//! use it; `docs/census.md` explains it to auditors.

use serde::Serialize;

use crate::record::{Bytes, Census, Window};

/// Most bytes of heads before a TCP payload: Ethernet 14, IPv6 40, TCP with every option 60.
const HEADS: u64 = 14 + 40 + 60;

/// Heads, tag and type of a TLS 1.3 record (RFC 8446 section 5.2).
const RECORD: u64 = 5 + 1 + 16;

/// Most payload of a TLS record.
const RECORD_PAYLOAD: u64 = 16_384;

/// Most payload of a segment on Ethernet.
const SEGMENT: u64 = 1460;

/// Most that one side sends in a handshake: a hello with a hybrid key share, a chain, tickets.
const HANDSHAKE: u64 = 16 * 1024;

/// Most that a socket holds back that the proxy has written already (`net.ipv4.tcp_wmem`).
const BUFFERED: u64 = 4 * 1024 * 1024;

/// Most bytes a second that answers to probes and for metrics take; the proxy does not count those.
const PLANES: u64 = 4096;

/// Windows of one run, added up. Longer is sharper: what is under way when a window ends is counted
/// by one side in this window and by the other in the next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Ledger {
    /// Application bytes that the proxy moved, sealed or by exception.
    pub moved: Bytes,
    /// Bytes that passed the interfaces.
    pub counted: Bytes,
    seconds: u64,
    packets_sent: u64,
    retransmitted: u64,
    opened: u64,
    /// Links that were open at the end of the last window.
    open: u64,
    /// Windows whose counters could not be had, or had no window before.
    pub left_out: u64,
}

/// How what was sent adds up.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Balance {
    /// Application bytes that left the pod through the proxy.
    pub moved: u64,
    /// Bytes that left through the interfaces.
    pub counted: u64,
    /// The most that heads, TLS, handshakes and repetitions can have added.
    pub overhead: u64,
    /// Bytes that left and that none of this explains: 0, or look for what sent them.
    pub unexplained: u64,
    /// Bytes that the proxy says it sent and that never left, beyond what can wait in sockets.
    pub missing: u64,
}

impl Ledger {
    /// Adds a part of a window, in order: each has its groups, and the last one the census.
    pub fn add(&mut self, window: &Window) {
        if window.part == 1 {
            self.open = 0;
        }
        for group in &window.links {
            self.opened = self.opened.saturating_add(group.opened);
            self.open = self.open.saturating_add(group.open);
        }
        let Some(census) = &window.census else {
            return;
        };
        let measured = census
            .interfaces
            .iter()
            .all(|interface| !interface.absolute);
        if !measured || census.interfaces.is_empty() {
            self.left_out += 1;
            return;
        }
        let seconds = window.to.since(window.from).as_secs();
        self.seconds = self.seconds.saturating_add(seconds + 1);
        for interface in &census.interfaces {
            self.counted = sum(self.counted, interface.bytes);
            self.packets_sent = self.packets_sent.saturating_add(interface.packets_sent);
        }
        self.moved = sum(self.moved, sum(census.sealed, census.excepted));
        self.retransmitted = self.retransmitted.saturating_add(retransmitted(census));
    }

    /// How what left the pod adds up. There is none for what came in: a peer's repetitions and what
    /// the rules kept from entering count at the interface, and nobody here can tell how much that
    /// was.
    pub fn sent(&self) -> Balance {
        let (moved, counted) = (self.moved.sent, self.counted.sent);
        let records = (moved / RECORD_PAYLOAD).saturating_add(self.packets_sent);
        let parts = [
            self.packets_sent.saturating_mul(HEADS),
            records.saturating_mul(RECORD),
            self.retransmitted.saturating_mul(SEGMENT),
            // One more for whatever is refused in the end.
            self.opened.saturating_add(1).saturating_mul(HANDSHAKE),
            self.seconds.saturating_mul(PLANES),
        ];
        let overhead = parts
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(*part));
        let buffered = self.open.saturating_add(1).saturating_mul(BUFFERED);
        Balance {
            moved,
            counted,
            overhead,
            unexplained: counted.saturating_sub(moved.saturating_add(overhead)),
            missing: moved.saturating_sub(counted.saturating_add(buffered)),
        }
    }
}

fn sum(one: Bytes, other: Bytes) -> Bytes {
    Bytes {
        sent: one.sent.saturating_add(other.sent),
        received: one.received.saturating_add(other.received),
    }
}

fn retransmitted(census: &Census) -> u64 {
    let mut counters = census.protocols.iter();
    let found = counters.find(|one| one.protocol == "Tcp" && one.counter == "RetransSegs");
    found.map_or(0, |one| one.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Event;
    use crate::testing::a_window;

    /// A window of a minute in which one link moved this, and the interface sent that.
    fn window(moved: u64, counted: u64, packets: u64) -> Window {
        let text = format!(
            r#"{{"from":"2026-11-25T12:00:00Z","to":"2026-11-25T12:01:00Z","part":1,"parts":1,"links":[],
            "exceptions":[],"refusals":[],"census":{{"taken":"2026-11-25T12:01:00Z","took_micros":1,"sockets":[],
            "unaccounted":[],"unaccounted_more":0,"interfaces":[{{"name":"eth0","bytes":{{"sent":{counted},
            "received":0}},"packets_sent":{packets},"packets_received":0,"absolute":false}}],"protocols":[],
            "sealed":{{"sent":{moved},"received":0}},"excepted":{{"sent":0,"received":0}},"unavailable":[]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn balance(moved: u64, counted: u64, packets: u64) -> Balance {
        let mut ledger = Ledger::default();
        ledger.add(&window(moved, counted, packets));
        ledger.sent()
    }

    const MEGABYTES: u64 = 100 << 20;

    #[test]
    fn what_heads_and_tls_add_is_explained() {
        let packets = MEGABYTES / 1448;
        let counted = MEGABYTES + packets * 66 + MEGABYTES / 16_384 * 22;
        let balance = balance(MEGABYTES, counted, packets);
        assert_eq!(
            (balance.unexplained, balance.missing),
            (0, 0),
            "{balance:?}"
        );
    }

    #[test]
    fn as_much_again_past_the_proxy_is_not_explained() {
        let packets = 2 * MEGABYTES / 1448;
        let balance = balance(MEGABYTES, 2 * MEGABYTES + packets * 66, packets);
        assert!(balance.unexplained > MEGABYTES / 2, "{balance:?}");
    }

    #[test]
    fn what_never_left_is_missing() {
        let balance = balance(MEGABYTES, MEGABYTES / 2, 1000);
        assert!(balance.missing > MEGABYTES / 3, "{balance:?}");
        assert_eq!(balance.unexplained, 0);
    }

    #[test]
    fn what_waits_in_sockets_may_wait_in_those_of_every_part() {
        let mut first = window(0, 0, 0);
        first.census = None;
        first.parts = 2;
        let Event::Window(other) = a_window() else {
            panic!("no window");
        };
        first.links = other.links;
        first.links[0].open = 20;
        let mut second = window(MEGABYTES, MEGABYTES / 2, 1000);
        (second.part, second.parts) = (2, 2);
        let mut ledger = Ledger::default();
        ledger.add(&first);
        ledger.add(&second);
        assert_eq!(ledger.sent().missing, 0);
        // In the next window they are closed.
        ledger.add(&window(0, 0, 0));
        assert!(ledger.sent().missing > 0);
    }

    #[test]
    fn counters_since_the_beginning_of_the_pod_are_left_out() {
        let mut absolute = window(1, 1 << 40, 1);
        let census = absolute.census.as_mut().unwrap();
        census.interfaces[0].absolute = true;
        let mut ledger = Ledger::default();
        ledger.add(&absolute);
        assert_eq!((ledger.left_out, ledger.sent().unexplained), (1, 0));
    }
}
