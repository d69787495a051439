//! The dialling side's sessions: tickets that peers gave, each used once. rustls' own store keeps
//! eight a server, of which half of a burst of 64 connections finds none; and it tells servers
//! apart by address alone, where here several ports of an address can be different peers.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;

/// Most tickets kept for one destination.
pub(super) const PER_DESTINATION: usize = 128;

/// Most tickets kept, plus one for each destination there is a note about. With a ticket comes the
/// peer's chain, some 2 KiB together: this bounds them to about 4 MiB.
pub(super) const MOST: usize = 2048;

/// The sessions of an epoch.
pub(crate) struct Sessions {
    lifetime: Duration,
    time: Arc<dyn TimeProvider>,
    /// Held for a look-up and a move, never for longer.
    kept: Mutex<Kept>,
}

/// The sessions with one destination, demanding one naming: what rustls is given for a connection.
#[derive(Debug)]
pub(crate) struct SessionsTo {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) peer: Peer,
}

/// Whom a session is with.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Peer {
    /// Number of the naming that was demanded, within the epoch.
    pub(crate) naming: u64,
    /// The address and port that were dialled.
    pub(crate) destination: SocketAddr,
}

#[derive(Default)]
struct Kept {
    peers: HashMap<Peer, Entry>,
    /// Tickets and entries.
    size: usize,
    /// Counts uses, to find the entry that was not used for longest.
    clock: u64,
    /// Nothing is kept any more.
    ended: bool,
}

#[derive(Default)]
struct Entry {
    /// Oldest first.
    tickets: VecDeque<Ticket>,
    /// The key exchange group that the peer chose, which spares the next handshake a round trip.
    group: Option<NamedGroup>,
    used: u64,
}

struct Ticket {
    received: u64,
    session: Tls13ClientSessionValue,
}

impl Sessions {
    /// An empty store, whose tickets are used for `lifetime` at most.
    pub(crate) fn new(lifetime: Duration, time: Arc<dyn TimeProvider>) -> Arc<Self> {
        Arc::new(Self {
            lifetime,
            time,
            kept: Mutex::default(),
        })
    }

    /// Forgets everything, for ever. Links that live on still hold the store, and bring tickets.
    pub(crate) fn end(&self) {
        let mut kept = self.lock();
        let forgotten = std::mem::take(&mut *kept);
        kept.ended = true;
        drop(kept);
        drop(forgotten);
    }

    fn insert(&self, peer: Peer, session: Tls13ClientSessionValue) {
        let Some(received) = self.now() else { return };
        let ticket = Ticket { received, session };
        let surplus = self.lock().insert(peer, ticket);
        // Overwriting secrets takes its time; the lock is not held for it.
        drop(surplus);
    }

    /// The newest ticket: the one that will be good for longest, and whose age says least.
    fn take(&self, peer: &Peer) -> Option<Tls13ClientSessionValue> {
        let now = self.now()?;
        let mut kept = self.lock();
        let ticket = kept.newest(peer)?;
        let age = now.checked_sub(ticket.received);
        if age.is_some_and(|age| age < self.lifetime.as_secs()) {
            return Some(ticket.session);
        }
        // The others are older still; or the clock was put back, and nobody knows.
        let expired = kept.forget(peer);
        drop(kept);
        drop(expired);
        None
    }

    /// How many tickets are kept, and destinations.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        let kept = self.lock();
        let tickets = kept.peers.values().map(|entry| entry.tickets.len());
        assert_eq!(kept.size, tickets.sum::<usize>() + kept.peers.len());
        kept.size
    }

    fn now(&self) -> Option<u64> {
        self.time.current_time().as_ref().map(UnixTime::as_secs)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing under the lock can leave it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("size", &self.lock().size)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// Keeps a ticket and gives what has to go for it.
    fn insert(&mut self, peer: Peer, ticket: Ticket) -> Vec<Entry> {
        if self.ended {
            return Vec::new();
        }
        let tickets = &mut self.entry(&peer).tickets;
        tickets.push_back(ticket);
        if tickets.len() > PER_DESTINATION {
            let oldest = tickets.pop_front();
            return vec![Entry {
                tickets: oldest.into_iter().collect(),
                ..Entry::default()
            }];
        }
        self.size += 1;
        self.shrink()
    }

    /// Removes the entries that were not used for longest until the rest is in bounds.
    fn shrink(&mut self) -> Vec<Entry> {
        let mut surplus = Vec::new();
        while self.size > MOST {
            let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.used);
            let Some(peer) = oldest.map(|(peer, _)| *peer) else {
                break;
            };
            if let Some(entry) = self.peers.remove(&peer) {
                self.size -= entry.tickets.len() + 1;
                surplus.push(entry);
            }
        }
        surplus
    }

    fn newest(&mut self, peer: &Peer) -> Option<Ticket> {
        self.clock += 1;
        let entry = self.peers.get_mut(peer)?;
        entry.used = self.clock;
        let ticket = entry.tickets.pop_back()?;
        self.size -= 1;
        Some(ticket)
    }

    fn forget(&mut self, peer: &Peer) -> VecDeque<Ticket> {
        let entry = self.peers.get_mut(peer);
        let tickets = entry.map(|entry| std::mem::take(&mut entry.tickets));
        let tickets = tickets.unwrap_or_default();
        self.size -= tickets.len();
        tickets
    }

    fn entry(&mut self, peer: &Peer) -> &mut Entry {
        self.clock += 1;
        let size = &mut self.size;
        let entry = self.peers.entry(*peer).or_insert_with(|| {
            *size += 1;
            Entry::default()
        });
        entry.used = self.clock;
        entry
    }
}

/// rustls names the server it means, but no port. Each value here is for one destination, and so
/// the name is not looked at.
impl ClientSessionStore for SessionsTo {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        let mut kept = self.sessions.lock();
        if kept.ended {
            return;
        }
        kept.entry(&self.peer).group = Some(group);
        let surplus = kept.shrink();
        drop(kept);
        drop(surplus);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        let kept = self.sessions.lock();
        kept.peers.get(&self.peer).and_then(|entry| entry.group)
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        self.sessions.insert(self.peer, session);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions.take(&self.peer)
    }

    // TLS 1.2 is never spoken.

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}
