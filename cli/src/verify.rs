//! `sealwire verify`: checks logs of evidence against a trust bundle, offline.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sealwire_evidence::record::Timestamp;
use sealwire_evidence::{
    Expect, Finding, LogVerdict, Progress, SignedCheckpoint, Trust, logs_in, verify,
};
use sealwire_identity::TrustBundle;
use serde_json::{Value, json};

use crate::screen::{say, say_of_records};

/// Remarks of one log that people are shown; machines get them all.
const REMARKS: usize = 10;

/// `sealwire verify …`
#[derive(Args)]
pub(crate) struct Verify {
    /// Logs, or directories that hold some.
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    /// The mesh's CA certificates, as PEM.
    #[arg(long)]
    trust: PathBuf,
    /// Every log must have signed records until then (RFC 3339), or end with a stop record. Without it, a log whose
    /// end is missing looks like one that ended there.
    #[arg(long, value_parser = moment)]
    expect_until: Option<Timestamp>,
    /// A checkpoint that was kept elsewhere: the log of its name must contain what it names.
    #[arg(long = "checkpoint")]
    checkpoints: Vec<PathBuf>,
    /// Says it as JSON, for machines.
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Does it, and says whether nothing is wrong.
    pub(crate) fn run(self) -> anyhow::Result<bool> {
        let trust = Trust {
            bundle: Arc::new(bundle(&self.trust)?),
        };
        let expect = Expect {
            until: self.expect_until,
            checkpoints: self
                .checkpoints
                .iter()
                .map(checkpoint)
                .collect::<anyhow::Result<_>>()?,
        };
        let logs = find(&self.logs)?;
        let shown = Shown::new(self.json);
        let verdict = verify(&logs, &trust, &expect, &|at| shown.update(at));
        shown.bar.finish_and_clear();
        let good = verdict.without_log.is_empty() && verdict.logs.iter().all(can_be_relied_on);
        let missing = verdict
            .without_log
            .iter()
            .map(|kept| (&kept.origin, kept.size));
        if self.json {
            let logs: Vec<Value> = verdict.logs.iter().map(as_json).collect();
            let missing = missing.map(|(origin, size)| json!({ "origin": origin, "signed": size }));
            let missing: Vec<Value> = missing.collect();
            say(&json!({ "good": good, "logs": logs, "missing": missing }).to_string());
        } else {
            verdict.logs.iter().for_each(tell);
            for (origin, size) in missing {
                say_of_records(&format!(
                    "✘ {origin}: a checkpoint of {size} records was kept, and there is no such log"
                ));
            }
            let logs = verdict.logs.iter();
            let wrong = logs.filter(|log| !can_be_relied_on(log)).count();
            say(&match wrong {
                0 if good => format!("{} logs, nothing wrong", verdict.logs.len()),
                0 => format!(
                    "{} logs, and not all that there should be",
                    verdict.logs.len()
                ),
                wrong => format!("{wrong} of {} logs cannot be relied on", verdict.logs.len()),
            });
        }
        Ok(good)
    }
}

/// Whether nothing is wrong with a log, and it shows something: without a checkpoint anybody may have
/// written it.
fn can_be_relied_on(log: &LogVerdict) -> bool {
    log.is_good() && log.checkpoints > 0
}

/// Reads a trust bundle.
pub(crate) fn bundle(path: &PathBuf) -> anyhow::Result<TrustBundle> {
    let pem = fs::read(path).with_context(|| format!("{}", path.display()))?;
    TrustBundle::from_pem(&pem).with_context(|| format!("{}", path.display()))
}

/// Every log that was named, or is in a directory that was.
pub(crate) fn find(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for path in named {
        let found = logs_in(path)?;
        if found.is_empty() {
            bail!(
                "{}: there is no log in it: a log is a directory with a file `checkpoint` or `journal`",
                path.display()
            );
        }
        logs.extend(found);
    }
    logs.dedup();
    Ok(logs)
}

fn checkpoint(path: &PathBuf) -> anyhow::Result<SignedCheckpoint> {
    let note = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    SignedCheckpoint::read(&note).with_context(|| format!("{}", path.display()))
}

fn moment(text: &str) -> Result<Timestamp, &'static str> {
    text.parse()
}

fn tell(log: &LogVerdict) {
    let name = log.origin.as_deref().unwrap_or("no name");
    let mark = if can_be_relied_on(log) { "✔" } else { "✘" };
    say_of_records(&format!("{mark} {} ({name})", log.directory.display()));
    if let (Some(from), Some(to)) = (log.from, log.to) {
        say_of_records(&format!(
            "    {} records in {} runs, {from} to {to}; {} checkpoints verified",
            log.records, log.boots, log.checkpoints
        ));
    }
    for identity in &log.identities {
        say_of_records(&format!("    signed as {identity}"));
    }
    if log.is_good() && log.checkpoints == 0 {
        say("    ✘ no checkpoint is signed yet: nothing shows who wrote this");
    }
    for finding in log.wrong() {
        say_of_records(&format!("    ✘ {finding}"));
    }
    for finding in log.remarks().take(REMARKS) {
        say_of_records(&format!("    · {finding}"));
    }
    let more = log.remarks().count().saturating_sub(REMARKS);
    if more > 0 {
        say_of_records(&format!("    · {more} more remarks: see --json"));
    }
    if log.more > 0 {
        say_of_records(&format!("    {} more findings are not listed", log.more));
    }
}

fn as_json(log: &LogVerdict) -> Value {
    let list = |findings: &mut dyn Iterator<Item = &Finding>| -> Vec<Value> {
        findings.map(|finding| json!(finding)).collect()
    };
    json!({
        "directory": log.directory,
        "origin": log.origin,
        "pod": log.pod,
        "good": can_be_relied_on(log),
        "first": log.first,
        "records": log.records,
        "signed": log.signed,
        "boots": log.boots,
        "checkpoints": log.checkpoints,
        "identities": log.identities,
        "from": log.from,
        "to": log.to,
        "signedTo": log.signed_to,
        "wrong": list(&mut log.wrong()),
        "remarks": list(&mut log.remarks()),
        "more": log.more,
    })
}

/// How far it is, unless nobody looks.
struct Shown {
    bar: ProgressBar,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    fn update(&self, at: Progress<'_>) {
        let log = at.log.display();
        self.bar
            .set_message(format!("{log}: {} of {} records", at.records, at.of));
        self.bar.tick();
    }
}
