//! From logs on disk to the ledger: every log once, however many copies of it were given, and each
//! record for what verification says it is worth. Called by [`report`](crate::report()).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use sealwire_evidence::{
    Entry, Expect, Finding, Log, LogVerdict, Problem, SignedCheckpoint, Trust, verify,
};
use time::OffsetDateTime;

use crate::Progress;
use crate::account::LogAccount;
use crate::ledger::{Ledger, Standing};

/// Findings that are told of a log.
const FINDINGS: usize = 20;

/// Verifies logs, and reads their records into the ledger.
pub(crate) fn read(
    ledger: &mut Ledger,
    named: &[PathBuf],
    trust: &Trust,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) {
    let Distinct { logs, copies } = Distinct::of(named);
    ledger.copies(number(copies.len()));
    // What the longest copy of a log does not contain makes it another log of the same name.
    let expect = Expect {
        until: None,
        checkpoints: copies,
    };
    let verdict = verify(&logs, trust, &expect, &|at| {
        progress(Progress::Verifying {
            log: at.log,
            records: at.records,
            of: at.of,
        });
    });
    for (place, verdict) in verdict.logs.iter().enumerate() {
        progress(Progress::Reading {
            log: &verdict.directory,
            number: place + 1,
            of: logs.len(),
        });
        let account = read_one(ledger, verdict);
        ledger.log(account);
    }
}

/// The logs that were named, each once.
struct Distinct {
    logs: Vec<PathBuf>,
    /// Newest checkpoints of further copies.
    copies: Vec<SignedCheckpoint>,
}

impl Distinct {
    /// A directory that was named twice is one; of logs of the same name the longest is read.
    fn of(named: &[PathBuf]) -> Self {
        let mut distinct = Self {
            logs: Vec::new(),
            copies: Vec::new(),
        };
        let mut places = HashSet::new();
        let mut by_name: HashMap<String, (usize, SignedCheckpoint)> = HashMap::new();
        for path in named {
            let place = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            if !places.insert(place) {
                continue;
            }
            let log = Log::open(path).ok();
            let signed = log.as_ref().and_then(Log::signed);
            let Some(signed) = signed else {
                distinct.logs.push(path.clone());
                continue;
            };
            let own = signed.checkpoint();
            match by_name.get_mut(&own.origin) {
                None => {
                    let place = distinct.logs.len();
                    by_name.insert(own.origin.clone(), (place, signed.clone()));
                    distinct.logs.push(path.clone());
                }
                Some((place, known)) if known.checkpoint().size < own.size => {
                    distinct.copies.push(known.clone());
                    *known = signed.clone();
                    if let Some(read) = distinct.logs.get_mut(*place) {
                        read.clone_from(path);
                    }
                }
                Some(_) => distinct.copies.push(signed.clone()),
            }
        }
        distinct
    }
}

/// Reads one log's records.
fn read_one(ledger: &mut Ledger, verdict: &LogVerdict) -> LogAccount {
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
        findings_more: number(verdict.wrong().count().saturating_sub(FINDINGS)),
        unsigned: 0,
        taken_over: verdict
            .remarks()
            .filter(|finding| finding.problem == Problem::TakenOver)
            .take(FINDINGS)
            .map(ToString::to_string)
            .collect(),
    };
    if account.findings.is_empty() && !verdict.is_good() {
        // So many remarks came before it that what is wrong found no room among them.
        let problem = "something is wrong with it that found no room in the list: run sealwire verify on this log alone";
        account.findings.push(problem.to_owned());
    }
    let doubt = Doubt::of(verdict);
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
        let standing = if doubt.covers(&entry) {
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
    // A log that has grown since it was verified has another.
    if let Some(checkpoint) = log.checkpoint().filter(|now| now.size == verdict.signed) {
        account.root = checkpoint.root.to_string();
    }
    account
}

/// From where on a log's records count for nothing.
#[derive(Debug, Default)]
struct Doubt {
    /// The first record that is doubtful by its place.
    from: Option<u64>,
    /// The last moment that is certain.
    since: Option<OffsetDateTime>,
}

impl Doubt {
    fn of(verdict: &LogVerdict) -> Self {
        let mut doubt = Self::default();
        for finding in verdict.wrong() {
            doubt.add(finding);
        }
        if !verdict.is_good() && doubt.from.is_none() {
            doubt.from = Some(0);
        }
        doubt
    }

    fn add(&mut self, finding: &Finding) {
        // A fault that is nowhere in particular is everywhere. A checkpoint speaks of what came
        // before it, of all of that when there was no good one yet.
        let from = match (finding.place.index, finding.since) {
            (None, _) => 0,
            (Some(_), None) if is_about_a_checkpoint(finding.problem) => 0,
            (Some(index), _) => index,
        };
        self.from = Some(self.from.map_or(from, |known| known.min(from)));
        if let Some(since) = finding.since {
            let since = since.get();
            self.since = Some(self.since.map_or(since, |known| known.min(since)));
        }
    }

    fn covers(&self, entry: &Entry) -> bool {
        self.from.is_some_and(|from| entry.index >= from)
            || self
                .since
                .is_some_and(|since| entry.record.time.get() > since)
    }
}

fn is_about_a_checkpoint(problem: Problem) -> bool {
    matches!(
        problem,
        Problem::Checkpoint
            | Problem::Root
            | Problem::Signature
            | Problem::UnknownSigner
            | Problem::Certificate
            | Problem::Custody
    )
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sealwire_evidence::Place;
    use sealwire_evidence::record::{Record, Timestamp};
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const BEGIN: OffsetDateTime = datetime!(2026-11-25 00:00 UTC);

    fn finding(problem: Problem, index: Option<u64>, since: Option<i64>) -> Finding {
        Finding {
            problem,
            place: Place {
                index,
                ..Place::default()
            },
            since: since.map(|minutes| Timestamp::new(BEGIN + Duration::minutes(minutes))),
            detail: String::new(),
        }
    }

    /// A record a minute.
    fn doubtful(finding: &Finding) -> Vec<u64> {
        let mut doubt = Doubt::default();
        doubt.add(finding);
        (0..10)
            .filter(|index| {
                let text = format!(
                    r#"{{"schema":"sealwire.evidence/1","time":"2026-11-25T00:0{index}:00Z","pod":{{"namespace":"",
                    "name":"","uid":"","node":""}},"boot":"00000000000000000000000000000000","seq":{index},
                    "kind":"stop","cause":"drained","detail":"","open":0}}"#
                );
                let record: Record = serde_json::from_str(&text).unwrap();
                doubt.covers(&Entry {
                    index: *index,
                    signed: true,
                    record,
                })
            })
            .collect()
    }

    #[test]
    fn what_came_after_the_last_good_checkpoint_is_doubtful_when_the_next_is_not_good() {
        let found = finding(Problem::Root, Some(8), Some(4));
        assert_eq!(doubtful(&found), [5, 6, 7, 8, 9]);
        let never_good = finding(Problem::Signature, Some(8), None);
        assert_eq!(doubtful(&never_good), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_that_does_not_follow_makes_itself_and_all_after_it_doubtful() {
        let found = finding(Problem::Sequence, Some(6), Some(5));
        assert_eq!(doubtful(&found), [6, 7, 8, 9]);
        let nowhere = finding(Problem::Unreadable, None, Some(5));
        assert_eq!(doubtful(&nowhere), (0..10).collect::<Vec<_>>());
    }
}
