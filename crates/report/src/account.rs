//! What the records of a period come to: the figures that every file of a report is made from, and
//! that the checks of the frameworks are asked about. Made by a [`Ledger`](crate::ledger::Ledger),
//! read by everything else in this crate.

mod keys;
mod passed;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealwire_evidence::record::{Direction, GapCause};
use time::{Duration, OffsetDateTime};

pub(crate) use self::keys::{CertificateAccount, Claims, Home, KeyAccount};
pub(crate) use self::passed::{
    ExceptionAccount, ExceptionKey, FlowAccount, FlowKey, RefusalAccount, SocketsAccount,
    UnaccountedSocket,
};
pub(crate) use self::pods::{
    BytesAccount, CustodyAccount, Loss, LossReason, PodAccount, SLOTS, Slot,
};
use crate::period::Period;

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) period: Period,
    /// Until when records count: the end of the period, or the moment that was asked for.
    pub(crate) as_of: OffsetDateTime,
    pub(crate) logs: Vec<LogAccount>,
    /// Further copies of logs, which were given and are not read: the longest one is.
    pub(crate) copies: u64,
    /// The worst covered first.
    pub(crate) pods: Vec<PodAccount>,
    /// How many pods there should be, where a list was given.
    pub(crate) listed: Option<usize>,
    /// Those of the list that no log speaks of.
    pub(crate) missing: Vec<String>,
    /// Identities that pods here have talked to and no log here belongs to.
    pub(crate) unheard: BTreeSet<Arc<str>>,
    pub(crate) flows: Vec<FlowAccount>,
    /// Events in groups that the sidecars had to make coarser.
    pub(crate) aggregated: u64,
    /// Connections in rows of which this report no longer tells destinations apart.
    pub(crate) merged: u64,
    pub(crate) exceptions: Vec<ExceptionAccount>,
    /// Exceptions that policies declare and that find no room in the records, or here.
    pub(crate) exceptions_unlisted: u64,
    pub(crate) keys: Vec<KeyAccount>,
    /// Keys that a certificate names and no custody record speaks of, by the SHA-256 of their
    /// public half.
    pub(crate) keys_unknown: BTreeSet<Arc<str>>,
    pub(crate) certificates: Vec<CertificateAccount>,
    /// Serial numbers that pods here used and no certificate record speaks of.
    pub(crate) certificates_unknown: BTreeSet<Arc<str>>,
    /// Whether there were more peers and serial numbers than are kept here, so that what is said of
    /// all of them is not.
    pub(crate) names_left_out: bool,
    pub(crate) refusals: Vec<RefusalAccount>,
    pub(crate) sockets: SocketsAccount,
    pub(crate) gaps: BTreeMap<GapCause, GapAccount>,
    /// Figures that sidecars could not have, with the reason, and how often.
    pub(crate) unavailable: BTreeMap<(String, String), u64>,
}

/// A log, and what verifying it said.
#[derive(Clone, Debug)]
pub(crate) struct LogAccount {
    /// As it was given on the command line.
    pub(crate) name: String,
    /// Its origin: the first line of its checkpoints.
    pub(crate) origin: String,
    /// Size of the tree under its last checkpoint.
    pub(crate) size: u64,
    /// Root hash of that, in base64.
    pub(crate) root: String,
    /// Checkpoints that were verified.
    pub(crate) checkpoints: u64,
    /// What is wrong, with the place.
    pub(crate) findings: Vec<String>,
    /// How many more findings there were.
    pub(crate) findings_more: u64,
    /// Records that no checkpoint covers.
    pub(crate) unsigned: u64,
    /// Records that a run signed for the one before it, in words.
    pub(crate) taken_over: Vec<String>,
}

/// Gaps of one cause that the records themselves state.
#[derive(Clone, Debug, Default)]
pub(crate) struct GapAccount {
    pub(crate) count: u64,
    pub(crate) time: Duration,
    /// Records lost, where it is known.
    pub(crate) lost: u64,
    /// One of them in words.
    pub(crate) example: String,
}

impl Account {
    /// Time that pods lived.
    pub(crate) fn alive(&self) -> Duration {
        self.pods.iter().map(|pod| pod.alive).sum()
    }

    /// Time of that which is accounted for.
    pub(crate) fn accounted(&self) -> Duration {
        self.pods.iter().map(|pod| pod.accounted).sum()
    }

    /// Bytes by the kernel's count and by the sidecars', over all pods.
    pub(crate) fn bytes(&self) -> BytesAccount {
        self.pods
            .iter()
            .fold(BytesAccount::default(), |sum, pod| sum.plus(pod.bytes))
    }

    /// Time in which pods used keys.
    pub(crate) fn custody_needed(&self) -> Duration {
        self.pods.iter().map(|pod| pod.custody.needed).sum()
    }

    /// Time of that for which records attest where the keys were.
    pub(crate) fn custody_attested(&self) -> Duration {
        self.pods.iter().map(|pod| pod.custody.attested).sum()
    }

    /// Connections opened and bytes moved on sealed links. What passed between two pods of these
    /// logs is recorded by both, and counted here once, as the side that opened it has it; what
    /// came in from elsewhere is counted where it came in.
    pub(crate) fn sealed(&self) -> Sealed {
        let own: BTreeSet<&str> = self
            .pods
            .iter()
            .flat_map(|pod| pod.identities.iter().map(AsRef::as_ref))
            .collect();
        let mut sealed = Sealed::default();
        for flow in &self.flows {
            let from_elsewhere = || match &flow.key.peer {
                Some(peer) => !own.contains(peer.as_ref()),
                None => true,
            };
            if flow.key.direction == Direction::Outbound || from_elsewhere() {
                add(&mut sealed.opened, flow.opened);
                add(&mut sealed.bytes, flow.moved());
            }
        }
        sealed
    }

    /// Who talked to whom.
    pub(crate) fn pairs(&self) -> BTreeMap<(Arc<str>, Arc<str>), Pair> {
        let mut pairs: BTreeMap<_, Pair> = BTreeMap::new();
        let nobody: Arc<str> = Arc::from("");
        for flow in &self.flows {
            let peer = flow.key.peer.clone().unwrap_or_else(|| nobody.clone());
            let own = flow.key.identity.clone();
            match flow.key.direction {
                Direction::Outbound => {
                    let pair = pairs.entry((own, peer)).or_default();
                    add(&mut pair.opened, flow.opened);
                    add(&mut pair.bytes, flow.moved());
                }
                Direction::Inbound => {
                    let pair = pairs.entry((peer, own)).or_default();
                    add(&mut pair.accepted, flow.opened);
                }
            }
        }
        pairs
    }
}

/// Sealed connections and what they carried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) opened: u64,
    pub(crate) bytes: u64,
}

/// What two workloads did, by each one's records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pair {
    /// Connections by the side that opened them.
    pub(crate) opened: u64,
    /// Connections by the side that accepted them.
    pub(crate) accepted: u64,
    /// Bytes both ways, by the side that opened them.
    pub(crate) bytes: u64,
}

impl Pair {
    /// How many connections there were: by the side that opened them, where its log is here.
    pub(crate) fn connections(&self) -> u64 {
        match self.opened {
            0 => self.accepted,
            opened => opened,
        }
    }
}

/// Adds to a sum. What a log from somebody else says may be any number.
pub(crate) fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

/// A sum of such numbers.
pub(crate) fn total(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}
