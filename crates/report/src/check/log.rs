//! Whether the logs are as they were written.

use super::{Outcome, met, not_met, number, unknown};
use crate::account::Account;
use crate::words::counted;

pub(super) fn log_intact(account: &Account) -> Outcome {
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

pub(super) fn windows_signed(account: &Account) -> Outcome {
    let unsigned = account.logs.iter().map(|log| log.unsigned).sum();
    if unsigned > 0 {
        return not_met(format!(
            "{} under no signed checkpoint.",
            counted(unsigned, "record is", "records are")
        ));
    }
    met("A signed checkpoint covers every record.".to_owned())
}
