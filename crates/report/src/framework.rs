//! The frameworks that a report can answer to. Each is one file: the clause, what it asks in our
//! own words, the records it rests on, and the checks that have to be met. Rules are data, judged
//! by [`Check`].

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::account::Account;
use crate::check::{Check, Outcome, Verdict};

/// A framework that there is a mapping for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Framework {
    /// NIST SP 800-53 revision 5.
    Nist80053,
    /// PCI DSS 4.0.1.
    PciDss,
    /// The delegated regulation 2024/1774 under DORA.
    Dora,
    /// BSI TR-02102-2.
    Bsi,
    /// FedRAMP 20x.
    Fedramp20x,
}

/// A framework's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Mapping {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) clauses: Vec<Clause>,
}

/// A clause of a framework.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Clause {
    /// As the framework numbers it.
    pub(crate) clause: String,
    /// Identifier of the control in OSCAL.
    pub(crate) control: String,
    /// Identifier of the objective in OSCAL.
    pub(crate) objective: String,
    /// What it asks of Sealwire, in our words.
    pub(crate) topic: String,
    /// Kinds of records that speak to it.
    pub(crate) rests_on: Vec<String>,
    satisfied_when: Vec<Check>,
}

/// A framework, judged.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) mapping: Mapping,
    /// One for each clause, in order.
    pub(crate) findings: Vec<Finding>,
}

/// A clause, judged.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) satisfied: bool,
    /// Every check's name and answer, in the file's order.
    pub(crate) outcomes: Vec<(&'static str, Outcome)>,
}

/// There is no mapping of that name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no framework {0:?}: nist-800-53, pci-dss, dora, bsi and fedramp-20x are known")]
pub struct UnknownFramework(String);

impl Framework {
    /// Every one that there is.
    pub const ALL: [Self; 5] = [
        Self::Nist80053,
        Self::PciDss,
        Self::Dora,
        Self::Bsi,
        Self::Fedramp20x,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nist80053 => "nist-800-53",
            Self::PciDss => "pci-dss",
            Self::Dora => "dora",
            Self::Bsi => "bsi",
            Self::Fedramp20x => "fedramp-20x",
        }
    }

    /// Judges an account by it.
    ///
    /// # Errors
    /// When its file, which is a part of this program, cannot be read.
    pub(crate) fn judge(self, account: &Account) -> Result<Judged, serde_saphyr::Error> {
        let mapping: Mapping = serde_saphyr::from_str(self.file())?;
        let findings = mapping
            .clauses
            .iter()
            .map(|clause| clause.judge(account))
            .collect();
        Ok(Judged { mapping, findings })
    }

    fn file(self) -> &'static str {
        match self {
            Self::Nist80053 => include_str!("framework/nist-800-53.yaml"),
            Self::PciDss => include_str!("framework/pci-dss.yaml"),
            Self::Dora => include_str!("framework/dora.yaml"),
            Self::Bsi => include_str!("framework/bsi.yaml"),
            Self::Fedramp20x => include_str!("framework/fedramp-20x.yaml"),
        }
    }
}

impl Clause {
    fn judge(&self, account: &Account) -> Finding {
        let outcomes: Vec<_> = self
            .satisfied_when
            .iter()
            .map(|check| (check.name(), check.ask(account)))
            .collect();
        Finding {
            // Nothing asked is nothing shown.
            satisfied: !outcomes.is_empty()
                && outcomes
                    .iter()
                    .all(|(_, outcome)| outcome.verdict == Verdict::Met),
            outcomes,
        }
    }
}

impl Finding {
    /// Why it is not satisfied, what is known to be wrong before what is not known.
    pub(crate) fn reasons(&self) -> Vec<&str> {
        let mut open: Vec<&Outcome> = self
            .outcomes
            .iter()
            .map(|(_, outcome)| outcome)
            .filter(|outcome| outcome.verdict != Verdict::Met)
            .collect();
        open.sort_by_key(|outcome| outcome.verdict);
        open.into_iter()
            .map(|outcome| outcome.says.as_str())
            .collect()
    }

    /// Every answer, for whoever wants to see what a satisfied clause rests on.
    pub(crate) fn answers(&self) -> Vec<&str> {
        self.outcomes
            .iter()
            .map(|(_, outcome)| outcome.says.as_str())
            .collect()
    }
}

impl FromStr for Framework {
    type Err = UnknownFramework;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|framework| framework.name() == name)
            .ok_or_else(|| UnknownFramework(name.to_owned()))
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_can_be_read_and_asks_something_for_every_clause() {
        for framework in Framework::ALL {
            let mapping: Mapping = serde_saphyr::from_str(framework.file()).unwrap();
            assert_eq!(mapping.id, framework.name());
            assert_eq!(framework.name().parse::<Framework>().unwrap(), framework);
            let controls: BTreeSet<_> = mapping.clauses.iter().map(|of| &of.control).collect();
            assert_eq!(controls.len(), mapping.clauses.len(), "{framework}");
            for clause in &mapping.clauses {
                assert!(!clause.satisfied_when.is_empty(), "{}", clause.clause);
                assert!(!clause.rests_on.is_empty(), "{}", clause.clause);
            }
        }
    }

    #[test]
    fn a_misspelt_rule_is_refused_rather_than_left_out() {
        let file = Framework::Dora
            .file()
            .replace("nothing-unaccounted", "nothing-unacounted");
        assert!(serde_saphyr::from_str::<Mapping>(&file).is_err());
    }
}
