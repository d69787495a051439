//! The checks that frameworks are built from: each asks the account one question and answers it
//! with the figures. What the records cannot decide is [`Verdict::Unknown`], which never satisfies
//! anything.

use std::collections::BTreeSet;

use serde::Deserialize;
use time::Duration;

use crate::account::{Account, ExceptionAccount, FlowAccount, KeyAccount, PodAccount};
use crate::words::{bytes, count, counted, duration, identity, minute, share};

/// A question, with what the framework allows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    /// There is a log of every pod.
    AllPodsHeard,
    /// Pods are accounted for all the time that they live.
    Coverage(Coverage),
    /// The kernel knew no socket that nobody accounts for.
    NothingUnaccounted,
    /// Nothing passed unsealed but by declared exceptions of these kinds, before their end.
    Exceptions(Exceptions),
    /// Connections use nothing but these.
    Protocols(Protocols),
    /// Every connection has a verified identity at its other end.
    PeersKnown,
    /// For every key, its home said what it is, and the key signed something new.
    CustodyKnown,
    /// Keys live in these kinds of homes.
    KeysHeldBy(KeysHeldBy),
    /// The homes say that the keys cannot leave.
    KeysCannotLeave,
    /// Keys are of these kinds.
    KeyAlgorithms(KeyAlgorithms),
    /// For every certificate that was used there is a record.
    CertificatesKnown,
    /// Certificates live no longer than this.
    CertificatesAtMost(CertificatesAtMost),
    /// Verifying the logs found nothing wrong.
    LogIntact,
    /// A signed checkpoint covers every record.
    WindowsSigned,
}

/// See [`Check::Coverage`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Coverage {
    /// Stretches up to this length are let pass.
    without_holes_over_seconds: u32,
}

/// See [`Check::Exceptions`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Exceptions {
    kinds: BTreeSet<String>,
}

/// See [`Check::Protocols`]; what is left out is not asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Protocols {
    versions: Option<BTreeSet<String>>,
    suites: Option<BTreeSet<String>>,
    groups: Option<BTreeSet<String>>,
}

/// See [`Check::KeysHeldBy`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeysHeldBy {
    providers: BTreeSet<String>,
}

/// See [`Check::KeyAlgorithms`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeyAlgorithms {
    accepted: BTreeSet<String>,
}

/// See [`Check::CertificatesAtMost`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CertificatesAtMost {
    days: u32,
}

/// Whether what a check asks is so.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Verdict {
    /// It is not.
    NotMet,
    /// The records do not say.
    Unknown,
    /// It is.
    Met,
}

/// A check's answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// A sentence with the figures.
    pub(crate) says: String,
}

impl Check {
    /// Its name in the frameworks' files.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AllPodsHeard => "all-pods-heard",
            Self::Coverage(_) => "coverage",
            Self::NothingUnaccounted => "nothing-unaccounted",
            Self::Exceptions(_) => "exceptions",
            Self::Protocols(_) => "protocols",
            Self::PeersKnown => "peers-known",
            Self::CustodyKnown => "custody-known",
            Self::KeysHeldBy(_) => "keys-held-by",
            Self::KeysCannotLeave => "keys-cannot-leave",
            Self::KeyAlgorithms(_) => "key-algorithms",
            Self::CertificatesKnown => "certificates-known",
            Self::CertificatesAtMost(_) => "certificates-at-most",
            Self::LogIntact => "log-intact",
            Self::WindowsSigned => "windows-signed",
        }
    }

    /// Asks. An empty account answers nothing.
    pub(crate) fn ask(&self, account: &Account) -> Outcome {
        if account.pods.is_empty() && *self != Self::LogIntact {
            return unknown(format!(
                "No record speaks of the time from {} to {}.",
                minute(account.period.from()),
                minute(account.as_of)
            ));
        }
        match self {
            Self::AllPodsHeard => all_pods_heard(account),
            Self::Coverage(allowed) => allowed.ask(account),
            Self::NothingUnaccounted => nothing_unaccounted(account),
            Self::Exceptions(allowed) => allowed.ask(account),
            Self::Protocols(allowed) => allowed.ask(account),
            Self::PeersKnown => peers_known(account),
            Self::CustodyKnown => custody_known(account),
            Self::KeysHeldBy(allowed) => allowed.ask(account),
            Self::KeysCannotLeave => keys_cannot_leave(account),
            Self::KeyAlgorithms(allowed) => allowed.ask(account),
            Self::CertificatesKnown => certificates_known(account),
            Self::CertificatesAtMost(allowed) => allowed.ask(account),
            Self::LogIntact => log_intact(account),
            Self::WindowsSigned => windows_signed(account),
        }
    }
}

fn met(says: String) -> Outcome {
    let verdict = Verdict::Met;
    Outcome { verdict, says }
}

fn not_met(says: String) -> Outcome {
    let verdict = Verdict::NotMet;
    Outcome { verdict, says }
}

fn unknown(says: String) -> Outcome {
    let verdict = Verdict::Unknown;
    Outcome { verdict, says }
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The first few, and how many more.
fn some(items: impl IntoIterator<Item = String>, all: usize) -> String {
    const NAMED: usize = 3;
    let mut named = items.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if all > NAMED {
        named.push_str(&format!(" and {} more", count(number(all - NAMED))));
    }
    named
}

fn all_pods_heard(account: &Account) -> Outcome {
    if !account.missing.is_empty() {
        let all = account.missing.len();
        return not_met(format!(
            "{} on the list {} no log here: {}.",
            counted(number(all), "pod", "pods"),
            if all == 1 { "has" } else { "have" },
            some(account.missing.iter().cloned(), all)
        ));
    }
    if !account.unheard.is_empty() {
        let all = account.unheard.len();
        return not_met(format!(
            "Pods here talked to {}, of which there is no log here: {}.",
            counted(number(all), "workload", "workloads"),
            some(account.unheard.iter().map(|id| identity(id)), all)
        ));
    }
    match account.listed {
        Some(listed) => met(format!(
            "Every one of the {} on the list has a log here.",
            counted(number(listed), "pod", "pods")
        )),
        None => unknown(
            "Nobody gave a list of the pods that ran (--pods): one that talked to nobody here and left no log would not \
             be missed."
                .to_owned(),
        ),
    }
}

impl Coverage {
    fn ask(&self, account: &Account) -> Outcome {
        let limit = Duration::seconds(self.without_holes_over_seconds.into());
        let (alive, accounted) = (account.alive(), account.accounted());
        let figure = format!(
            "Sealed and accounted for: {} of {} that {} ran",
            share(accounted, alive),
            duration(alive),
            counted(number(account.pods.len()), "pod", "pods"),
        );
        let holed = |pod: &&PodAccount| {
            pod.losses
                .first()
                .is_some_and(|loss| loss.to - loss.from > limit)
        };
        let pods = account.pods.iter().filter(holed).count();
        let Some((pod, loss)) = account
            .pods
            .iter()
            .filter(holed)
            .find_map(|pod| Some((pod, pod.losses.first()?)))
        else {
            return met(format!("{figure}."));
        };
        not_met(format!(
            "{figure}. {} with time that is not; most in {}: {} from {}, where {}.",
            counted(number(pods), "pod", "pods"),
            pod.name(),
            duration(loss.to - loss.from),
            minute(loss.from),
            loss.why.words(),
        ))
    }
}

fn nothing_unaccounted(account: &Account) -> Outcome {
    let sockets = &account.sockets;
    if let Some(example) = sockets.examples.first() {
        let address = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(|| "?".to_owned(), |address| address.to_string())
        };
        return not_met(format!(
            "Sockets that nobody accounts for were seen {}, one of them in {}: {} to {}.",
            times(sockets.unaccounted),
            example.pod,
            address(example.socket.local),
            address(example.socket.remote),
        ));
    }
    if sockets.unaccounted > 0 {
        return not_met(format!(
            "Sockets that nobody accounts for were seen {}.",
            times(sockets.unaccounted)
        ));
    }
    if sockets.without > 0 || sockets.censuses == 0 {
        return unknown(format!(
            "{} without a census of the sockets: nobody knows what else was open then.",
            counted(sockets.without, "window", "windows")
        ));
    }
    met(format!(
        "In {} the kernel knew {}, and each is accounted for.",
        counted(sockets.censuses, "census", "censuses"),
        counted(sockets.seen, "socket", "sockets"),
    ))
}

fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        _ => format!("{} times", count(number)),
    }
}

impl Exceptions {
    fn ask(&self, account: &Account) -> Outcome {
        let used: Vec<&ExceptionAccount> = account
            .exceptions
            .iter()
            .filter(|exception| exception.connections > 0)
            .collect();
        if let Some(late) = used.iter().find(|exception| exception.late > 0) {
            return not_met(match late.key.expires {
                Some(expires) => format!(
                    "{} passed by the exception {} after its end on {}.",
                    counted(late.connections.min(late.late), "connection", "connections"),
                    late.key.rule,
                    minute(expires)
                ),
                None => format!(
                    "{} passed by the exception {}, which no policy declares.",
                    counted(late.connections, "connection", "connections"),
                    late.key.rule
                ),
            });
        }
        if let Some(other) = used
            .iter()
            .find(|exception| !self.kinds.contains(exception.key.what.as_ref()))
        {
            return not_met(format!(
                "{} with {} passed unsealed by the exception {} ({}), which {} answers for.",
                counted(other.connections, "connection", "connections"),
                bytes(other.bytes.sent + other.bytes.received),
                other.key.rule,
                other.key.what,
                other.key.owner
            ));
        }
        let nameless = |exception: &&ExceptionAccount| {
            exception.key.owner.is_empty() || exception.key.reason.is_empty()
        };
        if let Some(nameless) = account.exceptions.iter().find(nameless) {
            return not_met(format!(
                "The exception {} has no owner or no reason.",
                nameless.key.rule
            ));
        }
        let connections = used.iter().map(|exception| exception.connections).sum();
        met(match account.exceptions.len() {
            0 => "No exception is declared.".to_owned(),
            all => format!(
                "{} declared, each with a reason, an owner and an end; {} passed by them.",
                counted(number(all), "exception is", "exceptions are"),
                counted(connections, "connection", "connections"),
            ),
        })
    }
}

impl Protocols {
    fn ask(&self, account: &Account) -> Outcome {
        if account.flows.is_empty() {
            return met(
                "No connection was sealed in this time, so none by anything else.".to_owned(),
            );
        }
        let outside = |flow: &&FlowAccount| {
            let refused = |allowed: &Option<BTreeSet<String>>, found: &str| {
                allowed
                    .as_ref()
                    .is_some_and(|allowed| !allowed.contains(found))
            };
            refused(&self.versions, &flow.key.version)
                || refused(&self.suites, &flow.key.suite)
                || refused(&self.groups, &flow.key.group)
        };
        let opened: u64 = account.flows.iter().filter(outside).map(used).sum();
        if let Some(flow) = account.flows.iter().find(outside) {
            return not_met(format!(
                "{} by other means, such as {}, {}, {} between {} and {}.",
                counted(opened, "connection", "connections"),
                flow.key.version,
                flow.key.suite,
                flow.key.group,
                identity(&flow.key.identity),
                flow.key
                    .peer
                    .as_deref()
                    .map_or_else(|| "others".to_owned(), identity),
            ));
        }
        met(format!(
            "Every connection: {}.",
            [
                (&self.versions, names(account, |flow| &flow.key.version)),
                (&self.suites, names(account, |flow| &flow.key.suite)),
                (&self.groups, names(account, |flow| &flow.key.group)),
            ]
            .into_iter()
            .filter(|(asked, _)| asked.is_some())
            .map(|(_, found)| found)
            .collect::<Vec<_>>()
            .join("; ")
        ))
    }
}

/// Connections of a row; one that was open all the time still is one.
fn used(flow: &FlowAccount) -> u64 {
    flow.opened.max(flow.closed).max(1)
}

fn names<'a>(account: &'a Account, of: impl Fn(&'a FlowAccount) -> &'a str) -> String {
    let names: BTreeSet<&str> = account.flows.iter().map(of).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn peers_known(account: &Account) -> Outcome {
    let nobody: u64 = account
        .flows
        .iter()
        .filter(|flow| flow.key.peer.is_none())
        .map(used)
        .sum();
    if nobody > 0 {
        return unknown(format!(
            "For {} the records do not say who was at the other end: there were too many peers in a window to tell \
             them apart.",
            counted(nobody, "connection", "connections")
        ));
    }
    let peers: BTreeSet<&str> = account
        .flows
        .iter()
        .filter_map(|flow| flow.key.peer.as_deref())
        .collect();
    met(format!(
        "Every connection has a verified identity at both ends; {} at the other end.",
        counted(number(peers.len()), "workload was", "workloads were")
    ))
}

fn custody_known(account: &Account) -> Outcome {
    if let Some(key) = account.keys.iter().find(|key| key.proofs_failed > 0) {
        return not_met(format!(
            "{} by which the key {} should have shown that it was at hand do not verify.",
            counted(key.proofs_failed, "signature", "signatures"),
            key.reference
        ));
    }
    let unknown_keys = account.keys_unknown.len();
    if unknown_keys > 0 || account.keys.is_empty() {
        return unknown(format!(
            "Of {} in use no record says where it is kept.",
            match unknown_keys {
                0 => "the keys".to_owned(),
                keys => counted(number(keys), "key", "keys"),
            }
        ));
    }
    met(format!(
        "{}, each described by its home; {} over something new show that they were at hand.",
        counted(number(account.keys.len()), "key", "keys"),
        counted(
            account.keys.iter().map(|key| key.proofs).sum(),
            "signature",
            "signatures"
        ),
    ))
}

/// Judges every key; what no record speaks of leaves it open.
fn keys(account: &Account, good: impl Fn(&KeyAccount) -> Option<bool>, so: &str) -> Outcome {
    let judged: Vec<_> = account.keys.iter().map(|key| (key, good(key))).collect();
    let is = |wanted: Option<bool>| judged.iter().filter(move |(_, good)| *good == wanted);
    if let Some((key, _)) = is(Some(false)).next() {
        return not_met(format!(
            "Not so for {} of {}, among them {} ({}, {}).",
            count(number(is(Some(false)).count())),
            counted(number(judged.len()), "key", "keys"),
            key.reference,
            key.provider,
            key.algorithm
        ));
    }
    if let Some((key, _)) = is(None).next() {
        return unknown(format!(
            "The home of the key {} does not say.",
            key.reference
        ));
    }
    if judged.is_empty() || !account.keys_unknown.is_empty() {
        return unknown("Not every key in use has a record that says.".to_owned());
    }
    met(format!(
        "{}: {so}.",
        counted(number(judged.len()), "key", "keys")
    ))
}

impl KeysHeldBy {
    fn ask(&self, account: &Account) -> Outcome {
        keys(
            account,
            |key| Some(self.providers.contains(&key.provider)),
            "all in a token or in the transit engine of a Vault",
        )
    }
}

fn keys_cannot_leave(account: &Account) -> Outcome {
    keys(
        account,
        KeyAccount::cannot_leave,
        "the home of each claims that it cannot leave",
    )
}

impl KeyAlgorithms {
    fn ask(&self, account: &Account) -> Outcome {
        keys(
            account,
            |key| Some(self.accepted.contains(&key.algorithm)),
            "all of an accepted kind",
        )
    }
}

fn certificates_known(account: &Account) -> Outcome {
    let missing = account.certificates_unknown.len();
    if missing > 0 {
        return unknown(format!(
            "Of {} that connections were made with there is no record: {}.",
            counted(number(missing), "certificate", "certificates"),
            some(
                account.certificates_unknown.iter().map(ToString::to_string),
                missing
            )
        ));
    }
    if account.certificates.is_empty() {
        return unknown("There is no record of a certificate.".to_owned());
    }
    met(format!(
        "{} on record, every one that a connection was made with among them.",
        counted(
            number(account.certificates.len()),
            "certificate",
            "certificates"
        )
    ))
}

impl CertificatesAtMost {
    fn ask(&self, account: &Account) -> Outcome {
        let limit = Duration::days(self.days.into());
        let longest = account
            .certificates
            .iter()
            .max_by_key(|certificate| certificate.not_after - certificate.not_before);
        let Some(longest) = longest else {
            return unknown("There is no record of a certificate.".to_owned());
        };
        let lives = longest.not_after - longest.not_before;
        if lives > limit {
            return not_met(format!(
                "The certificate {} of {} is valid for {}, longer than {}.",
                longest.serial,
                identity(&longest.spiffe_id),
                duration(lives),
                counted(self.days.into(), "day", "days")
            ));
        }
        met(format!(
            "The longest certificate is valid for {}.",
            duration(lives)
        ))
    }
}

fn log_intact(account: &Account) -> Outcome {
    if account.logs.is_empty() {
        return unknown("There is no log.".to_owned());
    }
    let findings: u64 = account
        .logs
        .iter()
        .map(|log| number(log.findings.len()) + log.findings_more)
        .sum();
    if let Some((log, finding)) = account
        .logs
        .iter()
        .find_map(|log| Some((log, log.findings.first()?)))
    {
        return not_met(format!(
            "Verification found {} in the logs; in {}: {finding}",
            counted(findings, "fault", "faults"),
            log.name,
        ));
    }
    let checkpoints = account.logs.iter().map(|log| log.checkpoints).sum();
    if checkpoints == 0 {
        return unknown("No checkpoint is signed in these logs.".to_owned());
    }
    met(format!(
        "{} verified: {}, each signed by the workload's own key under a certificate of the trust bundle.",
        counted(number(account.logs.len()), "log", "logs"),
        counted(checkpoints, "checkpoint", "checkpoints"),
    ))
}

fn windows_signed(account: &Account) -> Outcome {
    let unsigned = account.logs.iter().map(|log| log.unsigned).sum();
    if unsigned > 0 {
        return not_met(format!(
            "{} under no signed checkpoint.",
            counted(unsigned, "record is", "records are")
        ));
    }
    met("A signed checkpoint covers every record.".to_owned())
}
