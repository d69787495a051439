//! Who talked to whom, how and how much.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, Direction, LinkGroup, Window};

use super::Names;
use crate::account::{FlowAccount, FlowKey};

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
}

impl Flows {
    /// A window's connections.
    pub(crate) fn window(&mut self, identity: &Arc<str>, window: &Window, names: &mut Names) {
        if let Some(coarse) = &window.aggregated {
            self.aggregated +=
                coarse.without_destination + coarse.without_peer + coarse.without_address;
        }
        for group in &window.links {
            self.add(identity, group, names);
        }
    }

    fn add(&mut self, identity: &Arc<str>, group: &LinkGroup, names: &mut Names) {
        let flow = &group.flow;
        let peer = flow.peer.as_deref().map(|peer| names.get(peer));
        if let Some(peer) = &peer
            && self.peers.len() < MOST_NAMES
        {
            self.peers.insert(peer.clone());
        }
        if self.serials.len() < MOST_NAMES {
            self.serials.insert(names.get(&flow.serial));
        }
        // What came in went to this pod's own address, which is one of many of the same workload.
        let destination = match flow.direction {
            Direction::Inbound => flow.destination.map(|to| format!(":{}", to.port())),
            Direction::Outbound => flow.destination.map(|to| to.to_string()),
        };
        let mut key = FlowKey {
            identity: identity.clone(),
            direction: flow.direction,
            peer,
            destination: destination.map(|to| names.get(&to)),
            version: names.get(&flow.version),
            suite: names.get(&flow.suite),
            group: names.get(&flow.group),
        };
        if self.rows.len() >= MOST && !self.rows.contains_key(&key) {
            key.destination = None;
            self.merged += group.opened;
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
        row.opened += group.opened;
        if flow.resumed {
            row.resumed += group.opened;
        }
        row.closed += group.closed;
        row.failed += group.failures.values().sum::<u64>();
        row.bytes.sent += group.bytes.sent;
        row.bytes.received += group.bytes.received;
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
        }
    }
}
