//! What was declared to pass unsealed, by whom and until when, and what then did.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, DeclaredException, ExceptionUse, Policy};
use time::OffsetDateTime;

use super::Names;
use crate::account::{ExceptionAccount, ExceptionKey};

/// Declarations told apart at most.
const MOST: usize = 20_000;

/// Kinds of TLS and identities noted for each.
const MOST_NOTES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    /// What is in force in a pod, by its number and the rule's name.
    in_force: HashMap<(u32, Arc<str>), ExceptionKey>,
    all: BTreeMap<ExceptionKey, (ExceptionAccount, BTreeSet<u32>)>,
}

impl Exceptions {
    /// A pod's policy from now on.
    pub(crate) fn declared(
        &mut self,
        pod: u32,
        policy: &Policy,
        at: OffsetDateTime,
        (_, to): (OffsetDateTime, OffsetDateTime),
        names: &mut Names,
    ) {
        self.in_force.retain(|(of, _), _| *of != pod);
        for declared in &policy.exceptions {
            let key = key(declared, names);
            let rule = names.get(&declared.rule);
            self.in_force.insert((pod, rule), key.clone());
            if at < to {
                self.account(key, pod);
            }
        }
    }

    /// Connections of a window that passed by exceptions.
    pub(crate) fn used(
        &mut self,
        pod: u32,
        identity: &Arc<str>,
        uses: &[ExceptionUse],
        names: &mut Names,
    ) {
        for used in uses {
            let rule = names.get(&used.rule);
            let key = self
                .in_force
                .get(&(pod, rule.clone()))
                .cloned()
                .unwrap_or_else(|| undeclared(rule, names));
            let expires = key.expires;
            let Some(account) = self.account(key, pod) else {
                continue;
            };
            account.connections += used.connections;
            account.bytes.sent += used.bytes.sent;
            account.bytes.received += used.bytes.received;
            let (first, last) = (used.first.get(), used.last.get());
            account.used = Some(match account.used {
                Some((begin, end)) => (begin.min(first), end.max(last)),
                None => (first, last),
            });
            if expires.is_none_or(|expires| last >= expires) {
                account.late += used.connections;
            }
            if let Some(tls) = &used.observed_tls
                && account.observed_tls.len() < MOST_NOTES
            {
                account.observed_tls.insert(names.get(tls));
            }
            if account.by_identity.len() < MOST_NOTES || account.by_identity.contains_key(identity)
            {
                *account.by_identity.entry(identity.clone()).or_default() += used.connections;
            }
        }
    }

    /// Everything has come: those that end first, first.
    pub(crate) fn finish(self) -> Vec<ExceptionAccount> {
        let accounts = self.all.into_values().map(|(account, pods)| {
            let pods = u64::try_from(pods.len()).unwrap_or(u64::MAX);
            ExceptionAccount { pods, ..account }
        });
        accounts.collect()
    }

    fn account(&mut self, key: ExceptionKey, pod: u32) -> Option<&mut ExceptionAccount> {
        if self.all.len() >= MOST && !self.all.contains_key(&key) {
            return None;
        }
        let (account, pods) = self.all.entry(key.clone()).or_insert_with(|| {
            let account = ExceptionAccount {
                key,
                pods: 0,
                connections: 0,
                bytes: Bytes::default(),
                used: None,
                late: 0,
                observed_tls: BTreeSet::new(),
                by_identity: BTreeMap::new(),
            };
            (account, BTreeSet::new())
        });
        pods.insert(pod);
        Some(account)
    }
}

fn key(declared: &DeclaredException, names: &mut Names) -> ExceptionKey {
    ExceptionKey {
        expires: Some(declared.expires.get()),
        rule: names.get(&declared.rule),
        what: names.get(&declared.what),
        destination: names.get(&declared.destination),
        ports: declared.ports.clone(),
        reason: names.get(&declared.reason),
        owner: names.get(&declared.owner),
    }
}

/// Used without being among what the policy declares.
fn undeclared(rule: Arc<str>, names: &mut Names) -> ExceptionKey {
    ExceptionKey {
        expires: None,
        rule,
        what: names.get("undeclared"),
        destination: names.get(""),
        ports: Vec::new(),
        reason: names.get(""),
        owner: names.get(""),
    }
}
