//! Folds records into an [`Account`], one at a time and in bounded memory: what is kept grows with
//! pods, peers and keys, not with time. Records of one log come in their order; logs may come in
//! any.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sealwire_evidence::record::{CertificateEvent, Event, Gap, GapCause, Pod, Record, Window};
use time::{Duration, OffsetDateTime};

use crate::account::{Account, GapAccount, LogAccount, LossReason, PodAccount, add};
use crate::expected::Expected;
use crate::period::Period;

mod attested;
mod bytes;
mod exceptions;
mod flows;
mod keys;
mod lifetime;
mod losses;
mod refusals;
mod sockets;

use attested::Attested;
use bytes::BytesLedger;
use exceptions::Exceptions;
use flows::Flows;
use keys::Keys;
use lifetime::Lifetime;
use refusals::Refusals;
use sockets::Sockets;

pub(crate) use sockets::unaccounted;

/// What is being added up.
#[derive(Debug)]
pub(crate) struct Ledger {
    period: Period,
    as_of: OffsetDateTime,
    expected: Option<Expected>,
    names: Names,
    logs: Vec<LogAccount>,
    copies: u64,
    pods: BTreeMap<PodKey, PodLedger>,
    flows: Flows,
    exceptions: Exceptions,
    keys: Keys,
    refusals: Refusals,
    sockets: Sockets,
    gaps: BTreeMap<GapCause, GapAccount>,
    unavailable: BTreeMap<(String, String), u64>,
}

/// Reasons for missing figures that are told apart at most.
const UNAVAILABLE: usize = 256;

/// How long before the end a record may still wait for its signature.
const SIGNING: Duration = Duration::minutes(5);

/// Number of the log, and namespace, name and UID: what two logs say of one pod is not one life.
type PodKey = (usize, String, String, String);

/// A pod, while its records come in.
#[derive(Debug)]
struct PodLedger {
    pod: Pod,
    /// A number for sets.
    number: u32,
    identities: BTreeSet<Arc<str>>,
    lifetime: Lifetime,
    attested: Attested,
    bytes: BytesLedger,
    /// Parts of a window that came so far.
    parts: Option<Parts>,
}

/// Parts of one window, which follow one another. Only all of them together are the window, and
/// the census is in one of them.
#[derive(Clone, Debug)]
struct Parts {
    /// The last that came; 0 when one is missing.
    part: u32,
    worst: Standing,
    /// Whether there was a census among them.
    census: bool,
    /// Whether it lists the sockets.
    counted: bool,
    /// Whether there were connections.
    connected: bool,
    /// Whether nobody accounts for some of these.
    strange: bool,
}

/// How much a record is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// Under a signed checkpoint, and nothing speaks against it.
    Proven,
    /// Under no signed checkpoint.
    Unsigned,
    /// Verification found something wrong with it.
    Doubtful,
}

impl Parts {
    fn with(before: Option<Self>, window: &Window, standing: Standing) -> Self {
        let mut parts = match before {
            Some(before) if before.part > 0 && window.part == before.part + 1 => Self {
                part: window.part,
                worst: match before.worst {
                    Standing::Proven => standing,
                    worse => worse,
                },
                ..before
            },
            _ => Self {
                part: u32::from(window.part == 1),
                worst: standing,
                census: false,
                counted: false,
                connected: false,
                strange: false,
            },
        };
        parts.connected |= !window.links.is_empty();
        if let Some(census) = &window.census {
            parts.census = true;
            parts.counted |= sockets::listed(census);
            parts.strange |= unaccounted(census) > 0;
        }
        parts
    }

    /// Why the time of the window is not accounted for, now that its last part is there.
    fn loss(&self) -> Option<LossReason> {
        match self.worst {
            _ if self.part == 0 => Some(LossReason::Parts),
            Standing::Unsigned => Some(LossReason::Unsigned),
            Standing::Doubtful => Some(LossReason::Finding),
            Standing::Proven if !self.counted => Some(LossReason::NoCensus),
            Standing::Proven if self.strange => Some(LossReason::Sockets),
            Standing::Proven => None,
        }
    }
}

/// Texts that come again and again, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(crate) fn get(&mut self, name: &str) -> Arc<str> {
        match self.0.get(name) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = Arc::from(name);
                self.0.insert(new.clone());
                new
            }
        }
    }

    /// A text, if it was kept before.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<str>> {
        self.0.get(name).cloned()
    }
}

impl Ledger {
    /// For a period, with the pods that there should be. What is later than `as_of` does not
    /// count.
    pub(crate) fn new(period: Period, as_of: OffsetDateTime, expected: Option<Expected>) -> Self {
        Self {
            period,
            as_of: as_of.min(period.to()),
            expected,
            names: Names::default(),
            logs: Vec::new(),
            copies: 0,
            pods: BTreeMap::new(),
            flows: Flows::default(),
            exceptions: Exceptions::default(),
            keys: Keys::default(),
            refusals: Refusals::default(),
            sockets: Sockets::default(),
            gaps: BTreeMap::new(),
            unavailable: BTreeMap::new(),
        }
    }

    /// A log whose records have come; those that follow are the next one's.
    pub(crate) fn log(&mut self, log: LogAccount) {
        self.logs.push(log);
    }

    /// So many more copies of logs were given, which are not read.
    pub(crate) fn copies(&mut self, copies: u64) {
        self.copies = copies;
    }

    /// Whether what was recorded then should long be signed.
    pub(crate) fn is_due(&self, at: OffsetDateTime) -> bool {
        (self.period.from()..self.as_of - SIGNING).contains(&at)
    }

    /// The next record of a log. What speaks for the pods counts where it is proven; what speaks
    /// against them counts anyway.
    pub(crate) fn add(&mut self, record: &Record, standing: Standing) {
        let at = record.time.get();
        let number = u32::try_from(self.pods.len()).unwrap_or(u32::MAX);
        let key = self.key(&record.pod);
        // A pod that begins when the period is over is none of it.
        if at >= self.as_of && !self.pods.contains_key(&key) {
            return;
        }
        let span = (self.period.from(), self.as_of);
        let pod = self.pods.entry(key).or_insert_with(|| PodLedger {
            pod: record.pod.clone(),
            number,
            identities: BTreeSet::new(),
            lifetime: Lifetime::new(span, at),
            attested: Attested::new(span),
            bytes: BytesLedger::default(),
            parts: None,
        });
        pod.lifetime.heard(at);
        let identity = self
            .names
            .get(record.identity.as_deref().unwrap_or_default());
        let within = (span.0..span.1).contains(&at);
        let proven = standing == Standing::Proven;
        // Whoever can write a file can write any name into it.
        if within && proven && !identity.is_empty() {
            pod.identities.insert(identity.clone());
        }
        match &record.event {
            Event::Start(start) => {
                let window = proven.then_some(start.window_seconds);
                pod.lifetime.start(at, window);
                pod.attested.starts(at);
                pod.bytes.starts();
                self.exceptions
                    .declared(pod.number, &start.policy, at, span, &mut self.names);
            }
            Event::Policy(policy) => {
                self.exceptions
                    .declared(pod.number, policy, at, span, &mut self.names);
            }
            Event::Stop(stop) if proven => {
                pod.lifetime.stop(at, stop.cause);
                pod.attested.stops(at);
            }
            Event::Retention(retention) => {
                pod.lifetime.lived_since(retention.from.get());
                for certificate in retention.certificates.iter().filter(|_| proven) {
                    self.keys
                        .certificate(pod.number, certificate, None, &mut self.names);
                }
                for custody in retention.custody.iter().filter(|_| proven) {
                    self.keys.known(custody, &mut self.names);
                }
            }
            Event::Custody(custody) if proven && at < self.as_of => {
                let key = self.keys.known(custody, &mut self.names);
                pod.attested.custody(&key, custody, at);
                self.keys
                    .custody(custody, at, within, &identity, &mut self.names);
            }
            Event::Certificate(certificate) if at < self.as_of => {
                if is_in_force(certificate.event) {
                    let key = self.names.get(&certificate.public_key_sha256);
                    pod.attested.uses(key, at);
                }
                if proven {
                    self.keys
                        .certificate(pod.number, certificate, Some(at), &mut self.names);
                }
            }
            Event::Refusal(refusal) if within => {
                self.refusals.example(refusal, &mut self.names);
            }
            Event::Gap(gap) => self.gap(&record.pod, gap),
            Event::Window(window) => self.window(&record.pod, &identity, window, standing),
            Event::Stop(_) | Event::Custody(_) | Event::Certificate(_) | Event::Refusal(_) => {}
        }
    }

    fn window(&mut self, pod: &Pod, identity: &Arc<str>, window: &Window, standing: Standing) {
        let key = self.key(pod);
        let Some(pod) = self.pods.get_mut(&key) else {
            return;
        };
        let so_far = Parts::with(pod.parts.take(), window, standing);
        let last = window.part >= window.parts;
        let (from, ends) = (window.from.get(), window.to.get());
        if last {
            pod.lifetime.window(from, ends, so_far.loss());
            pod.attested.window(from, ends, so_far.connected);
        } else {
            pod.parts = Some(so_far.clone());
        }

        // A window counts where it ends: its connections cannot be divided.
        let within = ends > self.period.from() && ends <= self.as_of;
        let proven = standing == Standing::Proven;
        pod.bytes.window(window, within && proven);
        let number = pod.number;
        if within {
            if proven {
                self.flows.window(identity, window, &mut self.names);
            }
            self.exceptions
                .used(number, identity, &window.exceptions, &mut self.names);
            self.refusals
                .window(number, &window.refusals, &mut self.names);
            match &window.census {
                Some(census) => self.sockets.census(&pod.pod, census),
                None if last && !so_far.census => self.sockets.without(),
                None => {}
            }
        }
        if last {
            self.exceptions.window_ended(number, within);
        }
        if !within {
            return;
        }
        for missing in window.census.iter().flat_map(|census| &census.unavailable) {
            let known = (missing.what.clone(), missing.why.clone());
            if self.unavailable.len() < UNAVAILABLE || self.unavailable.contains_key(&known) {
                *self.unavailable.entry(known).or_default() += 1;
            }
        }
    }

    fn gap(&mut self, pod: &Pod, gap: &Gap) {
        let (from, to) = (gap.from.get(), gap.to.get());
        let key = self.key(pod);
        if let Some(pod) = self.pods.get_mut(&key) {
            pod.lifetime.gap(from, to, gap.cause, gap.lost);
        }
        // A clock that was set back leaves a gap that ends before it begins.
        let (from, to) = (from.min(to), from.max(to));
        let (from, to) = (from.max(self.period.from()), to.min(self.as_of));
        if from > to || to <= self.period.from() {
            return;
        }
        let sum = self.gaps.entry(gap.cause).or_default();
        sum.count += 1;
        sum.time += to - from;
        add(&mut sum.lost, gap.lost.unwrap_or(0));
        if sum.example.is_empty() {
            sum.example.clone_from(&gap.detail);
        }
    }

    /// Of a pod in the log whose records come now.
    fn key(&self, pod: &Pod) -> PodKey {
        let log = self.logs.len();
        (
            log,
            pod.namespace.clone(),
            pod.name.clone(),
            pod.uid.clone(),
        )
    }

    /// Everything has come.
    pub(crate) fn finish(self) -> Account {
        let mut heard: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut pods: Vec<PodAccount> = Vec::new();
        for ((_, namespace, name, uid), pod) in self.pods {
            let (listed, ended) = match &self.expected {
                None => (None, None),
                Some(list) => (
                    Some(list.names(&namespace, &name, &uid)),
                    list.ended(&namespace, &name, &uid),
                ),
            };
            heard.extend(pod.identities.iter().cloned());
            if let Some(account) = pod.lifetime.finish(ended) {
                pods.push(PodAccount {
                    pod: pod.pod,
                    identities: pod.identities,
                    listed,
                    custody: pod.attested.finish(),
                    bytes: pod.bytes.finish(),
                    ..account
                });
            }
        }
        let missing = self.expected.as_ref().map_or_else(Vec::new, |list| {
            let known: HashSet<(&str, &str)> = pods
                .iter()
                .map(|pod| (pod.pod.namespace.as_str(), pod.pod.name.as_str()))
                .collect();
            let uids: HashSet<&str> = pods.iter().map(|pod| pod.pod.uid.as_str()).collect();
            list.iter()
                .filter(|pod| match pod.uid.as_str() {
                    "" => !known.contains(&(pod.namespace.as_str(), pod.name.as_str())),
                    uid => !uids.contains(uid),
                })
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect()
        });
        pods.sort_by(|one, two| {
            (two.lost(), one.name(), &one.pod.uid).cmp(&(one.lost(), two.name(), &two.pod.uid))
        });
        let flows = self.flows.finish();
        let keys = self.keys.finish(self.period, self.as_of, &flows.serials);
        let (exceptions, exceptions_unlisted) = self.exceptions.finish();
        Account {
            period: self.period,
            as_of: self.as_of,
            logs: self.logs,
            copies: self.copies,
            pods,
            listed: self.expected.as_ref().map(Expected::len),
            missing,
            unheard: flows.peers.difference(&heard).cloned().collect(),
            flows: flows.rows,
            aggregated: flows.aggregated,
            merged: flows.merged,
            exceptions,
            exceptions_unlisted,
            keys: keys.keys,
            keys_unknown: keys.keys_unknown,
            certificates: keys.certificates,
            certificates_unknown: keys.certificates_unknown,
            names_left_out: flows.left_out,
            refusals: self.refusals.finish(),
            sockets: self.sockets.finish(),
            gaps: self.gaps,
            unavailable: self.unavailable,
        }
    }
}

/// Whether from now on it is the one that is presented.
fn is_in_force(event: CertificateEvent) -> bool {
    matches!(event, CertificateEvent::Issued | CertificateEvent::Renewed)
}
