//! The four questions that people have, and the one answer: what the first screen of the page says.

use serde::Deserialize;

use crate::account::Account;
use crate::check::{Check, Outcome, Verdict};

/// The answer to everything.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) questions: Vec<Question>,
}

/// One of the questions.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) asks: String,
    /// What it rests on, with the answers.
    pub(crate) outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Asked {
    asks: String,
    yes_when: Vec<Check>,
}

impl Answer {
    /// Asks everything.
    ///
    /// # Errors
    /// When the rules, which are a part of this program, cannot be read.
    pub(crate) fn of(account: &Account) -> Result<Self, serde_saphyr::Error> {
        let asked: Vec<Asked> = serde_saphyr::from_str(include_str!("answer.yaml"))?;
        let questions = asked
            .into_iter()
            .map(|question| Question {
                asks: question.asks,
                outcomes: question
                    .yes_when
                    .iter()
                    .map(|check| check.ask(account))
                    .collect(),
            })
            .collect();
        Ok(Self { questions })
    }

    /// Whether the answer is yes.
    pub(crate) fn yes(&self) -> bool {
        !self.questions.is_empty()
            && self
                .questions
                .iter()
                .all(|question| question.verdict() == Verdict::Met)
    }

    /// What speaks against a yes, question by question.
    pub(crate) fn reasons(&self) -> Vec<&Outcome> {
        self.questions
            .iter()
            .flat_map(|question| question.reasons())
            .collect()
    }
}

impl Question {
    /// The worst of its checks'.
    pub(crate) fn verdict(&self) -> Verdict {
        self.outcomes
            .iter()
            .map(|outcome| outcome.verdict)
            .min()
            .unwrap_or(Verdict::Unknown)
    }

    /// What speaks against it, what is known before what is not.
    pub(crate) fn reasons(&self) -> Vec<&Outcome> {
        let mut open: Vec<&Outcome> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.verdict != Verdict::Met)
            .collect();
        open.sort_by_key(|outcome| outcome.verdict);
        open
    }
}
