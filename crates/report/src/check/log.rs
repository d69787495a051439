//! Whether the logs are as they were written.

use super::{Outcome, met, not_met, number, unknown};
use crate::account::{Account, LogAccount};
use crate::words::counted;

pub(super) fn log_intact(account: &Account) -> Outcome {
    if account.logs.is_empty() {
        return unknown("There is no log.".to_owned());
    }
    let findings = account
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
    // One that has just begun has none yet, and no record either that is to be signed by now.
    let never = |log: &&LogAccount| log.checkpoints == 0 && log.unsigned > 0;
    if let Some(log) = account.logs.iter().find(never) {
        return unknown(format!("No checkpoint is signed in the log {}.", log.name));
    }
    let signed = account.logs.iter().filter(|log| log.checkpoints > 0);
    let logs = number(signed.clone().count());
    let checkpoints = signed.map(|log| log.checkpoints).sum();
    if checkpoints == 0 {
        return unknown("No checkpoint is signed in these logs.".to_owned());
    }
    met(format!(
        "{} verified: {}, each signed by the workload's own key under a certificate of the trust bundle.",
        counted(logs, "log", "logs"),
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
    met("A signed checkpoint covers every record that is not of the last five minutes.".to_owned())
}
