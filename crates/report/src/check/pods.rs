//! Whether every pod is here, and all of its time.

use serde::Deserialize;
use time::Duration;

use super::{Outcome, met, not_met, number, some, unknown};
use crate::account::{Account, PodAccount};
use crate::words::{counted, duration, identity, minute, share};

/// See [`Check::Coverage`](super::Check::Coverage).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Coverage {
    /// Stretches up to this length are let pass.
    without_holes_over_seconds: u32,
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

impl Coverage {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        let limit = Duration::seconds(self.without_holes_over_seconds.into());
        let (alive, accounted) = (account.alive(), account.accounted());
        let figure = format!(
            "Sealed and accounted for: {} of {} that {} ran",
            share(accounted, alive),
            duration(alive),
            counted(number(account.pods.len()), "pod", "pods"),
        );
        let holed = |pod: &&PodAccount| {
            pod.losses
                .first()
                .is_some_and(|loss| loss.to - loss.from > limit)
        };
        let pods = account.pods.iter().filter(holed).count();
        let Some((pod, loss)) = account
            .pods
            .iter()
            .filter(holed)
            .find_map(|pod| Some((pod, pod.losses.first()?)))
        else {
            return met(format!("{figure}."));
        };
        not_met(format!(
            "{figure}. {} with time that is not; most in {}: {} from {}, where {}.",
            counted(number(pods), "pod", "pods"),
            pod.name(),
            duration(loss.to - loss.from),
            minute(loss.from),
            loss.why.words(),
        ))
    }
}
