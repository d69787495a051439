//! What was declared to pass unsealed, by whom and until when, and what then did.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sealwire_evidence::record::{Bytes, DeclaredException, ExceptionUse, Policy};
use time::OffsetDateTime;

use super::Names;
use crate::account::{ExceptionAccount, ExceptionKey, add};

/// Declarations told apart at most.
const MOST: usize = 20_000;

/// Kinds of TLS and identities noted for each.
const MOST_NOTES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    /// What is in force in a pod, by its number.
    in_force: HashMap<u32, InForce>,
    all: BTreeMap<ExceptionKey, (ExceptionAccount, BTreeSet<u32>)>,
    /// Declared ones that found no room, in the records or here.
    unlisted: u64,
}

/// What a pod's policy declares, by the rules' names.
#[derive(Debug, Default)]
struct InForce {
    now: HashMap<Arc<str>, ExceptionKey>,
    /// What was in force before within the window that is still open: what passed by it then is
    /// told at that window's end.
    before: HashMap<Arc<str>, ExceptionKey>,
    /// How many more are declared than are listed.
    more: u64,
}

impl Exceptions {
    /// A pod's policy from now on.
    pub(crate) fn declared(
        &mut self,
        pod: u32,
        policy: &Policy,
        at: OffsetDateTime,
        (from, to): (OffsetDateTime, OffsetDateTime),
        names: &mut Names,
    ) {
        let mut in_force = self.in_force.remove(&pod).unwrap_or_default();
        // What is replaced before the period begins was never in force in it.
        if at > from {
            self.were_in_force(pod, &in_force);
        }
        in_force.before.extend(in_force.now.drain());
        in_force.more = policy.exceptions_more;
        for declared in &policy.exceptions {
            in_force
                .now
                .insert(names.get(&declared.rule), key(declared, names));
        }
        if (from..to).contains(&at) {
            self.were_in_force(pod, &in_force);
        }
        self.in_force.insert(pod, in_force);
    }

    /// A window of a pod has ended, and all of it has come. `within` says that it is one of the
    /// period.
    pub(crate) fn window_ended(&mut self, pod: u32, within: bool) {
        let Some(mut in_force) = self.in_force.remove(&pod) else {
            return;
        };
        in_force.before.clear();
        if within {
            self.were_in_force(pod, &in_force);
        }
        self.in_force.insert(pod, in_force);
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
            let key = self.key_of(pod, used, names);
            let expires = key.expires;
            let Some(account) = self.account(key, pod) else {
                continue;
            };
            let moved = used.bytes.sent.saturating_add(used.bytes.received);
            add(&mut account.connections, used.connections);
            add(&mut account.bytes.sent, used.bytes.sent);
            add(&mut account.bytes.received, used.bytes.received);
            let (first, last) = (used.first.get(), used.last.get());
            account.used = Some(match account.used {
                Some((begin, end)) => (begin.min(first), end.max(last)),
                None => (first, last),
            });
            if expires.is_none_or(|expires| last >= expires) {
                add(&mut account.late, used.connections);
                add(&mut account.late_bytes, moved);
            }
            if let Some(tls) = &used.observed_tls
                && account.observed_tls.len() < MOST_NOTES
            {
                account.observed_tls.insert(names.get(tls));
            }
            if account.by_identity.len() < MOST_NOTES || account.by_identity.contains_key(identity)
            {
                let connections = account.by_identity.entry(identity.clone()).or_default();
                add(connections, used.connections);
            }
        }
    }

    /// Everything has come: those that end first, first, and how many more were declared.
    pub(crate) fn finish(self) -> (Vec<ExceptionAccount>, u64) {
        let accounts = self.all.into_values().map(|(account, pods)| {
            let pods = u64::try_from(pods.len()).unwrap_or(u64::MAX);
            ExceptionAccount { pods, ..account }
        });
        (accounts.collect(), self.unlisted)
    }

    /// By which declared exception something passed.
    fn key_of(&self, pod: u32, used: &ExceptionUse, names: &mut Names) -> ExceptionKey {
        let rule = names.get(&used.rule);
        let in_force = self.in_force.get(&pod);
        let declared =
            in_force.and_then(|all| all.now.get(&rule).or_else(|| all.before.get(&rule)));
        match declared {
            Some(key) => key.clone(),
            None => undeclared(rule, names),
        }
    }

    fn were_in_force(&mut self, pod: u32, in_force: &InForce) {
        for key in in_force.now.values() {
            let known = self
                .all
                .get(key)
                .is_some_and(|(_, pods)| pods.contains(&pod));
            if !known {
                self.account(key.clone(), pod);
            }
        }
        self.unlisted = self.unlisted.max(in_force.more);
    }

    fn account(&mut self, key: ExceptionKey, pod: u32) -> Option<&mut ExceptionAccount> {
        if self.all.len() >= MOST && !self.all.contains_key(&key) {
            add(&mut self.unlisted, 1);
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
                late_bytes: 0,
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
