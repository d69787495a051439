//! Every live link, and how to close it with a reason. A link enters when its handshake is done
//! and leaves when its membership is dropped, however that comes about.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{oneshot, watch};

use crate::record::{Direction, LinkFacts};

/// Why this proxy closed a link.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// The pod is ending and its drain time is over.
    Drain,
    /// One of the two certificates is at its end.
    Expiry,
    /// What the link was made under is no longer in force.
    Epoch,
    /// The peer's certificate was revoked.
    Revocation,
    /// Half closed, and nothing moved for the configured time.
    Idle,
}

impl CloseReason {
    /// A short name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Expiry => "expiry",
            Self::Epoch => "epoch",
            Self::Revocation => "revocation",
            Self::Idle => "idle",
        }
    }
}

/// The live links of a process.
pub struct Registry {
    links: Mutex<HashMap<u64, Entry>>,
    count: watch::Sender<usize>,
    next: AtomicU64,
}

struct Entry {
    direction: Direction,
    facts: Arc<LinkFacts>,
    close: Option<oneshot::Sender<CloseReason>>,
}

/// A live link as the registry shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveLink {
    /// Who opened it.
    pub direction: Direction,
    /// Everything known about it.
    #[serde(flatten)]
    pub facts: LinkFacts,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            links: Mutex::default(),
            count: watch::Sender::new(0),
            next: AtomicU64::new(1),
        })
    }

    /// How many links live now.
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether no link lives now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until no link lives.
    pub async fn emptied(&self) {
        // The sender lives as long as we do, so waiting cannot fail.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// At most `limit` live links, for people to look at.
    pub fn list(&self, limit: usize) -> Vec<LiveLink> {
        self.lock()
            .values()
            .take(limit)
            .map(|entry| LiveLink {
                direction: entry.direction,
                facts: entry.facts.as_ref().clone(),
            })
            .collect()
    }

    /// Closes every link that `which` picks and says how many were told. A link that is already
    /// closing keeps its first reason.
    pub fn close(&self, reason: CloseReason, which: impl Fn(&LinkFacts) -> bool) -> usize {
        self.lock()
            .values_mut()
            .filter(|entry| which(&entry.facts))
            .filter_map(|entry| entry.close.take())
            .map(|close| close.send(reason))
            .filter(Result::is_ok)
            .count()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Self>, direction: Direction, facts: LinkFacts) -> Membership {
        let (close, closing) = oneshot::channel();
        let facts = Arc::new(facts);
        let entry = Entry {
            direction,
            facts: facts.clone(),
            close: Some(close),
        };
        let mut links = self.lock();
        links.insert(facts.id, entry);
        self.count.send_replace(links.len());
        drop(links);
        Membership {
            registry: self.clone(),
            facts,
            closing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // Nothing under the lock can leave the map half changed.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("links", &self.len())
            .finish()
    }
}

/// A link's place in the registry, given up when dropped.
pub(crate) struct Membership {
    registry: Arc<Registry>,
    pub(crate) facts: Arc<LinkFacts>,
    closing: oneshot::Receiver<CloseReason>,
}

impl Membership {
    /// Waits until somebody closes the link. Cancel safe.
    pub(crate) async fn closed(&mut self) -> CloseReason {
        match (&mut self.closing).await {
            Ok(reason) => reason,
            // The sender is dropped only with the entry, and the entry only by us.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut links = self.registry.lock();
        links.remove(&self.facts.id);
        self.registry.count.send_replace(links.len());
    }
}
