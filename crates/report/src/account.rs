//! What the records of a period come to: the figures that every file of a report is made from, and
//! that the checks of the frameworks are asked about. Made by a [`Ledger`](crate::ledger::Ledger),
//! read by everything else in this crate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealwire_evidence::record::{
    Bytes, Direction, GapCause, KeyToken, KeyTransit, Pod, Protocol, Socket, StopCause,
};
use time::{Duration, OffsetDateTime};

use crate::period::Period;

/// In how many slots of equal length a pod's time is drawn.
pub(crate) const SLOTS: usize = 120;

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) period: Period,
    /// Until when records count: the end of the period, or the moment that was asked for.
    pub(crate) as_of: OffsetDateTime,
    pub(crate) logs: Vec<LogAccount>,
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
    pub(crate) keys: Vec<KeyAccount>,
    /// Keys that a certificate names and no custody record speaks of, by the SHA-256 of their
    /// public half.
    pub(crate) keys_unknown: BTreeSet<Arc<str>>,
    pub(crate) certificates: Vec<CertificateAccount>,
    /// Serial numbers that pods here used and no certificate record speaks of.
    pub(crate) certificates_unknown: BTreeSet<Arc<str>>,
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
}

/// A pod's time.
#[derive(Clone, Debug)]
pub(crate) struct PodAccount {
    pub(crate) pod: Pod,
    pub(crate) identities: BTreeSet<Arc<str>>,
    /// How long it lived within the period, as far as its log tells.
    pub(crate) alive: Duration,
    /// How much of that was sealed and accounted for.
    pub(crate) accounted: Duration,
    /// The longest stretches that were not, longest first.
    pub(crate) losses: Vec<Loss>,
    /// How many stretches there were altogether.
    pub(crate) losses_count: u64,
    pub(crate) slots: Box<[Slot; SLOTS]>,
    /// Runs of the sidecar.
    pub(crate) boots: u64,
    pub(crate) windows: u64,
    /// How its last run ended; none while it runs, or when nothing says so.
    pub(crate) stopped: Option<(OffsetDateTime, StopCause)>,
    /// Whether the list names it; none without a list.
    pub(crate) listed: Option<bool>,
}

/// One slot of the picture of a pod's time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Slot {
    pub(crate) alive: u32,
    pub(crate) accounted: u32,
}

/// A stretch of time in which a pod lived and was not accounted for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Loss {
    pub(crate) from: OffsetDateTime,
    pub(crate) to: OffsetDateTime,
    pub(crate) why: LossReason,
}

/// Why time counts as not accounted for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum LossReason {
    /// No window speaks of it.
    NoWindow,
    /// No window speaks of it, and a gap record says why.
    Gap(GapCause),
    /// The log ends, without a stop record.
    LogEnds,
    /// Not all parts of the window are there.
    Parts,
    /// The records of it are under no checkpoint.
    Unsigned,
    /// No census, or one without the sockets.
    NoCensus,
    /// There were sockets that nobody accounts for.
    Sockets,
    /// Records of it were dropped, by age or size.
    Dropped,
    /// Something was found in the log there.
    Finding,
}

/// Connections that have the same ends and the same cryptography, as one side recorded them.
#[derive(Clone, Debug)]
pub(crate) struct FlowAccount {
    pub(crate) key: FlowKey,
    pub(crate) opened: u64,
    /// Of those opened, over links that resumed an earlier session.
    pub(crate) resumed: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: Bytes,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

/// What connections are told apart by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct FlowKey {
    /// Whose record it is.
    pub(crate) identity: Arc<str>,
    pub(crate) direction: Direction,
    /// None where it was aggregated.
    pub(crate) peer: Option<Arc<str>>,
    /// None where it was aggregated.
    pub(crate) destination: Option<Arc<str>>,
    pub(crate) version: Arc<str>,
    pub(crate) suite: Arc<str>,
    pub(crate) group: Arc<str>,
}

/// A declared exception, and what it let through.
#[derive(Clone, Debug)]
pub(crate) struct ExceptionAccount {
    pub(crate) key: ExceptionKey,
    /// Pods that declared it.
    pub(crate) pods: u64,
    pub(crate) connections: u64,
    pub(crate) bytes: Bytes,
    pub(crate) used: Option<(OffsetDateTime, OffsetDateTime)>,
    /// Connections in windows that hold one after its end.
    pub(crate) late: u64,
    /// Most sockets of it at one census.
    pub(crate) observed_tls: BTreeSet<Arc<str>>,
    /// Connections by who made them.
    pub(crate) by_identity: BTreeMap<Arc<str>, u64>,
}

/// What exceptions are told apart by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct ExceptionKey {
    /// None when it was used and no policy declares it.
    pub(crate) expires: Option<OffsetDateTime>,
    pub(crate) rule: Arc<str>,
    /// `dns`, `passthrough` or `require-tls`.
    pub(crate) what: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) ports: Vec<u16>,
    pub(crate) reason: Arc<str>,
    pub(crate) owner: Arc<str>,
}

/// A key, and what its home said about it.
#[derive(Clone, Debug)]
pub(crate) struct KeyAccount {
    pub(crate) public_key_sha256: Arc<str>,
    pub(crate) reference: String,
    pub(crate) provider: String,
    pub(crate) algorithm: String,
    pub(crate) token: Option<KeyToken>,
    pub(crate) transit: Option<KeyTransit>,
    pub(crate) claims: Claims,
    pub(crate) identities: BTreeSet<Arc<str>>,
    /// Signatures over something new that verified, and those that did not.
    pub(crate) proofs: u64,
    pub(crate) proofs_failed: u64,
    /// Statements of the vendor about it; this report does not verify them.
    pub(crate) attestations: u64,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

/// The attributes of a key as its home states them, at their worst in the period: the claim that
/// speaks against the key wins, and a missing one over one that speaks for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    pub(crate) sensitive: Option<bool>,
    pub(crate) always_sensitive: Option<bool>,
    pub(crate) extractable: Option<bool>,
    pub(crate) never_extractable: Option<bool>,
    pub(crate) local: Option<bool>,
}

/// A certificate of a workload here.
#[derive(Clone, Debug)]
pub(crate) struct CertificateAccount {
    pub(crate) serial: Arc<str>,
    pub(crate) issuer: String,
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) addresses: Vec<String>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) key: String,
    pub(crate) public_key_sha256: Arc<str>,
    /// When it first came into force.
    pub(crate) issued: OffsetDateTime,
    pub(crate) revoked: Option<OffsetDateTime>,
    pub(crate) pods: u64,
}

/// Refusals of one kind.
#[derive(Clone, Debug)]
pub(crate) struct RefusalAccount {
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) reason: Arc<str>,
    pub(crate) count: u64,
    pub(crate) pods: u64,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
    /// One of them, in words.
    pub(crate) example: Option<String>,
}

/// What the censuses say.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketsAccount {
    /// Censuses taken.
    pub(crate) censuses: u64,
    /// Windows without one.
    pub(crate) without: u64,
    /// Sockets looked at, over all censuses.
    pub(crate) seen: u64,
    /// Sightings of sockets that nobody accounts for.
    pub(crate) unaccounted: u64,
    /// Some of those sockets.
    pub(crate) examples: Vec<UnaccountedSocket>,
    /// What the kernel counted on the pods' interfaces between censuses.
    pub(crate) kernel: Bytes,
    /// Packets of that.
    pub(crate) packets: u64,
    /// What the sidecars moved on sealed links in the same time.
    pub(crate) sealed: Bytes,
    /// What they moved for exceptions.
    pub(crate) excepted: Bytes,
}

/// A socket that nobody accounts for.
#[derive(Clone, Debug)]
pub(crate) struct UnaccountedSocket {
    pub(crate) pod: String,
    pub(crate) socket: Socket,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
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
                sealed.opened += flow.opened;
                sealed.bytes += flow.bytes.sent + flow.bytes.received;
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
                    pair.opened += flow.opened;
                    pair.bytes += flow.bytes.sent + flow.bytes.received;
                }
                Direction::Inbound => {
                    pairs.entry((peer, own)).or_default().accepted += flow.opened;
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

impl PodAccount {
    /// Its name as people write it.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.pod.namespace, self.pod.name)
    }

    /// Time in which it lived and was not accounted for.
    pub(crate) fn lost(&self) -> Duration {
        self.alive - self.accounted
    }
}

impl ExceptionAccount {
    /// Whether it was over by then.
    pub(crate) fn expired(&self, as_of: OffsetDateTime) -> bool {
        self.key.expires.is_none_or(|expires| expires <= as_of)
    }
}

impl KeyAccount {
    /// Whether its home says that it cannot leave.
    pub(crate) fn cannot_leave(&self) -> Option<bool> {
        match (&self.transit, self.provider.as_str()) {
            (Some(transit), _) => Some(!transit.exportable && !transit.allow_plaintext_backup),
            (None, "memory") => Some(false),
            (None, _) => {
                let claims = self.claims;
                let kept = [
                    claims.sensitive,
                    claims.extractable.map(|extractable| !extractable),
                ];
                if kept.contains(&Some(false)) {
                    Some(false)
                } else if kept.contains(&None) {
                    None
                } else {
                    Some(true)
                }
            }
        }
    }

    /// Whether it is in a device or a service of its own, not in a process's memory.
    pub(crate) fn held(&self) -> bool {
        self.provider != "memory"
    }
}

impl Claims {
    /// Both, at their worst.
    pub(crate) fn worst(self, other: Self) -> Self {
        let good_is = |good: bool, one: Option<bool>, two: Option<bool>| {
            if one == Some(!good) || two == Some(!good) {
                Some(!good)
            } else if one.is_none() || two.is_none() {
                None
            } else {
                Some(good)
            }
        };
        Self {
            sensitive: good_is(true, self.sensitive, other.sensitive),
            always_sensitive: good_is(true, self.always_sensitive, other.always_sensitive),
            extractable: good_is(false, self.extractable, other.extractable),
            never_extractable: good_is(true, self.never_extractable, other.never_extractable),
            local: good_is(true, self.local, other.local),
        }
    }
}

impl LossReason {
    /// In words, after "because".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::NoWindow => "no record speaks of it",
            Self::Gap(GapCause::Crash) => "the sidecar was killed or crashed",
            Self::Gap(GapCause::NotRunning) => "no sidecar ran",
            Self::Gap(GapCause::Overload) => "more happened than could be recorded",
            Self::Gap(GapCause::Storage) => "the disk took no records",
            Self::Gap(GapCause::Unsigned) => "the key did not sign",
            Self::Gap(GapCause::Clock) => "the clock jumped",
            Self::Gap(GapCause::Census) => "no census could be taken",
            Self::Gap(GapCause::Other) => "the sidecar states a gap",
            Self::LogEnds => "the log ends there without a stop record",
            Self::Parts => "a part of the window is missing",
            Self::Unsigned => "no signed checkpoint covers the records",
            Self::NoCensus => "there is no census of the sockets",
            Self::Sockets => "there were sockets that nobody accounts for",
            Self::Dropped => "records were dropped by age or size",
            Self::Finding => "verification found something wrong there",
        }
    }
}
