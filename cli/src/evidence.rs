//! `sealwire evidence`: what a log says, for people. Records are shown as they are proven to be in
//! the tree of the newest checkpoint; whose signature that is, `sealwire verify` says.

mod summary;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use sealwire_evidence::{Entry, Log};

use self::summary::summary;
use crate::report::Export;
use crate::screen::{say, say_of_records};

/// How often a log is looked at for more.
const INTERVAL: Duration = Duration::from_millis(500);

/// `sealwire evidence …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Shows the records of a log, a line each.
    Show(Show),
    /// Shows the last records of a log, and those that come.
    Tail(Tail),
    /// Prints the JSON Schema of a record.
    Schema,
    /// Writes the records of logs into one table, for engines that search a great many.
    Export(Export),
    /// Prints the columns of that table.
    Columns,
}

/// Options of `sealwire evidence show`.
#[derive(Args)]
pub(crate) struct Show {
    /// The log.
    log: PathBuf,
    /// The first record to show.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Records of this kind alone: start, stop, policy, window, refusal, custody, certificate, gap or retention.
    #[arg(long)]
    kind: Option<String>,
    /// Shows whole records, as canonical JSON.
    #[arg(long)]
    json: bool,
    /// Shows the checkpoints that the log has, instead of records: signed notes, each followed by an empty line.
    #[arg(long, conflicts_with_all = ["kind", "json"])]
    checkpoints: bool,
}

/// Options of `sealwire evidence tail`.
#[derive(Args)]
pub(crate) struct Tail {
    /// The log.
    log: PathBuf,
    /// How many records to begin with.
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: u64,
    /// Goes on until it is ended.
    #[arg(short, long)]
    follow: bool,
    /// Shows whole records, as canonical JSON.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Show(show) => show.run(),
            Self::Tail(tail) => tail.run(),
            Self::Schema => {
                say(&serde_json::to_string_pretty(&sealwire_evidence::schema())?);
                Ok(())
            }
            Self::Export(export) => export.run(),
            Self::Columns => {
                say(sealwire_report::export_columns().trim_end());
                Ok(())
            }
        }
    }
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        let log = Log::open(&self.log)?;
        for entry in log.records_from(self.from)? {
            let entry = entry?;
            if self.checkpoints {
                if let Some(note) = &entry.record.checkpoint {
                    say(note);
                }
            } else if self
                .kind
                .as_ref()
                .is_none_or(|kind| kind == entry.record.event.kind())
            {
                show(&entry, self.json)?;
            }
        }
        if self.checkpoints
            && let Some(newest) = log.signed()
        {
            say(&newest.to_string());
        }
        Ok(())
    }
}

impl Tail {
    fn run(self) -> anyhow::Result<()> {
        let mut next = Log::open(&self.log)?.len()?.saturating_sub(self.lines);
        loop {
            let log = Log::open(&self.log)?;
            for entry in log.records_from(next)? {
                // The writer may have moved records from journal to bundle meanwhile: the next look
                // shows them in their place.
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(_) if self.follow => break,
                    Err(error) => return Err(error.into()),
                };
                show(&entry, self.json)?;
                next = entry.index + 1;
            }
            if !self.follow {
                return Ok(());
            }
            thread::park_timeout(INTERVAL);
        }
    }
}

fn show(entry: &Entry, json: bool) -> anyhow::Result<()> {
    if json {
        say(&String::from_utf8(entry.record.encode()?)?);
    } else {
        let mark = if entry.signed { ' ' } else { '*' };
        let record = &entry.record;
        say_of_records(&format!(
            "{:>8}{mark} {} {:<11} {}",
            entry.index,
            record.time,
            record.event.kind(),
            summary(record)
        ));
    }
    Ok(())
}
