//! A script: what happens to a device as time goes on, from when it was set. Nobody has to be there:
//! whichever process next makes a call works out what has happened by then.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::settings::{Fault, Frozen, Removed, Settings};
use super::span::Span;
use crate::pkcs11::Rv;

/// What happens as time goes on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Script {
    /// When it was set, in milliseconds since 1970; the device fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// The steps, in order of time.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// How long after the script was set.
    pub after: Span,
    /// What happens.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What can happen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Calls hang.
    Freeze,
    /// They go on.
    Thaw,
    /// A fault begins.
    Fault(Fault),
    /// Nothing is frozen, taken out or at fault any more.
    Heal,
    /// All tokens are taken out.
    Remove,
    /// They are put back.
    Insert,
    /// The device restarts.
    Restart,
    /// All logins are gone.
    LogOut,
    /// All tokens are hidden from processes that have initialised the module before.
    Hide,
    /// The module answers this until it is initialised anew.
    Break(Rv),
}

/// What happens at one moment, rather than from then on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// Sessions and logins are gone; their first call may answer a value of its own.
    Restart(Option<Rv>),
    /// Logins are gone.
    LogOut,
    /// Tokens are hidden until the module is initialised anew.
    Hide,
    /// The module is broken until it is initialised anew.
    Break(Rv),
}

const MOST_STEPS: usize = 1000;

impl Script {
    /// The events of the steps up to a moment, in order.
    pub(crate) fn events(&self, now: SystemTime) -> Vec<Event> {
        self.due(now)
            .filter_map(|step| match step.action {
                Action::Restart | Action::Remove => Some(Event::Restart(None)),
                Action::LogOut => Some(Event::LogOut),
                Action::Hide => Some(Event::Hide),
                Action::Break(rv) => Some(Event::Break(rv)),
                _ => None,
            })
            .collect()
    }

    /// Settings as the steps up to a moment have left them.
    pub(crate) fn apply(&self, settings: &Settings, now: SystemTime) -> Settings {
        let mut settings = settings.clone();
        for step in self.due(now) {
            match &step.action {
                Action::Freeze => settings.frozen.push(Frozen::default()),
                Action::Thaw => settings.frozen.clear(),
                Action::Fault(fault) => settings.faults.push(fault.clone()),
                Action::Heal => settings.heal(),
                Action::Remove => settings.removed.push(Removed::default()),
                Action::Insert => settings.removed.clear(),
                Action::Restart | Action::LogOut | Action::Hide | Action::Break(_) => {}
            }
        }
        settings
    }

    /// When the next step after a moment is due.
    pub(crate) fn next(&self, now: SystemTime) -> Option<SystemTime> {
        let steps = self.steps.iter().map(|step| self.start() + step.after.0);
        steps.filter(|due| *due > now).min()
    }

    /// The faults that it brings.
    pub(super) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Fault(fault) => Some(fault),
            _ => None,
        })
    }

    pub(crate) fn name_rules(&mut self, mut name: impl FnMut(&str, usize) -> String) {
        for (index, step) in self.steps.iter_mut().enumerate() {
            if let Action::Fault(fault) = &mut step.action {
                fault.name.get_or_insert_with(|| name("step", index));
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.steps.len() > MOST_STEPS {
            return Err(format!(
                "script: more than {MOST_STEPS} steps: take some out"
            ));
        }
        if !self.steps.is_sorted_by_key(|step| step.after) {
            return Err("script: the steps are not in order of `after`: sort them".to_owned());
        }
        self.steps.iter().try_for_each(|step| match &step.action {
            Action::Fault(fault) => fault.check(),
            Action::Break(Rv::OK) => Err("script: CKR_OK breaks nothing".to_owned()),
            _ => Ok(()),
        })
    }

    fn due(&self, now: SystemTime) -> impl Iterator<Item = &Step> {
        let passed = now.duration_since(self.start()).ok();
        self.steps
            .iter()
            .filter(move |step| passed.is_some_and(|passed| step.after.0 <= passed))
    }

    fn start(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.started.unwrap_or_default())
    }
}

impl Settings {
    /// Takes out all that is wrong with the device. What limits it or makes it slow stays.
    pub(crate) fn heal(&mut self) {
        self.faults.clear();
        self.frozen.clear();
        self.removed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(steps: &[(u64, Action)]) -> Script {
        let step = |(after, action): &(u64, Action)| Step {
            after: Span::millis(*after),
            action: action.clone(),
        };
        Script {
            started: Some(1_000),
            steps: steps.iter().map(step).collect(),
        }
    }

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000 + milliseconds)
    }

    #[test]
    fn a_script_leaves_the_settings_as_its_steps_so_far_have_made_them() {
        let script = script(&[
            (10, Action::Freeze),
            (20, Action::Thaw),
            (30, Action::Remove),
            (40, Action::Heal),
        ]);
        let settings = Settings::default();
        assert_eq!(script.apply(&settings, at(9)), settings);
        assert_eq!(script.apply(&settings, at(10)).frozen.len(), 1);
        assert_eq!(script.apply(&settings, at(25)), settings);
        assert_eq!(script.apply(&settings, at(35)).removed.len(), 1);
        assert_eq!(script.apply(&settings, at(99)), settings);
    }

    #[test]
    fn a_script_says_when_it_goes_on_and_when_it_is_over() {
        let script = script(&[(10, Action::Restart), (20, Action::LogOut)]);
        assert_eq!(script.next(at(0)), Some(at(10)));
        assert_eq!(script.next(at(10)), Some(at(20)));
        assert_eq!(script.next(at(20)), None);
        assert_eq!(script.events(at(15)), [Event::Restart(None)]);
        assert_eq!(script.events(at(20)), [Event::Restart(None), Event::LogOut]);
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        let backwards = script(&[(20, Action::Thaw), (10, Action::Freeze)]);
        assert!(backwards.check().unwrap_err().contains("sort them"));
    }
}
