//! Captured connections that the proxy holds, and where each was for. The census tells by them which
//! sockets of applications were captured: where two connections that the kernel redirects would have
//! the same source, it gives one of them another port, and the addresses no longer say it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::canonical;

/// Captured connections, as many as are open.
#[derive(Debug, Default)]
pub struct Accepted(Mutex<BySource>);

/// Where each is for.
type BySource = HashMap<SocketAddr, Arc<SocketAddr>>;

/// A connection's place among them, given up when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    accepted: Arc<Accepted>,
    source: SocketAddr,
    destination: Arc<SocketAddr>,
}

impl Accepted {
    /// Enters a connection by the source that it has at the proxy, until what is returned is
    /// dropped.
    pub(crate) fn enter(self: &Arc<Self>, source: SocketAddr, destination: SocketAddr) -> Held {
        let source = canonical(source);
        let destination = Arc::new(canonical(destination));
        self.lock().insert(source, destination.clone());
        Held {
            accepted: self.clone(),
            source,
            destination,
        }
    }

    /// The destination of each, by its source.
    pub(crate) fn list(&self) -> HashMap<SocketAddr, SocketAddr> {
        let held = self.lock();
        let each = held.iter().map(|(source, to)| (*source, **to));
        each.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BySource> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.accepted.lock();
        // Once it is closed, and before this is dropped, another may come from the same port.
        let is_this = |there: &Arc<_>| Arc::ptr_eq(there, &self.destination);
        if held.get(&self.source).is_some_and(is_this) {
            held.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_among_them_while_it_is_held() {
        let accepted = Arc::<Accepted>::default();
        let source = "[::ffff:10.64.0.2]:50000".parse().unwrap();
        let held = accepted.enter(source, "203.0.113.1:80".parse().unwrap());
        let (source, destination) = accepted.list().into_iter().next().unwrap();
        assert_eq!(source.to_string(), "10.64.0.2:50000");
        assert_eq!(destination.to_string(), "203.0.113.1:80");
        drop(held);
        assert!(accepted.list().is_empty());
    }

    #[test]
    fn one_that_comes_from_the_port_of_one_that_ends_stays_among_them() {
        let accepted = Arc::<Accepted>::default();
        let source = "10.64.0.2:50000".parse().unwrap();
        let destination = "203.0.113.1:80".parse().unwrap();
        let ends = accepted.enter(source, destination);
        let comes = accepted.enter(source, destination);
        drop(ends);
        assert_eq!(accepted.list(), HashMap::from([(source, destination)]));
        drop(comes);
        assert!(accepted.list().is_empty());
    }
}
