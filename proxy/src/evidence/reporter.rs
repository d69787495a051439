//! From the record of a connection to what evidence says of it. Called by whoever observes
//! connections, on the runtime's workers; never blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use sealwire_evidence::Recorder;
use sealwire_evidence::record::{Bytes, Direction, Flow, Protocol, Refusal};
use sealwire_link::{self as link, LiveLink, Moved, Outcome, Record};

use crate::passing::Passage;

/// Tells evidence of connections.
#[derive(Debug, Default)]
pub struct Reporter {
    /// Once the log is open.
    recorder: OnceLock<Recorder>,
    /// What could not be told before.
    missed: AtomicU64,
}

/// A connection of whose beginning evidence was told.
#[derive(Debug)]
pub enum Told {
    /// Over a link.
    Link {
        /// What it is grouped by.
        flow: Flow,
        /// The link.
        link: Arc<LiveLink>,
    },
    /// Through an exception.
    Passage(Arc<Passage>),
}

impl Reporter {
    /// The log is open. Says how much could not be told before.
    pub(super) fn begin(&self, recorder: Recorder) -> u64 {
        let _ = self.recorder.set(recorder);
        self.missed.load(Ordering::Relaxed)
    }

    /// An application's connection goes on over a link from now on.
    pub(crate) fn opened(&self, link: &Arc<LiveLink>) -> Told {
        let flow = flow(link);
        self.tell(|recorder| recorder.opened(&flow));
        Told::Link {
            flow,
            link: link.clone(),
        }
    }

    /// A connection has ended; of its beginning this was told.
    pub(crate) fn ended(&self, record: &Record, told: Option<&Told>) {
        match (&record.outcome, told) {
            (Outcome::Refused { reason, detail }, _) => {
                self.refused_times(refusal(record, reason, detail), 1);
            }
            (outcome, Some(Told::Link { flow, link })) => {
                let rest = bytes(link.moved.account());
                self.tell(|recorder| recorder.closed(flow, rest, failure(outcome)));
            }
            (_, Some(Told::Passage(passage))) => {
                let rest = bytes(passage.moved.account());
                let (to, tls) = (Some(passage.destination), passage.observed_tls.as_deref());
                self.tell(|recorder| recorder.excepted(&passage.rule, to, tls, rest));
            }
            // Whatever moves bytes was told of.
            (_, None) => {}
        }
    }

    /// Live links have moved something.
    pub(super) fn moved(&self, flow: &Flow, moved: Bytes) {
        self.tell(|recorder| recorder.moved(flow, moved));
    }

    /// An exception's connection has moved something, or nothing, since this was last told.
    pub(super) fn passed(&self, passage: &Passage) {
        let moved = bytes(passage.moved.account());
        let (to, tls) = (Some(passage.destination), passage.observed_tls.as_deref());
        if moved != Bytes::default() {
            self.tell(|recorder| recorder.passed(&passage.rule, to, tls, moved));
        }
    }

    /// The same was refused so many times.
    pub(super) fn refused_times(&self, refusal: Refusal, count: u64) {
        self.tell(|recorder| recorder.refused_times(refusal, count));
    }

    fn tell(&self, tell: impl FnOnce(&Recorder)) {
        match self.recorder.get() {
            Some(recorder) => tell(recorder),
            None => {
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What a link's connections are grouped by.
pub(super) fn flow(link: &LiveLink) -> Flow {
    let facts = &link.facts;
    Flow {
        direction: direction(link.direction),
        peer: Some(facts.peer.clone()),
        peer_serial: Some(facts.peer_serial.clone()),
        serial: facts.serial.clone(),
        destination: Some(link.destination),
        version: facts.version.to_owned(),
        suite: facts.suite.clone(),
        group: facts.group.clone(),
        resumed: facts.resumed,
    }
}

pub(super) fn bytes(moved: Moved) -> Bytes {
    Bytes {
        sent: moved.sent,
        received: moved.received,
    }
}

/// Why it did not end well, as in metrics.
fn failure(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Complete => None,
        Outcome::Closed { reason } => Some(reason.name()),
        Outcome::Reset { reason, .. } | Outcome::Refused { reason, .. } => Some(reason),
    }
}

fn refusal(record: &Record, reason: &str, detail: &str) -> Refusal {
    Refusal {
        direction: direction(record.direction),
        protocol: Protocol::Tcp,
        reason: reason.to_owned(),
        source: Some(record.source),
        destination: Some(record.destination),
        peer: record.link.as_ref().map(|link| link.peer.clone()),
        process: None,
        detail: detail.to_owned(),
    }
}

fn direction(direction: link::Direction) -> Direction {
    match direction {
        link::Direction::Inbound => Direction::Inbound,
        link::Direction::Outbound => Direction::Outbound,
    }
}
