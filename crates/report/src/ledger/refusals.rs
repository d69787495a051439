//! What was not let through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealwire_evidence::record::{Direction, Protocol, Refusal, RefusalCount};

use super::Names;
use crate::account::{RefusalAccount, add};

/// Kinds told apart at most; reasons are a short list.
const MOST: usize = 1_000;

type Kind = (Direction, Protocol, Arc<str>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    kinds: BTreeMap<Kind, (RefusalAccount, BTreeSet<u32>)>,
    examples: BTreeMap<Kind, String>,
}

impl Refusals {
    /// One of them, in words. Which of two logs comes first must not matter: the least is kept.
    pub(crate) fn example(&mut self, refusal: &Refusal, names: &mut Names) {
        let kind = (
            refusal.direction,
            refusal.protocol,
            names.get(&refusal.reason),
        );
        let text = words(refusal);
        if self.examples.len() >= MOST && !self.examples.contains_key(&kind) {
            return;
        }
        let kept = self.examples.entry(kind).or_insert_with(|| text.clone());
        if text < *kept {
            *kept = text;
        }
    }

    /// A window's.
    pub(crate) fn window(&mut self, pod: u32, counts: &[RefusalCount], names: &mut Names) {
        for count in counts {
            let mut reason = names.get(&count.reason);
            let mut kind = (count.direction, count.protocol, reason.clone());
            if self.kinds.len() >= MOST && !self.kinds.contains_key(&kind) {
                reason = names.get("other");
                kind.2 = reason.clone();
            }
            let (first, last) = (count.first.get(), count.last.get());
            let (account, pods) = self.kinds.entry(kind).or_insert_with(|| {
                let account = RefusalAccount {
                    direction: count.direction,
                    protocol: count.protocol,
                    reason,
                    count: 0,
                    pods: 0,
                    first,
                    last,
                    example: None,
                };
                (account, BTreeSet::new())
            });
            pods.insert(pod);
            add(&mut account.count, count.count);
            account.first = account.first.min(first);
            account.last = account.last.max(last);
        }
    }

    /// Everything has come: the most frequent first.
    pub(crate) fn finish(mut self) -> Vec<RefusalAccount> {
        let mut all: Vec<_> = self
            .kinds
            .into_iter()
            .map(|(kind, (account, pods))| RefusalAccount {
                pods: u64::try_from(pods.len()).unwrap_or(u64::MAX),
                example: self.examples.remove(&kind),
                ..account
            })
            .collect();
        all.sort_by_key(|refusal| std::cmp::Reverse(refusal.count));
        all
    }
}

fn words(refusal: &Refusal) -> String {
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(
            || "an unknown address".to_owned(),
            |address| address.to_string(),
        )
    };
    format!(
        "{} → {}: {}",
        address(refusal.source),
        address(refusal.destination),
        refusal.detail
    )
}
