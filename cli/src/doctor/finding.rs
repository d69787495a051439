//! What a doctor finds, and how it is shown.

use serde::Serialize;

/// How one thing stands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: String,
    state: State,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Warning,
    Fault,
}

impl Finding {
    pub(super) fn good(check: impl Into<String>, said: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            state: State::Good,
            said: said.into(),
            fix: None,
        }
    }

    /// What is worth knowing, and stops nothing.
    pub(super) fn warning(
        check: impl Into<String>,
        said: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Warning,
            fix: Some(fix.into()),
            ..Self::good(check, said)
        }
    }

    /// What keeps pods from being sealed, or lets one be in the open.
    pub(super) fn fault(
        check: impl Into<String>,
        said: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Fault,
            ..Self::warning(check, said, fix)
        }
    }

    pub(super) fn is_fault(&self) -> bool {
        self.state == State::Fault
    }
}

pub(super) fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.state {
            State::Good => '✔',
            State::Warning => '!',
            State::Fault => '✘',
        };
        text += &format!("  {mark} {}: {}\n", finding.check, finding.said);
        if let Some(fix) = &finding.fix {
            text += &format!("      {fix}\n");
        }
    }
    let count = |state| findings.iter().filter(|one| one.state == state).count();
    let (warnings, faults) = (count(State::Warning), count(State::Fault));
    text + &format!(
        "\n{} good, {warnings} to know, {faults} at fault",
        count(State::Good)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_shown_with_its_fix_and_all_are_counted() {
        let shown = as_text(&[
            Finding::good("clock", "in step"),
            Finding::warning("nodes", "one", "look at it"),
            Finding::fault("webhook", "silent", "start it"),
        ]);
        assert_eq!(
            shown,
            "  ✔ clock: in step\n  ! nodes: one\n      look at it\n  ✘ webhook: silent\n      start it\n\n\
             1 good, 1 to know, 1 at fault"
        );
    }
}
