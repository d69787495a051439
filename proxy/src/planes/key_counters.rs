//! Counters that outlive a key. Each key counts from nothing, while the process's counters have to
//! go on: else what befalls a new key would not be seen before it exceeds what befell the one before.
//! Used by the metrics plane alone.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use metrics::counter;
use sealwire_keys::PrivateKey;

/// How far the keys' own counters have been shown.
#[derive(Debug, Default)]
pub struct KeyCounters(Mutex<Option<Shown>>);

impl KeyCounters {
    /// Brings the process's counters up to now.
    pub(super) fn show(&self, key: &Arc<dyn PrivateKey>) {
        let since = self.since(key);
        counter!("sealwire_key_sessions_lost_total").increment(since.sessions_lost);
        counter!("sealwire_key_recoveries_total").increment(since.recoveries);
        counter!("sealwire_key_module_reloads_total").increment(since.reloads);
    }

    /// What has been counted since this was last asked, by the key that was in use then and by
    /// this one.
    fn since(&self, key: &Arc<dyn PrivateKey>) -> Counts {
        // Nothing under the lock can leave it half changed.
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Counts::of(key.as_ref());
        let next = Shown {
            key: Arc::downgrade(key),
            counts: now,
        };
        match shown.replace(next) {
            Some(before) if Weak::ptr_eq(&before.key, &Arc::downgrade(key)) => {
                now.minus(before.counts)
            }
            // Links keep a key for as long as they need it.
            Some(before) => before.key.upgrade().map_or(now, |other| {
                now.plus(Counts::of(other.as_ref()).minus(before.counts))
            }),
            None => now,
        }
    }
}

/// A key, and what it had counted.
#[derive(Debug)]
struct Shown {
    key: Weak<dyn PrivateKey>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Counts {
    sessions_lost: u64,
    recoveries: u64,
    reloads: u64,
}

impl Counts {
    fn of(key: &dyn PrivateKey) -> Self {
        let figures = key.figures();
        Self {
            sessions_lost: figures.sessions_lost,
            recoveries: figures.recoveries,
            reloads: figures.reloads,
        }
    }

    fn minus(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(self, other: Self, each: fn(u64, u64) -> u64) -> Self {
        Self {
            sessions_lost: each(self.sessions_lost, other.sessions_lost),
            recoveries: each(self.recoveries, other.recoveries),
            reloads: each(self.reloads, other.reloads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeKey;

    fn lost(key: &FakeKey, sessions: u64) {
        key.figures.lock().unwrap().sessions_lost = sessions;
    }

    #[test]
    fn what_befalls_a_new_key_is_counted_on_top_of_what_befell_the_one_before() {
        let counters = KeyCounters::default();
        let (first, second) = (FakeKey::new(), FakeKey::new());
        let since = |key: &Arc<FakeKey>| {
            let key: Arc<dyn PrivateKey> = key.clone();
            counters.since(&key).sessions_lost
        };
        lost(&first, 5);
        assert_eq!((since(&first), since(&first)), (5, 0));
        lost(&first, 7);
        assert_eq!(since(&first), 2);
        // Lost after the last look, by a key that links still use.
        lost(&first, 8);
        lost(&second, 3);
        assert_eq!(since(&second), 4);
        lost(&second, 4);
        drop(first);
        assert_eq!(since(&second), 1);
        // The one before is there no more.
        drop(second);
        let third = FakeKey::new();
        lost(&third, 2);
        assert_eq!(since(&third), 2);
    }
}
