//! The checks that frameworks are built from: each asks the account one question and answers it
//! with the figures. What the records cannot decide is [`Verdict::Unknown`], which never satisfies
//! anything. Asked by frameworks and by the [`Answer`](crate::answer::Answer); a module here holds
//! the checks about one thing.

mod cryptography;
mod keys;
mod log;
mod pods;
mod unsealed;

use serde::Deserialize;

use crate::account::Account;
use crate::words::{count, minute};

use cryptography::Protocols;
use keys::{CertificatesAtMost, KeyAlgorithms, KeysHeldBy};
use pods::Stretches;
use unsealed::Exceptions;

/// A question, with what the framework allows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    /// There is a log of every pod.
    AllPodsHeard,
    /// Pods are accounted for all the time that they live.
    Coverage(Stretches),
    /// The kernel knew no socket that nobody accounts for.
    NothingUnaccounted,
    /// What the kernel counted at the interfaces is explained by what the sidecars moved.
    BytesAddUp,
    /// Nothing passed unsealed but by declared exceptions of these kinds, before their end.
    Exceptions(Exceptions),
    /// Connections use nothing but these.
    Protocols(Protocols),
    /// Every connection has a verified identity at its other end.
    PeersKnown,
    /// For every key, its home said what it is, and the key signed something new.
    CustodyKnown,
    /// Records attest where the keys were all the time that they were in use, in no weaker home
    /// than before.
    CustodyAttested(Stretches),
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
            Self::BytesAddUp => "bytes-add-up",
            Self::Exceptions(_) => "exceptions",
            Self::Protocols(_) => "protocols",
            Self::PeersKnown => "peers-known",
            Self::CustodyKnown => "custody-known",
            Self::CustodyAttested(_) => "custody-attested",
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
            Self::AllPodsHeard => pods::all_pods_heard(account),
            Self::Coverage(allowed) => allowed.of_life(account),
            Self::NothingUnaccounted => unsealed::nothing_unaccounted(account),
            Self::BytesAddUp => unsealed::bytes_add_up(account),
            Self::Exceptions(allowed) => allowed.ask(account),
            Self::Protocols(allowed) => allowed.ask(account),
            Self::PeersKnown => cryptography::peers_known(account),
            Self::CustodyKnown => keys::custody_known(account),
            Self::CustodyAttested(allowed) => allowed.of_custody(account),
            Self::KeysHeldBy(allowed) => allowed.ask(account),
            Self::KeysCannotLeave => keys::keys_cannot_leave(account),
            Self::KeyAlgorithms(allowed) => allowed.ask(account),
            Self::CertificatesKnown => keys::certificates_known(account),
            Self::CertificatesAtMost(allowed) => allowed.ask(account),
            Self::LogIntact => log::log_intact(account),
            Self::WindowsSigned => log::windows_signed(account),
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
