//! `sealwire report` and `sealwire evidence export`: what logs come to, for people, auditors' tools
//! and engines that search them.

mod sign;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sealwire_evidence::Trust;
use sealwire_report::{Expected, Format, Framework, Options as ReportOptions, Period, Progress};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::sign::Sign;
use crate::screen::{say, say_of_records};
use crate::verify::{bundle, find};

/// `sealwire report …`
#[derive(Args)]
pub(crate) struct Report {
    /// Logs, or directories with logs in them.
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// PEM file with the CA certificates that the signers' chains must end in. Have it from the
    /// mesh's owner, not from whoever sent the logs.
    #[arg(long, value_name = "BUNDLE")]
    trust: PathBuf,
    /// The time it is about, in UTC: 2026, 2026-Q4, 2026-11, 2026-11-25, or two instants with a
    /// slash between them.
    #[arg(long)]
    period: Period,
    /// Until when records count, by RFC 3339. The end of the period or now, whichever is earlier,
    /// unless said.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    as_of: Option<OffsetDateTime>,
    /// Frameworks to judge by: nist-800-53, pci-dss, dora, bsi, fedramp-20x. All, unless said.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    framework: Vec<Framework>,
    /// File with the pods that ran: a line each with namespace, name, and if known UID and end.
    /// Without it, no report can say that no pod is missing, and its answer is no.
    #[arg(long, value_name = "FILE")]
    pods: Option<PathBuf>,
    /// Where the files go.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    sign: Sign,
}

/// `sealwire evidence export …`
#[derive(Args)]
pub(crate) struct Export {
    /// Logs, or directories with logs in them.
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// parquet or jsonl.
    #[arg(long, default_value_t = Format::Parquet)]
    format: Format,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Report {
    /// Makes it; says whether the answer is yes.
    pub(crate) fn run(self) -> anyhow::Result<bool> {
        let now = OffsetDateTime::now_utc();
        let as_of = self
            .as_of
            .unwrap_or_else(|| self.period.to().min(now))
            .min(self.period.to());
        if as_of <= self.period.from() {
            bail!(
                "the period {} begins after {}: nothing can be recorded of it",
                self.period,
                as_of.format(&Rfc3339)?
            );
        }
        let trust = Trust {
            bundle: Arc::new(bundle(&self.trust).context("--trust")?),
        };
        let expected = self.pods.as_deref().map(expected).transpose()?;
        // Before the work, so that a key that is not there is known at once.
        let signer = self.sign.open()?;
        let frameworks = match self.framework.as_slice() {
            [] => Framework::ALL.to_vec(),
            named => named.to_vec(),
        };
        let options = ReportOptions {
            period: self.period,
            as_of,
            frameworks,
            expected,
        };
        let logs = find(&self.logs)?;
        let shown = Shown::new();
        let report = sealwire_report::report(&logs, &trust, options, &|at| shown.update(at))?;
        shown.end();
        let written = report.write(&self.output, signer.as_deref())?;
        if report.satisfied() {
            say("Yes: every connection was sealed, and every clause is satisfied.");
        } else {
            say(if report.is_yes() {
                "Every connection was sealed, but not every clause that was asked for is satisfied."
            } else {
                "No: it is not shown that every connection was sealed."
            });
            for reason in report.reasons() {
                say_of_records(&format!("  ✘ {reason}"));
            }
        }
        for path in written {
            say(&format!("  {}", path.display()));
        }
        Ok(report.satisfied())
    }
}

impl Export {
    /// Writes it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let logs = find(&self.logs)?;
        let shown = Shown::new();
        let rows =
            sealwire_report::export(&logs, self.format, &self.output, &|at| shown.update(at))?;
        shown.end();
        say(&format!("{rows} rows in {}", self.output.display()));
        Ok(())
    }
}

fn instant(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

fn expected(path: &Path) -> anyhow::Result<Expected> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("--pods: {} cannot be read", path.display()))?;
    Expected::parse(&text).with_context(|| format!("--pods: {}", path.display()))
}

/// How far the work is, for whoever looks.
struct Shown {
    bar: ProgressBar,
    /// The log whose name is on the screen.
    current: Mutex<PathBuf>,
}

impl Shown {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            current: Mutex::default(),
        }
    }

    fn update(&self, at: Progress<'_>) {
        let message = match at {
            Progress::Verifying { log, records, of } => {
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                if *current == log && records < of {
                    return;
                }
                log.clone_into(&mut current);
                format!("verifying {}: {records} of {of} records", log.display())
            }
            Progress::Reading { log, number, of } => {
                format!("reading {number} of {of}: {}", log.display())
            }
        };
        self.bar.set_message(message);
    }

    fn end(self) {
        self.bar.finish_and_clear();
    }
}
