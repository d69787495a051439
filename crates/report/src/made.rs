//! A report before it is written to files: the account, and what the rules make of it.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use time::Duration;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::account::Account;
use crate::answer::Answer;
use crate::framework::{Framework, Judged};
use crate::words::{day, minute};

/// Everything that files are made from.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) account: Account,
    pub(crate) answer: Answer,
    pub(crate) frameworks: Vec<Framework>,
    pub(crate) judged: Vec<Judged>,
    /// Of this program.
    pub(crate) version: &'static str,
    /// What identifiers are derived from.
    seed: Uuid,
}

/// Sealwire's namespace for UUIDs of version 5.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_5d0a_93c2_4e7e_8a55_2f0d_c41b_7e96);

impl Made {
    /// Judges an account.
    ///
    /// # Errors
    /// When the rules, which are a part of this program, cannot be read.
    pub(crate) fn of(
        account: Account,
        frameworks: Vec<Framework>,
    ) -> Result<Self, serde_saphyr::Error> {
        let answer = Answer::of(&account)?;
        let judged = frameworks
            .iter()
            .map(|framework| framework.judge(&account))
            .collect::<Result<_, _>>()?;
        let seed = seed(&account, &frameworks);
        Ok(Self {
            account,
            answer,
            frameworks,
            judged,
            version: env!("CARGO_PKG_VERSION"),
            seed,
        })
    }

    /// An identifier that is the same whenever the same report is made from the same logs.
    pub(crate) fn uuid(&self, of: &str) -> String {
        Uuid::new_v5(&self.seed, of.as_bytes()).to_string()
    }

    /// The period, as people name it.
    pub(crate) fn period_in_words(&self) -> String {
        let period = self.account.period;
        let (from, to) = (period.from(), period.to());
        let whole_days = from.time() == time::Time::MIDNIGHT && to.time() == time::Time::MIDNIGHT;
        let so_far = if self.account.as_of < to {
            format!(", up to {}", minute(self.account.as_of))
        } else {
            String::new()
        };
        let period = match whole_days {
            true if period.duration() == Duration::DAY => day(from),
            true => format!("{} to {}", day(from), day(to - Duration::DAY)),
            false => format!("{} to {}", minute(from), minute(to)),
        };
        format!("{period}{so_far}")
    }

    /// The command that makes this report again.
    pub(crate) fn command(&self) -> String {
        let mut command = format!(
            "sealwire report LOG… --trust bundle.pem --period {}",
            self.account.period
        );
        if self.account.as_of < self.account.period.to() {
            let as_of = self.account.as_of.format(&Rfc3339).unwrap_or_default();
            command.push_str(&format!(" --as-of {as_of}"));
        }
        if !self.frameworks.is_empty() {
            let names: Vec<_> = self.frameworks.iter().map(|of| of.name()).collect();
            command.push_str(&format!(" --framework {}", names.join(",")));
        }
        if self.account.listed.is_some() {
            command.push_str(" --pods pods.txt");
        }
        command.push_str(" -o DIR");
        command
    }
}

/// From the period, the state of each log and the frameworks.
fn seed(account: &Account, frameworks: &[Framework]) -> Uuid {
    let logs: BTreeMap<&str, (u64, &str)> = account
        .logs
        .iter()
        .map(|log| (log.origin.as_str(), (log.size, log.root.as_str())))
        .collect();
    let mut digest = Sha256::new();
    digest.update(format!(
        "{} {} {frameworks:?} {logs:?}",
        account.period,
        account.as_of.unix_timestamp_nanos()
    ));
    Uuid::new_v5(&NAMESPACE, &digest.finalize())
}
