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

/// Most bytes a microsecond that leave a pod: 10 Gbit/s.
const LINE: u64 = 1250;

/// Microseconds between what the proxy moved being added up and the census that follows, at most.
const LOOK: u64 = 10_000;

/// Most bytes a second that answers to probes and for metrics take; the proxy does not count those.
const PLANES: u64 = 4096;

/// Windows of one run, added up. What is under way when a window ends is counted by one side in this
/// window and by the other in the next, which a longer time evens out; but the more time, the more
/// may have gone by unseen within what is allowed for. So look at an hour, and at the whole run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Ledger {
    /// Application bytes that the proxy moved, sealed or by exception.
    pub moved: Bytes,
    /// Those of exceptions.
    pub excepted: Bytes,
    /// Bytes that passed the interfaces.
    pub counted: Bytes,
    seconds: u64,
    packets_sent: u64,
    retransmitted: u64,
    opened: u64,
    /// Links that were open at the end of the last window.
    open: u64,
    /// The same of the window that is being added, as far as its parts have come.
    open_so_far: u64,
    /// Whether the counters of that window are among those parts.
    measured: bool,
    /// Whether the window before was not counted: what was under way then is in nobody's sum.
    hole: bool,
    /// What may have waited in sockets where windows that are counted follow others, or precede them.
    carried: u64,
    left_behind: u64,
    /// What may have left while the last census was taken, after what the proxy moved was added up.
    looking: u64,
    /// Windows that are counted.
    pub windows: u64,
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
    /// The most that was moved in windows that are not counted, before and after, and left in those
    /// that are.
    pub carried: u64,
    /// Bytes that left and that none of this explains: 0, or look for what sent them.
    pub unexplained: u64,
    /// Bytes that the proxy says it sent and that never left, beyond what can wait in sockets.
    pub missing: u64,
}

impl Ledger {
    /// Adds a window: each of its parts, in their order.
    pub fn add(&mut self, window: &Window) {
        for group in &window.links {
            self.opened = self.opened.saturating_add(group.opened);
        }
        if let Some(census) = &window.census {
            self.measure(window, census);
        }
        self.end_of(window, true);
    }

    /// Passes over a window that is not to be counted: what was under way at its ends may be in the
    /// sums of its neighbours.
    pub fn skip(&mut self, window: &Window) {
        self.end_of(window, false);
    }

    /// Begins anew right after the windows so far: what is under way may be in the sums of either.
    pub fn follow(&self) -> Self {
        Self {
            open: self.open,
            hole: true,
            ..Self::default()
        }
    }

    fn measure(&mut self, window: &Window, census: &Census) {
        let measured = census
            .interfaces
            .iter()
            .all(|interface| !interface.absolute);
        if !measured || census.interfaces.is_empty() {
            return;
        }
        self.measured = true;
        if std::mem::take(&mut self.hole) {
            self.carried = self.carried.saturating_add(self.waiting());
        }
        self.looking = census.took_micros.saturating_add(LOOK).saturating_mul(LINE);
        let seconds = window.to.since(window.from).as_secs();
        self.seconds = self.seconds.saturating_add(seconds + 1);
        for interface in &census.interfaces {
            self.counted = sum(self.counted, interface.bytes);
            self.packets_sent = self.packets_sent.saturating_add(interface.packets_sent);
        }
        self.moved = sum(self.moved, sum(census.sealed, census.excepted));
        self.excepted = sum(self.excepted, census.excepted);
        self.retransmitted = self.retransmitted.saturating_add(retransmitted(census));
    }

    /// What there is to do once the last part of a window has come.
    fn end_of(&mut self, window: &Window, counts: bool) {
        let open = window.links.iter().map(|group| group.open);
        self.open_so_far = open.fold(self.open_so_far, u64::saturating_add);
        if window.part < window.parts {
            return;
        }
        if std::mem::take(&mut self.measured) {
            self.windows += 1;
        } else {
            self.left_out += u64::from(counts);
            if self.windows > 0 && !self.hole {
                self.left_behind = self.left_behind.saturating_add(self.waiting());
            }
            self.hole = true;
        }
        self.open = std::mem::take(&mut self.open_so_far);
    }

    /// The most that sockets hold back of the links that were open when the last window ended.
    fn waiting(&self) -> u64 {
        self.open.saturating_add(1).saturating_mul(BUFFERED)
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
        let carried = self.carried.saturating_add(self.looking);
        let buffered = self.waiting().saturating_add(self.left_behind);
        let explained = moved.saturating_add(overhead).saturating_add(carried);
        Balance {
            moved,
            counted,
            overhead,
            carried,
            unexplained: counted.saturating_sub(explained),
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

    /// A group of links of which so many are open at the window's end.
    fn links(open: u64) -> crate::record::LinkGroup {
        let text = format!(
            r#"{{"direction":"outbound","serial":"01","version":"TLSv1_3","suite":"TLS_AES_128_GCM_SHA256",
            "group":"X25519MLKEM768","resumed":false,"opened":0,"closed":0,"open":{open},"bytes":{{"sent":0,
            "received":0}},"first":"2026-11-25T12:00:00Z","last":"2026-11-25T12:01:00Z"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn links_in_another_part_than_the_census_hold_bytes_back_as_well() {
        let mut first = window(0, 0, 0);
        (first.parts, first.census) = (2, None);
        first.links = vec![links(10)];
        let mut second = window(30 << 20, 0, 0);
        (second.part, second.parts) = (2, 2);
        let mut ledger = Ledger::default();
        ledger.add(&first);
        ledger.add(&second);
        // Ten links and one more hold back up to 44 MiB.
        assert_eq!((ledger.windows, ledger.left_out), (1, 0));
        assert_eq!(ledger.sent().missing, 0, "{:?}", ledger.sent());
    }

    #[test]
    fn what_was_moved_before_the_windows_that_count_may_leave_in_them() {
        let mut before = window(30 << 20, 0, 0);
        before.links = vec![links(10)];
        let after = window(0, 30 << 20, 0);
        let mut from_there = Ledger::default();
        from_there.skip(&before);
        from_there.add(&after);
        assert_eq!(from_there.sent().unexplained, 0, "{:?}", from_there.sent());
        // From a run's begin on there is nothing before.
        let mut alone = Ledger::default();
        alone.add(&after);
        assert!(alone.sent().unexplained > 0);
    }

    #[test]
    fn what_was_moved_right_before_windows_that_do_not_count_need_not_have_left() {
        let mut last = window(30 << 20, 0, 0);
        last.links = vec![links(10)];
        let mut ledger = Ledger::default();
        ledger.add(&last);
        ledger.skip(&window(0, 30 << 20, 0));
        assert_eq!(ledger.sent().missing, 0, "{:?}", ledger.sent());
    }

    #[test]
    fn what_is_under_way_between_two_sums_is_in_either() {
        let mut last = window(30 << 20, 0, 0);
        last.links = vec![links(10)];
        let mut first = Ledger::default();
        first.add(&last);
        let mut second = first.follow();
        second.add(&window(0, 30 << 20, 0));
        assert_eq!((first.sent().missing, second.sent().unexplained), (0, 0));
    }

    #[test]
    fn a_window_without_a_census_is_left_out() {
        let mut without = window(1, 1, 1);
        without.census = None;
        let mut ledger = Ledger::default();
        ledger.add(&without);
        assert_eq!((ledger.windows, ledger.left_out), (0, 1));
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
