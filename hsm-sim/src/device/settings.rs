//! The settings of a device, `device.yaml`: what it does to calls. For whoever sets it up, and for
//! the module, which follows every change.
//!
//! A rule applies to the functions and to the token it names; without functions to those said at
//! the rule's kind, without a token to all.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::script::Script;
use super::span::Span;
use crate::pkcs11::{Function, Reach, Rv};

/// What a device does to calls.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// The real module; SoftHSM where it is usually installed. Read when a process loads the
    /// simulator, and not again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<PathBuf>,
    /// Which operations are logged.
    pub log: LogLevel,
    /// How long operations take. Every rule that matches applies, one after another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<Latency>,
    /// Limits on sessions. The first rule that matches a token applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionLimits>,
    /// Limits on wrong PINs. The first rule that matches a token applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<PinLimit>,
    /// Errors that are made up. The first rule that matches and fires decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Calls that hang until the rule is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<Frozen>,
    /// Tokens that are taken out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Removed>,
    /// What happens by itself as time goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
}

/// Which operations are logged. Violations always are.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// None.
    Off,
    /// Those that did not answer CKR_OK.
    #[default]
    Errors,
    /// All.
    All,
}

/// How long operations take. Without functions it applies to those that use or make a key
/// ([`Reach::Key`]), and never to a call that only asks for a length.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Latency {
    /// Its name, unique among the rules; given by the device where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The functions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
    /// The token, by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How long one takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Distribution>,
    /// How many begin in a second, over all processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// How many may begin at once before `per-second` holds them back; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How many the device works on at once, over all processes; the others wait in order of
    /// arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
}

/// How a time is spread.
#[derive(Copy, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Distribution {
    /// Always the same.
    Fixed(Span),
    /// Normal, never below zero.
    Normal {
        /// The mean.
        mean: Span,
        /// The standard deviation.
        deviation: Span,
    },
    /// Log-normal: few take very much longer than most.
    LongTailed {
        /// Half take longer than this.
        median: Span,
        /// One in a hundred takes longer than this.
        p99: Span,
    },
}

/// Limits on the sessions that a process has with a token.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SessionLimits {
    /// The token, by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How many may be open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// What C_OpenSession answers beyond.
    pub full: Rv,
    /// What CK_TOKEN_INFO says the limits are.
    pub shown: Shown,
    /// How long a session may go unused before it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
}

/// What ulMaxSessionCount and ulMaxRwSessionCount of a token say.
#[derive(Copy, Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// What the real module says.
    #[default]
    Forwarded,
    /// CK_UNAVAILABLE_INFORMATION.
    Unavailable,
    /// CK_EFFECTIVELY_INFINITE.
    Infinite,
    /// A number.
    Number(u32),
}

/// How many wrong PINs lock a token's user PIN.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinLimit {
    /// The token, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Wrong PINs until it is locked.
    pub tries: u32,
}

/// An error that is made up. Without functions it applies to all that reach the device, and never
/// to a call that only asks for a length.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// Its name, unique among the rules; given by the device where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The functions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
    /// The token, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What is answered.
    pub rv: Rv,
    /// For how many calls, over all processes; for all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// In what share of the calls, from 0 to 1; in all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// How long the call takes to fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}

/// Calls that hang. Without functions it applies to all that reach the device.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Frozen {
    /// The functions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
    /// The token, by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A token that is taken out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Removed {
    /// The token, by label; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// How many rules there may be of one kind.
const MOST_RULES: usize = 32;
/// How many places a device may have.
pub(crate) const MOST_PLACES: u32 = 64;

impl Settings {
    /// Reads settings, checks them and gives every rule a name.
    ///
    /// # Errors
    /// A text with the field, the value and the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            // An editor that empties a file before it writes it means nothing by that.
            return Err("the file is empty: write at least `log: errors`".to_owned());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let mut settings: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| error.to_string())?;
        settings.name_rules(|kind, index| format!("{kind}-at-{index}"));
        settings.check()?;
        Ok(settings)
    }

    /// Gives a name to every rule that has none.
    pub(crate) fn name_rules(&mut self, mut name: impl FnMut(&str, usize) -> String) {
        for (index, rule) in self.latency.iter_mut().enumerate() {
            rule.name.get_or_insert_with(|| name("latency", index));
        }
        for (index, rule) in self.faults.iter_mut().enumerate() {
            rule.name.get_or_insert_with(|| name("fault", index));
        }
        if let Some(script) = &mut self.script {
            script.name_rules(name);
        }
    }

    /// Looks for values that make no sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        let rules = self.faults.iter().map(|rule| &rule.name);
        for name in rules.chain(self.latency.iter().map(|rule| &rule.name)) {
            if name.is_some() && !names.insert(name) {
                let name = name.as_deref().unwrap_or_default();
                return Err(format!("two rules are named {name:?}: choose another name"));
            }
        }
        if self.faults.len().max(self.latency.len()) > MOST_RULES {
            return Err(format!(
                "more than {MOST_RULES} rules of one kind: take some out"
            ));
        }
        self.latency.iter().try_for_each(Latency::check)?;
        self.faults.iter().try_for_each(Fault::check)?;
        for limits in &self.sessions {
            check_failure("sessions.full", limits.full)?;
        }
        for pin in &self.pins {
            if pin.tries == 0 {
                return Err("pins.tries is 0: at least 1".to_owned());
            }
        }
        self.script.iter().try_for_each(Script::check)
    }

    /// The limits on the sessions with a token.
    pub(crate) fn session_limits(&self, token: &str) -> Option<&SessionLimits> {
        let matches = |rule: &&SessionLimits| is_token(&rule.token, Some(token));
        self.sessions.iter().find(matches)
    }

    /// How many wrong PINs lock a token.
    pub(crate) fn pin_tries(&self, token: &str) -> Option<u32> {
        let matches = |rule: &&PinLimit| is_token(&rule.token, Some(token));
        self.pins.iter().find(matches).map(|rule| rule.tries)
    }

    /// Whether a token is taken out.
    pub(crate) fn is_removed(&self, token: &str) -> bool {
        let matches = |rule: &Removed| is_token(&rule.token, Some(token));
        self.removed.iter().any(matches)
    }

    /// Whether a call hangs.
    pub(crate) fn is_frozen(&self, function: Function, token: Option<&str>) -> bool {
        self.frozen.iter().any(|rule| {
            is_token(&rule.token, token) && is_function(&rule.functions, function, REACHES_DEVICE)
        })
    }
}

impl Latency {
    /// Whether it applies to a call.
    pub(crate) fn matches(&self, function: Function, token: Option<&str>) -> bool {
        is_token(&self.token, token) && is_function(&self.functions, function, &[Reach::Key])
    }

    fn check(&self) -> Result<(), String> {
        let name = self.name.as_deref().unwrap_or("latency");
        if self
            .per_second
            .is_some_and(|rate| !(0.001..=1e6).contains(&rate))
        {
            return Err(format!(
                "{name}: per-second is out of range: from 0.001 to 1000000"
            ));
        }
        if self.burst == Some(0) || (self.burst.is_some() && self.per_second.is_none()) {
            return Err(format!(
                "{name}: burst goes with per-second and is at least 1"
            ));
        }
        if let Some(parallel) = self.parallel {
            if !(1..=MOST_PLACES).contains(&parallel) {
                return Err(format!(
                    "{name}: parallel is {parallel}: from 1 to {MOST_PLACES}"
                ));
            }
            if self.time.is_none() {
                return Err(format!(
                    "{name}: parallel needs a time that an operation holds its place: add time"
                ));
            }
        }
        match self.time {
            Some(Distribution::LongTailed { median, p99 })
                if median.0.is_zero() || p99 <= median =>
            {
                Err(format!(
                    "{name}: long-tailed needs 0 < median < p99, not {median} and {p99}"
                ))
            }
            None if self.per_second.is_none() => {
                Err(format!("{name}: says nothing: give time or per-second"))
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    /// A fault of all calls of some functions; of all that reach the device when none is named.
    pub fn new(functions: &[Function], rv: Rv) -> Self {
        Self {
            name: None,
            functions: functions.to_vec(),
            token: None,
            rv,
            next: None,
            probability: None,
            after: None,
        }
    }

    /// The same, for the next calls only.
    pub fn next(self, calls: u64) -> Self {
        Self {
            next: Some(calls),
            ..self
        }
    }

    /// Whether it applies to a call.
    pub(crate) fn matches(&self, function: Function, token: Option<&str>) -> bool {
        is_token(&self.token, token) && is_function(&self.functions, function, REACHES_DEVICE)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let name = self.name.as_deref().unwrap_or("fault");
        check_failure(name, self.rv)?;
        match self.probability {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(format!("{name}: probability is {share}: from 0 to 1"))
            }
            _ => Ok(()),
        }
    }
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            token: None,
            max: None,
            full: Rv(cryptoki_sys::CKR_SESSION_COUNT),
            shown: Shown::default(),
            idle: None,
        }
    }
}

const REACHES_DEVICE: &[Reach] = &[Reach::Device, Reach::Key];

fn is_token(rule: &Option<String>, token: Option<&str>) -> bool {
    rule.is_none() || rule.as_deref() == token
}

fn is_function(named: &[Function], function: Function, otherwise: &[Reach]) -> bool {
    if named.is_empty() {
        otherwise.contains(&function.reach())
    } else {
        named.contains(&function)
    }
}

fn check_failure(field: &str, rv: Rv) -> Result<(), String> {
    if rv == Rv::OK {
        return Err(format!("{field}: CKR_OK is no failure: name another value"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
