//! What records of evidence come to: a report for people and for auditors' tools, and an export
//! for engines that have a great many of them to search.
//!
//! [`report`] verifies logs, folds their records into figures in bounded memory, and judges these
//! by the rules of each [`Framework`]; [`Report::write`] makes the files. [`export`] writes records
//! as they are, flattened to one schema. Nothing here believes a record that verification does not
//! vouch for, and what the records do not show is never satisfied.
//!
//! A crate of its own, so that the sidecar, which writes evidence, carries none of this. Everything
//! blocks.

mod account;
mod answer;
mod cbom;
mod check;
mod dsse;
mod error;
mod expected;
mod export;
mod files;
mod framework;
mod ledger;
mod made;
mod oscal;
mod page;
mod period;
mod tables;
mod words;

use std::path::{Path, PathBuf};

use sealwire_evidence::{Expect, Log, LogVerdict, Trust, verify};
use sealwire_keys::PrivateKey;
use time::OffsetDateTime;

use account::LogAccount;
use ledger::{Ledger, Standing};
use made::Made;

pub use error::ReportError;
pub use expected::{Expected, ExpectedError};
pub use export::{Format, UnknownFormat, export, export_columns};
pub use framework::{Framework, UnknownFramework};
pub use period::{Period, PeriodError};

/// What a report is to be about.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which time.
    pub period: Period,
    /// Until when records count. Now, while the period is not over; the same moment again to make
    /// the same report again.
    pub as_of: OffsetDateTime,
    /// By which frameworks it judges.
    pub frameworks: Vec<Framework>,
    /// The pods that there should be logs of, where somebody knows.
    pub expected: Option<Expected>,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A log is being verified.
    Verifying {
        /// Which.
        log: &'a Path,
        /// Records seen in it.
        records: u64,
        /// Records that its checkpoint names.
        of: u64,
    },
    /// A log's records are being read.
    Reading {
        /// Which.
        log: &'a Path,
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
}

/// A report.
#[derive(Debug)]
pub struct Report(Made);

/// Findings that are told of a log.
const FINDINGS: usize = 20;

/// Makes a report of logs, after verifying them against `trust`. A log that cannot be read, or that
/// something is wrong with, is no error: the report says so, and its answer is no.
///
/// # Errors
/// When the rules cannot be read, which are a part of this program.
pub fn report(
    logs: &[PathBuf],
    trust: &Trust,
    options: Options,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Report, ReportError> {
    let verdict = verify(logs, trust, &Expect::default(), &|at| {
        progress(Progress::Verifying {
            log: at.log,
            records: at.records,
            of: at.of,
        });
    });
    let mut ledger = Ledger::new(options.period, options.as_of, options.expected);
    for (place, verdict) in verdict.logs.iter().enumerate() {
        progress(Progress::Reading {
            log: &verdict.directory,
            number: place + 1,
            of: logs.len(),
        });
        let account = read(&mut ledger, verdict);
        ledger.log(account);
    }
    Ok(Report(Made::of(ledger.finish(), options.frameworks)?))
}

impl Report {
    /// Whether the answer is yes, and every clause that was asked for is satisfied.
    pub fn satisfied(&self) -> bool {
        self.0.answer.yes()
            && self
                .0
                .judged
                .iter()
                .flat_map(|framework| &framework.findings)
                .all(|finding| finding.satisfied)
    }

    /// What stands against it, in sentences, and the clauses that are not satisfied.
    pub fn reasons(&self) -> Vec<String> {
        let clauses = self.0.judged.iter().flat_map(|framework| {
            framework
                .mapping
                .clauses
                .iter()
                .zip(&framework.findings)
                .filter(|(_, finding)| !finding.satisfied)
                .map(|(clause, _)| format!("{} {}", framework.mapping.name, clause.clause))
        });
        let open: Vec<String> = clauses.collect();
        let mut reasons: Vec<String> = self
            .0
            .answer
            .reasons()
            .into_iter()
            .map(|outcome| outcome.says.clone())
            .collect();
        if !open.is_empty() {
            reasons.push(format!("Not satisfied: {}.", open.join(", ")));
        }
        reasons
    }

    /// Writes the files into a directory, and says which. With a key, the assessment results are
    /// signed, which waits for it.
    ///
    /// # Errors
    /// When the key does not sign or the disk does not take them.
    pub fn write(
        &self,
        directory: &Path,
        signer: Option<&dyn PrivateKey>,
    ) -> Result<Vec<PathBuf>, ReportError> {
        files::write(directory, &files::produce(&self.0, signer)?)
    }
}

/// Reads a log's records into the ledger, each for what verification says it is worth.
fn read(ledger: &mut Ledger, verdict: &LogVerdict) -> LogAccount {
    let name = verdict.directory.display().to_string();
    let mut account = LogAccount {
        origin: verdict.origin.clone().unwrap_or_else(|| name.clone()),
        name,
        size: verdict.signed,
        root: String::new(),
        checkpoints: verdict.checkpoints,
        findings: verdict
            .wrong()
            .take(FINDINGS)
            .map(ToString::to_string)
            .collect(),
        findings_more: u64::try_from(verdict.wrong().count().saturating_sub(FINDINGS))
            .unwrap_or(u64::MAX),
        unsigned: 0,
    };
    // From the first fault on nothing counts; a fault that is nowhere in particular is everywhere.
    let doubtful_from = verdict
        .wrong()
        .map(|finding| finding.place.index.unwrap_or(0))
        .min()
        .or((!verdict.is_good()).then_some(0));
    // What cannot be read has been found by verification; the first such place ends the reading.
    let mut fail = |error: &dyn std::fmt::Display| {
        if verdict.is_good() {
            account.findings.push(error.to_string());
        }
    };
    let log = match Log::open(&verdict.directory) {
        Ok(log) => log,
        Err(error) => {
            fail(&error);
            return account;
        }
    };
    let records = match log.records() {
        Ok(records) => records,
        Err(error) => {
            fail(&error);
            return account;
        }
    };
    for entry in records {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                fail(&error);
                break;
            }
        };
        let standing = if doubtful_from.is_some_and(|from| entry.index >= from) {
            Standing::Doubtful
        } else if entry.signed && entry.index < verdict.signed {
            Standing::Proven
        } else {
            Standing::Unsigned
        };
        ledger.add(&entry.record, standing);
        if standing == Standing::Unsigned && ledger.is_due(entry.record.time.get()) {
            account.unsigned += 1;
        }
    }
    if let Some(checkpoint) = log.checkpoint() {
        account.root = checkpoint.root.to_string();
    }
    account
}
