//! What declared exceptions let through at this moment: the proxy's own ends of those connections,
//! by which the census knows them, and how much they have moved. The outbound side enters them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealwire_link::{Moved, Moving};
use tokio::net::TcpStream;

/// Connections that exceptions let through, as many as are open.
#[derive(Debug, Default)]
pub struct Passing(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    now: HashMap<SocketAddr, Arc<Moving>>,
    /// What those have moved that ended since somebody asked.
    ended: Moved,
}

impl Passing {
    /// Enters a connection to the far side, until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, far: &TcpStream) -> io::Result<Passes> {
        let near = far.local_addr()?;
        let moving = Arc::<Moving>::default();
        self.lock().now.insert(near, moving.clone());
        Ok(Passes {
            passing: self.clone(),
            near,
            moving,
        })
    }

    /// The own end of each connection that is open.
    pub(crate) fn ends(&self) -> Vec<SocketAddr> {
        self.lock().now.keys().copied().collect()
    }

    /// What was moved since this was last asked.
    pub(crate) fn account(&self) -> Moved {
        let mut open = self.lock();
        let ended = std::mem::take(&mut open.ended);
        open.now.values().fold(ended, |sum, one| sum + one.account())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that passes.
#[derive(Debug)]
pub(crate) struct Passes {
    passing: Arc<Passing>,
    near: SocketAddr,
    moving: Arc<Moving>,
}

impl Passes {
    /// Where it says how much it has moved.
    pub(crate) fn moving(&self) -> &Moving {
        &self.moving
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        let mut open = self.passing.lock();
        open.now.remove(&self.near);
        let rest = self.moving.account();
        open.ended = open.ended + rest;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_among_them_while_it_lasts_and_what_it_moved_counts_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let passing = Arc::<Passing>::default();
        let passes = passing.enter(&far).unwrap();
        assert_eq!(passing.ends(), [far.local_addr().unwrap()]);
        let moved = |sent, received| Moved { sent, received };
        passes.moving().is_at(moved(7, 1));
        assert_eq!(passing.account(), moved(7, 1));
        passes.moving().is_at(moved(9, 1));
        drop(passes);
        assert_eq!(passing.ends(), []);
        assert_eq!(passing.account(), moved(2, 0));
        assert_eq!(passing.account(), moved(0, 0));
    }
}
