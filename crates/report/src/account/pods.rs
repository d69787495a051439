//! Pods: which of their time is accounted for and for which it is known where their keys were, and
//! how the bytes of their interfaces add up.

use std::collections::BTreeSet;
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, GapCause, Pod, StopCause};
use time::{Duration, OffsetDateTime};

/// In how many slots of equal length a pod's time is drawn.
pub(crate) const SLOTS: usize = 120;

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
    /// The longest time without a break that was not, whatever the reasons.
    pub(crate) longest_lost: Duration,
    /// Whether the records say where its key was.
    pub(crate) custody: CustodyAccount,
    /// What the kernel counted, against what the sidecar moved.
    pub(crate) bytes: BytesAccount,
    pub(crate) slots: Box<[Slot; SLOTS]>,
    /// Runs of the sidecar.
    pub(crate) boots: u64,
    pub(crate) windows: u64,
    /// How its last run ended; none while it runs, or when nothing says so.
    pub(crate) stopped: Option<(OffsetDateTime, StopCause)>,
    /// Whether the list names it; none without a list.
    pub(crate) listed: Option<bool>,
}

/// For which of the time that a pod used a key its records attest where that was.
#[derive(Clone, Debug, Default)]
pub(crate) struct CustodyAccount {
    /// Time in which there was a key.
    pub(crate) needed: Duration,
    /// Time of that which custody records attest.
    pub(crate) attested: Duration,
    /// The longest stretches that they do not, longest first.
    pub(crate) losses: Vec<Loss>,
    /// How many stretches there were altogether.
    pub(crate) losses_count: u64,
    /// The longest time without a break, whatever the reasons.
    pub(crate) longest_lost: Duration,
}

/// What the kernel counted on the interfaces of a pod, against the bytes of applications that its
/// sidecar moved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct BytesAccount {
    /// Windows in which both counted.
    pub(crate) windows: u64,
    /// Windows for which the kernel's counters could not be had.
    pub(crate) left_out: u64,
    /// Bytes of applications that the sidecar moved, those of exceptions among them.
    pub(crate) moved: Bytes,
    /// Those of exceptions.
    pub(crate) excepted: Bytes,
    /// Bytes that the kernel counted.
    pub(crate) counted: Bytes,
    /// The most that heads, TLS, handshakes and repetitions can have added to what was sent.
    pub(crate) overhead: u64,
    /// Bytes sent that none of this explains.
    pub(crate) unexplained: u64,
    /// Bytes that the sidecar says it sent and that never left.
    pub(crate) missing: u64,
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
    /// The window is far longer than windows are meant to be.
    TooLong,
    /// No record says where the key in use was.
    NoCustody,
    /// The last record that says so is too old.
    StaleCustody,
    /// The key was in a weaker home than before.
    WeakerHome,
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

impl CustodyAccount {
    /// Time in which there was a key and no record says where.
    pub(crate) fn lost(&self) -> Duration {
        self.needed - self.attested
    }
}

impl BytesAccount {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        let both = |one: Bytes, other: Bytes| Bytes {
            sent: one.sent.saturating_add(other.sent),
            received: one.received.saturating_add(other.received),
        };
        Self {
            windows: self.windows + other.windows,
            left_out: self.left_out + other.left_out,
            moved: both(self.moved, other.moved),
            excepted: both(self.excepted, other.excepted),
            counted: both(self.counted, other.counted),
            overhead: self.overhead.saturating_add(other.overhead),
            unexplained: self.unexplained.saturating_add(other.unexplained),
            missing: self.missing.saturating_add(other.missing),
        }
    }

    /// Whether the difference is beyond what can be explained.
    pub(crate) fn differs(&self) -> bool {
        self.unexplained > 0 || self.missing > 0
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
            Self::TooLong => {
                "one window that is far too long spans it: the clock jumped or everything stood still"
            }
            Self::NoCustody => "no record says where the key in use was kept",
            Self::StaleCustody => {
                "the last record of where the key was kept is older than two hours"
            }
            Self::WeakerHome => "the key was kept in a weaker home than before",
        }
    }
}
