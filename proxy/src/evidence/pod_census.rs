//! At a window's end: what live connections have moved, the census, and what the kernel kept from
//! leaving. On the thread that writes the log, off the data path.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{gauge, histogram};
use sealwire_evidence::CensusTaker;
use sealwire_evidence::record::{Bytes, Census, Direction, Flow, Protocol, Refusal, SocketClass};
use sealwire_link::{LiveLink, Moved, Registry};
use time::OffsetDateTime;

use super::Parts;
use super::reporter::{Reporter, bytes, flow};
use crate::capture::accepted::Accepted;
use crate::capture::canonical;
use crate::capture::prove::ProofDesk;
use crate::census::{Known, Taken, Taker, own_sockets};
use crate::config::Settings;
use crate::passing::Passing;
use crate::state::State;

/// Takes the census of the pod that this proxy is in.
#[derive(Debug)]
pub(super) struct PodCensus {
    reporter: Arc<Reporter>,
    state: Arc<State>,
    registry: Arc<Registry>,
    accepted: Arc<Accepted>,
    passing: Arc<Passing>,
    desk: Arc<ProofDesk>,
    /// By which sockets are judged before anything is in force.
    first: Arc<Settings>,
    taker: Taker,
    kept: Kept,
    /// Of the window that is about to end.
    taken: Option<Census>,
}

impl PodCensus {
    /// `taker` has begun before the first proof of capture: every datagram of proofs is among what
    /// the kernel counts from there.
    pub(super) fn new(parts: &Parts, reporter: Arc<Reporter>, taker: Taker) -> Self {
        Self {
            reporter,
            state: parts.state.clone(),
            registry: parts.registry.clone(),
            accepted: parts.accepted.clone(),
            passing: parts.passing.clone(),
            desk: parts.desk.clone(),
            first: parts.settings.clone(),
            taker,
            kept: Kept::default(),
            taken: None,
        }
    }

    fn census(&mut self) -> Taken {
        let mut taker = std::mem::take(&mut self.taker);
        let taken = taker.take(|| self.known());
        self.taker = taker;
        taken
    }

    /// What the proxy knows of its own connections now.
    fn known(&self) -> Known {
        let in_force = self.state.in_force();
        let settings = in_force.map_or_else(|| self.first.clone(), |now| now.settings.clone());
        let live = self.registry.list(usize::MAX);
        let links = live
            .iter()
            .map(|link| (canonical(link.near), canonical(link.far)));
        Known {
            settings,
            sockets: own_sockets(),
            links: links.collect(),
            captured: self.accepted.list(),
            exceptions: self.passing.ends().into_iter().map(canonical).collect(),
            now: OffsetDateTime::now_utc(),
        }
    }
}

impl CensusTaker for PodCensus {
    fn window_ends(&mut self) {
        for (flow, moved) in moved_by_flow(&self.registry.list(usize::MAX)) {
            self.reporter.moved(&flow, bytes(moved));
        }
        for passage in self.passing.list() {
            self.reporter.passed(&passage);
        }
        let taken = self.census();
        let proofs = self.desk.datagrams_refused();
        let count = self.kept.new_ones(taken.kept_from_leaving, proofs);
        if count > 0 {
            self.reporter.refused_times(kept_from_leaving(), count);
        }
        show(&taken);
        self.taken = Some(taken.record);
    }

    fn take(&mut self, sealed: Bytes, excepted: Bytes) -> Census {
        let taken = self.taken.take();
        Census {
            sealed,
            excepted,
            ..taken.unwrap_or_else(|| self.census().record)
        }
    }
}

/// Datagrams that were kept from leaving.
#[derive(Debug, Default)]
struct Kept {
    /// As far as the kernel has counted, the proxy's own among them.
    counted: u64,
    /// Those of applications, as far as they have been told.
    told: u64,
}

impl Kept {
    /// How many applications tried to send that have not been told yet, when the kernel has counted
    /// `more` since, and `proofs` were the proxy's own altogether.
    ///
    /// Proofs count theirs before they send, so that none of them is taken for an application's;
    /// an application's that is missed for that is in the next window.
    fn new_ones(&mut self, more: u64, proofs: u64) -> u64 {
        self.counted = self.counted.saturating_add(more);
        let of_applications = self.counted.saturating_sub(proofs);
        let count = of_applications.saturating_sub(self.told);
        self.told += count;
        count
    }
}

/// What is said of datagrams that applications tried to send.
fn kept_from_leaving() -> Refusal {
    Refusal {
        direction: Direction::Outbound,
        protocol: Protocol::Other,
        reason: "datagram".to_owned(),
        source: None,
        destination: None,
        peer: None,
        process: None,
        detail: "a datagram (UDP, or another protocol without connections) that the kernel's rules kept from leaving; \
                 the kernel counts them, and does not say whose they were nor where to: declare a resolver under \
                 exceptions with kind dns, or have the application use TCP"
            .to_owned(),
    }
}

/// What live links have moved since they were last asked, by what they are grouped by.
fn moved_by_flow(live: &[Arc<LiveLink>]) -> HashMap<Flow, Moved> {
    let mut by_flow = HashMap::new();
    for link in live {
        let moved = link.moved.account();
        if moved != Moved::default() {
            let sum: &mut Moved = by_flow.entry(flow(link)).or_default();
            *sum = *sum + moved;
        }
    }
    by_flow
}

fn show(taken: &Taken) {
    let census = &taken.record;
    let unaccounted = census
        .sockets
        .iter()
        .filter(|one| one.class == SocketClass::Unaccounted);
    let unaccounted = unaccounted.map(|one| one.count).sum::<u64>();
    gauge!("sealwire_census_unaccounted_sockets")
        .set(f64::from(u32::try_from(unaccounted).unwrap_or(u32::MAX)));
    histogram!("sealwire_census_seconds").record(Duration::from_micros(census.took_micros));
    if unaccounted > 0 {
        let first = census.unaccounted.first();
        tracing::warn!(unaccounted, ?first, "sockets that nobody accounts for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_proofs_are_no_applications_and_each_other_one_counts_once() {
        let mut kept = Kept::default();
        assert_eq!(kept.new_ones(2, 2), 0);
        // A proof is about to send a third.
        assert_eq!(kept.new_ones(4, 3), 3);
        assert_eq!(kept.new_ones(1, 4), 0);
        // An application's hides behind a proof's that is not counted yet, and is told later.
        assert_eq!(kept.new_ones(1, 5), 0);
        assert_eq!(kept.new_ones(1, 5), 1);
    }
}
