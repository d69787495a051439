//! Every live link, and how to close it with a reason. A link enters when its handshake is done
//! and leaves when its membership is dropped, however that comes about.
//!
//! The registry also knows the trust epoch in force. When another comes, each peer's chain is
//! verified once under that; links that enter later are told of it and see to it themselves. Both
//! happen under one lock, so that no link is missed between the two.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use sealwire_identity::{CertificateFacts, Epoch, PeerError, Role};
use serde::{Serialize, Serializer};
use tokio::sync::{oneshot, watch};

use crate::record::{Direction, LinkFacts, Moving};

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
    /// Why the links of a peer that would be refused now are closed; none when they go on.
    fn of(error: &PeerError) -> Option<Self> {
        match error {
            PeerError::Revoked { .. } => Some(Self::Revocation),
            PeerError::Expired { .. } => Some(Self::Expiry),
            // That nobody has replaced the list says nothing against this peer; new links wait.
            PeerError::CrlStale { .. } => None,
            _ => Some(Self::Epoch),
        }
    }

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
    live: Mutex<Live>,
    count: watch::Sender<usize>,
    next: AtomicU64,
}

#[derive(Default)]
struct Live {
    links: HashMap<u64, Entry>,
    /// Each peer once, with the numbers of its links.
    peers: HashMap<Arc<Peer>, HashSet<u64>>,
    /// What peers are judged by.
    epoch: Option<Arc<Epoch>>,
}

struct Entry {
    link: Arc<LiveLink>,
    peer: Arc<Peer>,
    close: Option<oneshot::Sender<CloseReason>>,
}

/// A live link as the registry shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveLink {
    /// Who opened it.
    pub direction: Direction,
    /// Where whoever opened it wanted to go.
    pub destination: SocketAddr,
    /// Its own end on the wire.
    pub near: SocketAddr,
    /// The peer's end on the wire.
    pub far: SocketAddr,
    /// What it has moved so far.
    #[serde(serialize_with = "so_far")]
    pub moved: Arc<Moving>,
    /// Everything known about it.
    #[serde(flatten)]
    pub facts: LinkFacts,
}

fn so_far<S: Serializer>(moved: &Arc<Moving>, serializer: S) -> Result<S::Ok, S::Error> {
    moved.serialize(serializer)
}

/// A peer as it has proven itself in a handshake; its links share it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Which side it was.
    pub(crate) role: Role,
    /// What it presented, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub(crate) facts: CertificateFacts,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::default(),
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

    /// At most `limit` live links, as they are now.
    pub fn list(&self, limit: usize) -> Vec<Arc<LiveLink>> {
        let live = self.lock();
        let links = live.links.values().take(limit);
        links.map(|entry| entry.link.clone()).collect()
    }

    /// Judges every peer by `epoch` from now on, and retires the one before. A peer that it refuses
    /// loses its links: with [`CloseReason::Revocation`] when a certificate of its was revoked,
    /// with [`CloseReason::Epoch`] when it would be refused for another reason. Says how many
    /// links were told.
    ///
    /// Verifies each peer's chain once, however many links it has. Blocks for as long as that
    /// takes, some 0.1 ms a peer: not for a runtime's worker.
    pub fn judge_by(&self, epoch: &Arc<Epoch>) -> usize {
        let mut live = self.lock();
        let before = live.epoch.replace(epoch.clone());
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, epoch)) {
            before.retire();
        }
        let mut peers: Vec<_> = live.peers.keys().cloned().collect();
        drop(live);
        // Whoever was revoked goes first, however many others there are.
        peers.sort_by_cached_key(|peer| !epoch.is_listed(&peer.chain));
        let refused = peers.into_iter().filter_map(|peer| {
            let error = epoch.verify(&peer.chain, peer.role).err()?;
            let reason = CloseReason::of(&error)?;
            tracing::warn!(peer = %peer.facts.spiffe_id, serial = peer.facts.serial, %error, "closing the links of a peer");
            Some((peer, reason))
        });
        refused
            .map(|(peer, reason)| self.lock().close(&peer, reason))
            .sum()
    }

    /// Closes every link that `which` picks and says how many were told. A link that is already
    /// closing keeps its first reason.
    pub fn close(
        &self,
        reason: CloseReason,
        which: impl Fn(&LiveLink, &CertificateFacts) -> bool,
    ) -> usize {
        self.lock()
            .links
            .values_mut()
            .filter(|entry| which(&entry.link, &entry.peer.facts))
            .filter_map(|entry| entry.close(reason))
            .count()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Lists a link, and says which epoch peers are judged by: where that is not the link's own,
    /// the peer has to be verified under it as well.
    pub(crate) fn enter(self: &Arc<Self>, link: LiveLink, peer: Peer) -> Entered {
        let (close, closing) = oneshot::channel();
        let link = Arc::new(link);
        let id = link.facts.id;
        let mut live = self.lock();
        let peer = live.share(peer);
        live.peers.entry(peer.clone()).or_default().insert(id);
        live.links.insert(
            id,
            Entry {
                link: link.clone(),
                peer: peer.clone(),
                close: Some(close),
            },
        );
        self.count.send_replace(live.links.len());
        Entered {
            epoch: live.epoch.clone(),
            membership: Membership {
                registry: self.clone(),
                link,
                peer,
                closing,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing under the lock can leave it half changed.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// The same peer as it is known already, if it is.
    fn share(&self, peer: Peer) -> Arc<Peer> {
        let known = self.peers.get_key_value(&peer);
        known.map_or_else(|| Arc::new(peer), |(known, _)| known.clone())
    }

    /// Closes the links of a peer.
    fn close(&mut self, peer: &Arc<Peer>, reason: CloseReason) -> usize {
        let Some(ids) = self.peers.get(peer) else {
            return 0;
        };
        ids.iter()
            .filter_map(|id| self.links.get_mut(id)?.close(reason))
            .count()
    }

    fn leave(&mut self, id: u64) {
        let Some(entry) = self.links.remove(&id) else {
            return;
        };
        if let Some(ids) = self.peers.get_mut(&entry.peer) {
            ids.remove(&id);
            if ids.is_empty() {
                self.peers.remove(&entry.peer);
            }
        }
    }
}

impl Entry {
    /// Tells the link to close, unless it was told before.
    fn close(&mut self, reason: CloseReason) -> Option<()> {
        self.close.take()?.send(reason).ok()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.role == other.role && self.chain == other.chain
    }
}

impl Eq for Peer {}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.role.hash(state);
        self.chain.first().hash(state);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("links", &self.len())
            .finish()
    }
}

/// What came of entering.
pub(crate) struct Entered {
    pub(crate) membership: Membership,
    /// The epoch that peers are judged by, if one has been put in force.
    pub(crate) epoch: Option<Arc<Epoch>>,
}

/// A link's place in the registry, given up when dropped.
pub(crate) struct Membership {
    registry: Arc<Registry>,
    pub(crate) link: Arc<LiveLink>,
    pub(crate) peer: Arc<Peer>,
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
        let mut live = self.registry.lock();
        live.leave(self.link.facts.id);
        self.registry.count.send_replace(live.links.len());
    }
}
