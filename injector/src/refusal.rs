//! Why a pod is refused: every fault at once, each with its field and the way out.

use std::borrow::Cow;
use std::fmt;

/// Why a pod is refused; at least one fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Refusal {
    /// The faults.
    pub faults: Vec<Fault>,
}

/// One fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// What kind it is, for metrics.
    pub reason: Reason,
    /// Path of the field, such as `spec.containers[0].securityContext.runAsUser`.
    pub field: String,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Kinds of faults.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// It is no pod that Kubernetes would take.
    Malformed,
    /// It could get past the seal.
    Bypass,
    /// It has a part that only the injector makes.
    Reserved,
    /// A probe or a hook that cannot be forwarded.
    Probe,
    /// It says something about injection that makes no sense, or is not allowed.
    Choice,
    /// It is not what the injector makes of it.
    NotSealed,
    /// Where a claim leads could not be found out.
    Claim,
}

/// Collects faults.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Reason {
    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Bypass => "bypass",
            Self::Reserved => "reserved",
            Self::Probe => "probe",
            Self::Choice => "choice",
            Self::NotSealed => "not-sealed",
            Self::Claim => "claim",
        }
    }
}

impl Fault {
    pub(crate) fn new(
        reason: Reason,
        field: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            reason,
            field: field.into(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

impl Faults {
    pub(crate) fn add(
        &mut self,
        reason: Reason,
        field: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Fault::new(reason, field, problem, fix));
    }

    pub(crate) fn none_or_refuse(self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Refusal { faults: self.0 })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.faults.iter().take(MOST_SHOWN);
        for (i, fault) in shown.enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{fault}")?;
        }
        match self.faults.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (field, problem) = (shortened(&self.field), shortened(&self.problem));
        write!(f, "{field}: {problem}: {}", self.fix)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
        }
    }
}

/// As much of a text as somebody reads. What a pod has in it may be of any length.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_CHARACTERS) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

/// Most characters of a field, and of what is wrong with it, that a message shows.
const MOST_CHARACTERS: usize = 400;

/// Most faults that a message shows.
const MOST_SHOWN: usize = 10;
