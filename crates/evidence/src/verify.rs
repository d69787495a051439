//! The check of logs by whoever trusts nobody but a trust bundle: offline, in bounded memory, and
//! with a name for whatever is wrong.
//!
//! Every file is read and every hash is computed anew. What is believed in the end is believed
//! because a checkpoint says so that a key of the workload signed, whose certificate chains to the
//! bundle and was valid then. Blocks for as long as the disk and the processor take.

mod chain;
mod finding;
mod signers;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sealwire_identity::TrustBundle;

pub use self::finding::{Finding, Place, Problem, Severity};
use self::walk::Walk;
use crate::note::{Checkpoint, SignedCheckpoint};
use crate::record::{Pod, Timestamp};

/// Findings that are listed of one log, of what is wrong and of remarks each. More are counted.
const MOST_FINDINGS: usize = 1000;

/// Whom to trust.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The roots that certificates must chain to.
    pub bundle: Arc<TrustBundle>,
}

/// What is known from elsewhere. A log that was put back to an earlier state as a whole is in
/// order by itself: only this shows it.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// Every log must have signed records up to then, or a stop record.
    pub until: Option<Timestamp>,
    /// Checkpoints that somebody kept: a log of the same origin must contain what they name.
    pub checkpoints: Vec<SignedCheckpoint>,
}

/// How far verification is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// In which log.
    pub log: &'a Path,
    /// Records seen in it.
    pub records: u64,
    /// Records that its checkpoint names.
    pub of: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// One for each log, in the order that they were given.
    pub logs: Vec<LogVerdict>,
    /// Checkpoints that somebody kept of logs that are not among these: a log that is missing, or one
    /// that was put in its place under another name.
    pub without_log: Vec<Checkpoint>,
}

impl Verdict {
    /// Whether nothing is wrong. That something could not be shown is in the remarks.
    pub fn is_good(&self) -> bool {
        let all = !self.logs.is_empty() && self.without_log.is_empty();
        all && self.logs.iter().all(LogVerdict::is_good)
    }
}

/// What came of one log.
#[derive(Clone, Debug, Default)]
pub struct LogVerdict {
    /// Where it is.
    pub directory: PathBuf,
    /// Its name, by its newest checkpoint.
    pub origin: Option<String>,
    /// Whose it is, by its last record.
    pub pod: Option<Pod>,
    /// Index of the first record that is there.
    pub first: u64,
    /// Records that were read.
    pub records: u64,
    /// Records that the newest checkpoint covers, those that were dropped included.
    pub signed: u64,
    /// When the first record was written.
    pub from: Option<Timestamp>,
    /// When the last one was.
    pub to: Option<Timestamp>,
    /// When the last one was that is signed.
    pub signed_to: Option<Timestamp>,
    /// Runs of the proxy.
    pub boots: u64,
    /// Checkpoints whose signatures were verified. Without one, nothing shows whose records these are.
    pub checkpoints: u64,
    /// SPIFFE IDs of the certificates under which they were signed, in the order of their first.
    pub identities: Vec<String>,
    /// What is wrong, and what else there is to say, in the order that it was found.
    pub findings: Vec<Finding>,
    /// Findings that are not listed, because there are too many.
    pub more: u64,
    /// How many of them say that something is wrong.
    wrong: usize,
}

impl LogVerdict {
    /// Whether nothing is wrong with it.
    pub fn is_good(&self) -> bool {
        self.wrong == 0
    }

    /// What is wrong.
    pub fn wrong(&self) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(|finding| finding.severity() == Severity::Wrong)
    }

    /// What else there is to say.
    pub fn remarks(&self) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(|finding| finding.severity() == Severity::Remark)
    }

    fn add(&mut self, finding: Finding) {
        let is_wrong = finding.severity() == Severity::Wrong;
        let listed = match is_wrong {
            true => self.wrong,
            false => self.findings.len() - self.wrong,
        };
        // The first say more than the thousandth, and no number of remarks hides what is wrong.
        if listed < MOST_FINDINGS {
            self.findings.push(finding);
            self.wrong += usize::from(is_wrong);
        } else {
            self.more += 1;
        }
    }
}

/// Checks logs, several at once where there are processors for it. A fault of the program in one of
/// them is no end of the others: their verdicts, or its, are not good.
pub fn verify(
    logs: &[PathBuf],
    trust: &Trust,
    expect: &Expect,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Verdict {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((place, log)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            logs.get(place).map(|log| (place, log))
        } {
            done.push((place, Walk::new(log, trust, expect).run(progress)));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<_> = thread::scope(|scope| {
        let threads = 0..threads.min(logs.len());
        let threads: Vec<_> = threads.map(|_| scope.spawn(work)).collect();
        // A log whose verdict is missing after a panic gets one below.
        let done = threads
            .into_iter()
            .map(|one| one.join().unwrap_or_default());
        done.flatten().collect()
    });
    done.sort_by_key(|(place, _)| *place);
    let mut verdicts = done.into_iter().peekable();
    let logs = logs.iter().enumerate().map(|(place, log)| {
        let own = verdicts.next_if(|(done, _)| *done == place);
        own.map_or_else(|| not_verified(log), |(_, verdict)| verdict)
    });
    let logs: Vec<LogVerdict> = logs.collect();
    let kept = expect.checkpoints.iter().map(SignedCheckpoint::checkpoint);
    let is_there = |origin: &String| logs.iter().any(|log| log.origin.as_ref() == Some(origin));
    Verdict {
        without_log: kept
            .filter(|kept| !is_there(&kept.origin))
            .cloned()
            .collect(),
        logs,
    }
}

fn not_verified(log: &Path) -> LogVerdict {
    let mut verdict = LogVerdict {
        directory: log.to_owned(),
        ..LogVerdict::default()
    };
    verdict.add(Finding::new(
        Problem::Unreadable,
        Place::default(),
        "verification broke off: this is a fault of the program",
    ));
    verdict
}

#[cfg(test)]
mod tests;
