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
mod reading;
mod tables;
mod words;

use std::path::{Path, PathBuf};

use sealwire_evidence::Trust;
use sealwire_keys::PrivateKey;
use time::OffsetDateTime;

use ledger::Ledger;
use made::Made;

pub use error::ReportError;
pub use expected::{Expected, ExpectedError};
pub use export::{Format, UnknownFormat, export, export_columns};
pub use framework::{Framework, UnknownFramework};
pub use period::{Period, PeriodError};
pub use words::visible;

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
    let mut ledger = Ledger::new(options.period, options.as_of, options.expected);
    reading::read(&mut ledger, logs, trust, progress);
    Ok(Report(Made::of(ledger.finish(), options.frameworks)?))
}

impl Report {
    /// Whether the answer is yes: to the question on the page's first screen.
    pub fn is_yes(&self) -> bool {
        self.0.answer.yes()
    }

    /// Whether it is, and every clause that was asked for is satisfied.
    pub fn satisfied(&self) -> bool {
        self.is_yes()
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
