//! What is gathered for the window that is open: groups and their sums. Bounded: where there are too
//! many groups, those that come later share coarser ones, and the window says how much is in these.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;

use serde::Serialize;

use crate::record::{
    Aggregated, Bytes, Census, Direction, ExceptionUse, Flow, LinkGroup, MOST, Protocol, Refusal,
    RefusalCount, Timestamp, Window,
};

/// Groups without destination: as many peers as these are told apart when there is no room for
/// more. Beyond it there is one group for each kind of handshake.
const COARSE: usize = 256;

/// Refusals in a window that become records of their own.
const SPELLED_OUT: usize = 64;

/// Reasons for failure that a group tells apart.
const REASONS: usize = 32;

/// Bytes of groups in one part of a window: leaves room for the rest of a record.
const PART: usize = 40 * 1024;

/// Sums for the window that is open.
#[derive(Debug)]
pub(crate) struct Gathering {
    /// Most groups of each kind.
    limit: usize,
    from: Timestamp,
    links: HashMap<Flow, Tally>,
    exceptions: HashMap<ExceptionKey, ExceptionTally>,
    refusals: HashMap<RefusalKey, Count>,
    spelled_out: usize,
    aggregated: Aggregated,
    sealed: Bytes,
    excepted: Bytes,
}

/// What was gathered for a window that is over.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// Bytes of applications on sealed links.
    pub(crate) sealed: Bytes,
    /// Bytes that exceptions let through.
    pub(crate) excepted: Bytes,
    links: Vec<LinkGroup>,
    exceptions: Vec<ExceptionUse>,
    refusals: Vec<RefusalCount>,
    aggregated: Option<Aggregated>,
}

#[derive(Debug)]
struct Tally {
    opened: u64,
    closed: u64,
    /// Outlives the window.
    open: u64,
    bytes: Bytes,
    times: Option<(Timestamp, Timestamp)>,
    failures: BTreeMap<String, u64>,
}

type ExceptionKey = (String, Option<SocketAddr>, Option<String>);
type RefusalKey = (Direction, Protocol, String, Option<SocketAddr>);

#[derive(Debug)]
struct ExceptionTally {
    connections: u64,
    bytes: Bytes,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug)]
struct Count {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Gathering {
    /// Begins to gather, with at most `limit` groups of each kind.
    pub(crate) fn new(limit: usize, from: Timestamp) -> Self {
        Self {
            limit,
            from,
            links: HashMap::new(),
            exceptions: HashMap::new(),
            refusals: HashMap::new(),
            spelled_out: 0,
            aggregated: Aggregated::default(),
            sealed: Bytes::default(),
            excepted: Bytes::default(),
        }
    }

    pub(crate) fn opened(&mut self, flow: &Flow, now: Timestamp) {
        let tally = self.group(flow, false);
        add(&mut tally.opened, 1);
        add(&mut tally.open, 1);
        tally.seen(now);
    }

    pub(crate) fn moved(&mut self, flow: &Flow, bytes: Bytes, now: Timestamp) {
        add_bytes(&mut self.sealed, bytes);
        let tally = self.group(flow, true);
        add_bytes(&mut tally.bytes, bytes);
        tally.seen(now);
    }

    pub(crate) fn closed(
        &mut self,
        flow: &Flow,
        rest: Bytes,
        failure: Option<&str>,
        now: Timestamp,
    ) {
        add_bytes(&mut self.sealed, rest);
        let tally = self.group(flow, true);
        add(&mut tally.closed, 1);
        tally.open = tally.open.saturating_sub(1);
        add_bytes(&mut tally.bytes, rest);
        tally.seen(now);
        if let Some(reason) = failure {
            let known = tally.failures.len() < REASONS || tally.failures.contains_key(reason);
            let reason = if known { reason } else { "other" };
            add(tally.failures.entry(reason.to_owned()).or_default(), 1);
        }
    }

    pub(crate) fn excepted(
        &mut self,
        rule: &str,
        destination: Option<SocketAddr>,
        observed_tls: Option<&str>,
        bytes: Bytes,
        now: Timestamp,
    ) {
        add_bytes(&mut self.excepted, bytes);
        let mut key = (
            rule.to_owned(),
            destination,
            observed_tls.map(str::to_owned),
        );
        if is_full(&self.exceptions, &key, self.limit) {
            key = (key.0, None, None);
            add(&mut self.aggregated.without_address, 1);
        }
        let tally = self.exceptions.entry(key).or_insert(ExceptionTally {
            connections: 0,
            bytes: Bytes::default(),
            first: now,
            last: now,
        });
        add(&mut tally.connections, 1);
        add_bytes(&mut tally.bytes, bytes);
        tally.last = now;
    }

    /// Counts a refusal, and says whether it is the first of its kind, to be a record of its own.
    pub(crate) fn refused(&mut self, refusal: &Refusal, now: Timestamp) -> bool {
        let kind = |destination| {
            let reason = refusal.reason.clone();
            (refusal.direction, refusal.protocol, reason, destination)
        };
        let mut key = kind(refusal.destination);
        if is_full(&self.refusals, &key, self.limit) {
            key = kind(None);
            add(&mut self.aggregated.without_address, 1);
        }
        let first = !self.refusals.contains_key(&key);
        let tally = self.refusals.entry(key).or_insert(Count {
            count: 0,
            first: now,
            last: now,
        });
        add(&mut tally.count, 1);
        tally.last = now;
        let spelled_out = first && self.spelled_out < SPELLED_OUT;
        self.spelled_out += usize::from(spelled_out);
        spelled_out
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.links.values().map(|tally| tally.open).sum()
    }

    /// Ends the window, and begins the next.
    pub(crate) fn take(&mut self, to: Timestamp) -> Gathered {
        // A clock that was set back must not make a window end before it begins.
        let to = to.max(self.from);
        let mut links: Vec<LinkGroup> = self
            .links
            .iter_mut()
            .filter_map(|(flow, tally)| tally.take(flow, self.from, to))
            .collect();
        links.sort_by(|a, b| a.flow.cmp(&b.flow));
        self.links.retain(|_, tally| tally.open > 0);
        let exceptions = self.exceptions.drain();
        let mut exceptions: Vec<ExceptionUse> = exceptions
            .map(|((rule, destination, observed_tls), tally)| ExceptionUse {
                rule,
                destination,
                observed_tls,
                connections: tally.connections,
                bytes: tally.bytes,
                first: tally.first,
                last: tally.last,
            })
            .collect();
        exceptions.sort_by(|a, b| (&a.rule, a.destination).cmp(&(&b.rule, b.destination)));
        let refusals = self.refusals.drain();
        let mut refusals: Vec<RefusalCount> = refusals
            .map(
                |((direction, protocol, reason, destination), tally)| RefusalCount {
                    direction,
                    protocol,
                    reason,
                    destination,
                    count: tally.count,
                    first: tally.first,
                    last: tally.last,
                },
            )
            .collect();
        refusals.sort_by(|a, b| {
            let key = |one: &RefusalCount| (one.direction, one.protocol, one.destination);
            (&a.reason, key(a)).cmp(&(&b.reason, key(b)))
        });
        let aggregated = std::mem::take(&mut self.aggregated);
        let nothing = aggregated == Aggregated::default();
        let limit = u64::try_from(self.limit).unwrap_or(MOST);
        let from = std::mem::replace(&mut self.from, to);
        self.spelled_out = 0;
        Gathered {
            from,
            to,
            sealed: std::mem::take(&mut self.sealed),
            excepted: std::mem::take(&mut self.excepted),
            links,
            exceptions,
            refusals,
            aggregated: (!nothing).then_some(Aggregated {
                limit,
                ..aggregated
            }),
        }
    }

    /// The group of a flow. One whose opening was counted in a coarser group stays there.
    fn group(&mut self, flow: &Flow, goes_on: bool) -> &mut Tally {
        let place = self.place(flow, goes_on);
        match place {
            Place::Own => {}
            Place::NoDestination(_) => add(&mut self.aggregated.without_destination, 1),
            Place::NoPeer(_) => add(&mut self.aggregated.without_peer, 1),
        }
        let key = match place {
            Place::Own => flow.clone(),
            Place::NoDestination(key) | Place::NoPeer(key) => key,
        };
        self.links.entry(key).or_insert_with(Tally::new)
    }

    fn place(&self, flow: &Flow, goes_on: bool) -> Place {
        let without_destination = || Flow {
            destination: None,
            peer_serial: None,
            ..flow.clone()
        };
        let without_peer = || Flow {
            peer: None,
            ..without_destination()
        };
        let is_open = |flow: &Flow| self.links.get(flow).is_some_and(|tally| tally.open > 0);
        if self.links.contains_key(flow) && (!goes_on || is_open(flow)) {
            return Place::Own;
        }
        if goes_on {
            let (coarse, coarsest) = (without_destination(), without_peer());
            if is_open(&coarse) {
                return Place::NoDestination(coarse);
            }
            if is_open(&coarsest) {
                return Place::NoPeer(coarsest);
            }
        }
        if self.links.contains_key(flow) || self.links.len() < self.limit {
            return Place::Own;
        }
        let coarse = without_destination();
        if self.links.contains_key(&coarse) || self.links.len() < self.limit + COARSE {
            return Place::NoDestination(coarse);
        }
        Place::NoPeer(without_peer())
    }
}

/// Where a flow is counted.
enum Place {
    Own,
    NoDestination(Flow),
    NoPeer(Flow),
}

impl Gathered {
    /// The window, in as many parts as it takes.
    pub(crate) fn windows(self, census: Option<Census>) -> Vec<Window> {
        let mut parts = Parts {
            full: Vec::new(),
            // There is always one, even when there is nothing to say.
            open: empty(self.from, self.to),
            room: PART,
        };
        for group in self.links {
            parts.fitting(&group).links.push(group);
        }
        for used in self.exceptions {
            parts.fitting(&used).exceptions.push(used);
        }
        for refusals in self.refusals {
            parts.fitting(&refusals).refusals.push(refusals);
        }
        if let Some(census) = census {
            let part = parts.fitting(&census);
            part.census = Some(census);
        }
        if let Some(aggregated) = self.aggregated {
            parts.fitting(&aggregated).aggregated = Some(aggregated);
        }
        let mut windows = parts.full;
        windows.push(parts.open);
        let count = u32::try_from(windows.len()).unwrap_or(u32::MAX);
        for (part, window) in (1..).zip(&mut windows) {
            window.part = part;
            window.parts = count;
        }
        windows
    }
}

/// A window that is being divided.
struct Parts {
    full: Vec<Window>,
    open: Window,
    /// Bytes that the open part has left.
    room: usize,
}

impl Parts {
    /// The part that takes something of this length: the last, or another.
    fn fitting(&mut self, what: &impl Serialize) -> &mut Window {
        let length = serde_json::to_vec(what).map_or(PART, |json| json.len() + 1);
        if length > self.room {
            self.next();
        }
        self.room = self.room.saturating_sub(length);
        &mut self.open
    }

    /// Begins another part.
    fn next(&mut self) {
        let next = empty(self.open.from, self.open.to);
        self.full.push(std::mem::replace(&mut self.open, next));
        self.room = PART;
    }
}

fn empty(from: Timestamp, to: Timestamp) -> Window {
    Window {
        from,
        to,
        part: 0,
        parts: 0,
        links: Vec::new(),
        exceptions: Vec::new(),
        refusals: Vec::new(),
        census: None,
        aggregated: None,
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            opened: 0,
            closed: 0,
            open: 0,
            bytes: Bytes::default(),
            times: None,
            failures: BTreeMap::new(),
        }
    }

    fn seen(&mut self, now: Timestamp) {
        let (_, last) = self.times.get_or_insert((now, now));
        *last = now;
    }

    fn take(&mut self, flow: &Flow, from: Timestamp, to: Timestamp) -> Option<LinkGroup> {
        let times = self.times.take();
        if times.is_none() && self.open == 0 {
            return None;
        }
        // Open the whole window long without a byte moved.
        let (first, last) = times.unwrap_or((from, to));
        Some(LinkGroup {
            flow: flow.clone(),
            opened: std::mem::take(&mut self.opened),
            closed: std::mem::take(&mut self.closed),
            open: self.open,
            bytes: std::mem::take(&mut self.bytes),
            first,
            last,
            failures: std::mem::take(&mut self.failures),
        })
    }
}

fn is_full<K: Eq + Hash, V>(map: &HashMap<K, V>, key: &K, limit: usize) -> bool {
    map.len() >= limit && !map.contains_key(key)
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more).min(MOST);
}

fn add_bytes(sum: &mut Bytes, more: Bytes) {
    add(&mut sum.sent, more.sent);
    add(&mut sum.received, more.received);
}

#[cfg(test)]
mod tests;
