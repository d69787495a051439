//! How connections were sealed, and whether it is known with whom.

use std::collections::BTreeSet;

use serde::Deserialize;
use time::Duration;

use super::{Outcome, met, not_met, number, unknown};
use crate::account::{self, Account, FlowAccount};
use crate::words::{counted, identity};

/// See [`Check::Protocols`](super::Check::Protocols); what is left out is not asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Protocols {
    versions: Option<BTreeSet<String>>,
    suites: Option<BTreeSet<String>>,
    groups: Option<BTreeSet<String>>,
}

impl Protocols {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        if let Some(unknown) = nothing_shown(account) {
            return unknown;
        }
        if account.flows.is_empty() {
            return met(
                "No connection was sealed in this time, so none by anything else.".to_owned(),
            );
        }
        let outside = |flow: &&FlowAccount| {
            let refused = |allowed: &Option<BTreeSet<String>>, found: &str| {
                allowed
                    .as_ref()
                    .is_some_and(|allowed| !allowed.contains(found))
            };
            refused(&self.versions, &flow.key.version)
                || refused(&self.suites, &flow.key.suite)
                || refused(&self.groups, &flow.key.group)
        };
        let opened = account::total(account.flows.iter().filter(outside).map(used));
        if let Some(flow) = account.flows.iter().find(outside) {
            return not_met(format!(
                "{} by other means, such as {}, {}, {} between {} and {}.",
                counted(opened, "connection", "connections"),
                flow.key.version,
                flow.key.suite,
                flow.key.group,
                identity(&flow.key.identity),
                flow.key
                    .peer
                    .as_deref()
                    .map_or_else(|| "others".to_owned(), identity),
            ));
        }
        met(format!(
            "Every connection: {}.",
            [
                (&self.versions, names(account, |flow| &flow.key.version)),
                (&self.suites, names(account, |flow| &flow.key.suite)),
                (&self.groups, names(account, |flow| &flow.key.group)),
            ]
            .into_iter()
            .filter(|(asked, _)| asked.is_some())
            .map(|(_, found)| found)
            .collect::<Vec<_>>()
            .join("; ")
        ))
    }
}

/// Connections of a row; one that was open all the time still is one.
fn used(flow: &FlowAccount) -> u64 {
    flow.opened.max(flow.closed).max(1)
}

fn names<'a>(account: &'a Account, of: impl Fn(&'a FlowAccount) -> &'a str) -> String {
    let names: BTreeSet<&str> = account.flows.iter().map(of).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Where nothing is accounted for, no connection on record means nothing.
fn nothing_shown(account: &Account) -> Option<Outcome> {
    let nothing = account.flows.is_empty() && account.accounted() <= Duration::ZERO;
    nothing.then(|| {
        unknown("Nothing that is signed and in order says which connections there were.".to_owned())
    })
}

pub(super) fn peers_known(account: &Account) -> Outcome {
    if let Some(unknown) = nothing_shown(account) {
        return unknown;
    }
    let nobody = account.flows.iter().filter(|flow| flow.key.peer.is_none());
    let nobody = account::total(nobody.map(used));
    if nobody > 0 {
        return unknown(format!(
            "For {} the records do not say who was at the other end: there were too many peers in a window to tell \
             them apart.",
            counted(nobody, "connection", "connections")
        ));
    }
    let peers: BTreeSet<&str> = account
        .flows
        .iter()
        .filter_map(|flow| flow.key.peer.as_deref())
        .collect();
    met(format!(
        "Every connection has a verified identity at both ends; {} at the other end.",
        counted(number(peers.len()), "workload was", "workloads were")
    ))
}
