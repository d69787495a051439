//! Who talked to whom, how and how much.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, Direction, LinkGroup, Window};

use super::Names;
use crate::account::{FlowAccount, FlowKey, add, total};

/// Rows kept at most. Beyond that, destinations are no longer told apart.
const MOST: usize = 200_000;

/// Serial numbers and peers kept at most; they are as many as certificates and workloads.
const MOST_NAMES: usize = 2_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    rows: HashMap<FlowKey, FlowAccount>,
    aggregated: u64,
    merged: u64,
    peers: BTreeSet<Arc<str>>,
    serials: BTreeSet<Arc<str>>,
    /// Whether a peer or a serial number found no room.
    left_out: bool,
}

/// What they come to.
#[derive(Debug)]
pub(crate) struct FlowsTotal {
    pub(crate) rows: Vec<FlowAccount>,
    /// Events that sidecars counted in coarser groups.
    pub(crate) aggregated: u64,
    /// Connections in rows without destination, because there were too many rows here.
    pub(crate) merged: u64,
    /// Everybody whom a pod here talked to.
    pub(crate) peers: BTreeSet<Arc<str>>,
    /// Certificates that pods here used.
    pub(crate) serials: BTreeSet<Arc<str>>,
    /// Whether there were more of either than are kept.
    pub(crate) left_out: bool,
}

impl Flows {
    /// A window's connections.
    pub(crate) fn window(&mut self, identity: &Arc<str>, window: &Window, names: &mut Names) {
        if let Some(coarse) = &window.aggregated {
            for events in [
                coarse.without_destination,
                coarse.without_peer,
                coarse.without_address,
            ] {
                add(&mut self.aggregated, events);
            }
        }
        for group in &window.links {
            self.add(identity, group, names);
        }
    }

    fn add(&mut self, identity: &Arc<str>, group: &LinkGroup, names: &mut Names) {
        let flow = &group.flow;
        let peer = flow.peer.as_deref().map(|peer| names.get(peer));
        if let Some(peer) = &peer {
            self.left_out |= !kept(&mut self.peers, peer.clone());
        }
        self.left_out |= !kept(&mut self.serials, names.get(&flow.serial));
        // What came in went to this pod's own address, which is one of many of the same workload.
        let destination = match flow.direction {
            Direction::Inbound => flow.destination.map(|to| format!(":{}", to.port())),
            Direction::Outbound => flow.destination.map(|to| to.to_string()),
        };
        let full = self.rows.len() >= MOST;
        let destination = destination.and_then(|to| match full {
            // A name that is not known yet would be one more to keep.
            true => names.known(&to),
            false => Some(names.get(&to)),
        });
        let mut key = FlowKey {
            identity: identity.clone(),
            direction: flow.direction,
            peer,
            destination,
            version: names.get(&flow.version),
            suite: names.get(&flow.suite),
            group: names.get(&flow.group),
        };
        if full && !self.rows.contains_key(&key) {
            key.destination = None;
            add(&mut self.merged, group.opened);
        }
        let (first, last) = (group.first.get(), group.last.get());
        let row = self.rows.entry(key.clone()).or_insert_with(|| FlowAccount {
            key,
            opened: 0,
            resumed: 0,
            closed: 0,
            failed: 0,
            bytes: Bytes::default(),
            first,
            last,
        });
        add(&mut row.opened, group.opened);
        if flow.resumed {
            add(&mut row.resumed, group.opened);
        }
        add(&mut row.closed, group.closed);
        add(&mut row.failed, total(group.failures.values().copied()));
        add(&mut row.bytes.sent, group.bytes.sent);
        add(&mut row.bytes.received, group.bytes.received);
        row.first = row.first.min(first);
        row.last = row.last.max(last);
    }

    /// Everything has come.
    pub(crate) fn finish(self) -> FlowsTotal {
        let mut rows: Vec<_> = self.rows.into_values().collect();
        rows.sort_by(|one, two| one.key.cmp(&two.key));
        FlowsTotal {
            rows,
            aggregated: self.aggregated,
            merged: self.merged,
            peers: self.peers,
            serials: self.serials,
            left_out: self.left_out,
        }
    }
}

/// Adds a name, and says whether it is there now.
fn kept(names: &mut BTreeSet<Arc<str>>, name: Arc<str>) -> bool {
    if names.len() < MOST_NAMES {
        names.insert(name);
        return true;
    }
    names.contains(&name)
}
