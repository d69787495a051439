//! Whether every pod is here, and all of its time, and where its keys were meanwhile.

use serde::Deserialize;
use time::Duration;

use super::{Outcome, met, not_met, number, some, unknown};
use crate::account::{Account, Loss, PodAccount};
use crate::words::{counted, duration, identity, minute, share};

/// See [`Check::Coverage`](super::Check::Coverage) and
/// [`Check::CustodyAttested`](super::Check::CustodyAttested).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Stretches {
    /// Stretches up to this length are let pass, as long as they do not add up to more than a
    /// thousandth.
    without_holes_over_seconds: u32,
}

/// A pod's time, of one kind.
struct Time<'a> {
    pod: &'a PodAccount,
    all: Duration,
    good: Duration,
    /// The longest that is not good without a break, whatever the reasons.
    longest: Duration,
    losses: &'a [Loss],
}

pub(super) fn all_pods_heard(account: &Account) -> Outcome {
    if !account.missing.is_empty() {
        let all = account.missing.len();
        return not_met(format!(
            "{} on the list {} no log here: {}.",
            counted(number(all), "pod", "pods"),
            if all == 1 { "has" } else { "have" },
            some(account.missing.iter().cloned(), all)
        ));
    }
    if account.names_left_out {
        return unknown(
            "There were more workloads at the other ends than this report can keep in mind: whether there is a log of \
             each is not known."
                .to_owned(),
        );
    }
    if !account.unheard.is_empty() {
        let all = account.unheard.len();
        return not_met(format!(
            "Pods here talked to {}, of which there is no log here: {}.",
            counted(number(all), "workload", "workloads"),
            some(account.unheard.iter().map(|id| identity(id)), all)
        ));
    }
    match account.listed {
        Some(listed) => met(format!(
            "Every one of the {} on the list has a log here.",
            counted(number(listed), "pod", "pods")
        )),
        None => unknown(
            "Nobody gave a list of the pods that ran (--pods): one that talked to nobody here and left no log would not \
             be missed."
                .to_owned(),
        ),
    }
}

impl Stretches {
    /// Whether pods are accounted for all the time that they live.
    pub(super) fn of_life(&self, account: &Account) -> Outcome {
        let times: Vec<Time<'_>> = account
            .pods
            .iter()
            .map(|pod| Time {
                pod,
                all: pod.alive,
                good: pod.accounted,
                longest: pod.longest_lost,
                losses: &pod.losses,
            })
            .collect();
        let figure = format!(
            "Sealed and accounted for: {} of {} that {} ran",
            share(account.accounted(), account.alive()),
            duration(account.alive()),
            counted(number(times.len()), "pod", "pods"),
        );
        self.judge(&times, figure)
    }

    /// Whether records attest where keys were all the time that they were in use.
    pub(super) fn of_custody(&self, account: &Account) -> Outcome {
        let times: Vec<Time<'_>> = account
            .pods
            .iter()
            .map(|pod| Time {
                pod,
                all: pod.custody.needed,
                good: pod.custody.attested,
                longest: pod.custody.longest_lost,
                losses: &pod.custody.losses,
            })
            .collect();
        let (needed, attested) = (account.custody_needed(), account.custody_attested());
        if needed <= Duration::ZERO {
            return unknown("No record speaks of a key that was in use.".to_owned());
        }
        let figure = format!(
            "Where the key was is on record for {} of {} that keys were in use",
            share(attested, needed),
            duration(needed),
        );
        self.judge(&times, figure)
    }

    fn judge(&self, times: &[Time<'_>], figure: String) -> Outcome {
        let limit = Duration::seconds(self.without_holes_over_seconds.into());
        let holed: Vec<&Time<'_>> = times
            .iter()
            .filter(|time| {
                time.longest > limit || time.all - time.good > limit.max(time.all / 1000)
            })
            .collect();
        let worst = holed.iter().max_by_key(|time| time.longest);
        let Some((time, loss)) = worst.and_then(|time| Some((time, time.losses.first()?))) else {
            return met(format!("{figure}."));
        };
        not_met(format!(
            "{figure}. {} with time that is not; most at once in {}: {} from {}, where {}{}.",
            counted(number(holed.len()), "pod", "pods"),
            time.pod.name(),
            duration(loss.to - loss.from),
            minute(loss.from),
            loss.why.words(),
            if time.longest > loss.to - loss.from {
                format!(" ({} without a break)", duration(time.longest))
            } else {
                String::new()
            }
        ))
    }
}
