//! What declared exceptions let through at this moment: by the proxy's own ends the census knows
//! these connections, and evidence says what they move while they last. The outbound side enters
//! them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealwire_link::Moving;
use tokio::net::TcpStream;

/// Connections that exceptions let through, as many as are open.
#[derive(Debug, Default)]
pub struct Passing(Mutex<HashMap<Ends, Arc<Passage>>>);

/// Both ends of a connection. The near one alone may be that of several, each to another place.
type Ends = (SocketAddr, SocketAddr);

/// A connection that passes.
#[derive(Debug)]
pub struct Passage {
    /// Name of the exception.
    pub rule: String,
    /// Where it goes.
    pub destination: SocketAddr,
    /// What the application's own TLS negotiated, where that is demanded.
    pub observed_tls: Option<String>,
    /// What it has moved so far.
    pub moved: Moving,
}

impl Passing {
    /// Enters a connection to the far side, until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, far: &TcpStream, passage: Passage) -> io::Result<Passes> {
        let ends = (far.local_addr()?, far.peer_addr()?);
        let passage = Arc::new(passage);
        self.lock().insert(ends, passage.clone());
        Ok(Passes {
            passing: self.clone(),
            ends,
            passage,
        })
    }

    /// The own end of each.
    pub(crate) fn ends(&self) -> Vec<SocketAddr> {
        self.lock().keys().map(|(near, _)| *near).collect()
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Arc<Passage>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Passage>>> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that pass, given up when dropped.
#[derive(Debug)]
pub(crate) struct Passes {
    passing: Arc<Passing>,
    ends: Ends,
    pub(crate) passage: Arc<Passage>,
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.passing.lock().remove(&self.ends);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_among_them_while_it_lasts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = listener.local_addr().unwrap();
        let far = TcpStream::connect(destination).await.unwrap();
        let passing = Arc::<Passing>::default();
        let passage = Passage {
            rule: "old-database".to_owned(),
            destination,
            observed_tls: None,
            moved: Moving::default(),
        };
        let passes = passing.enter(&far, passage).unwrap();
        assert_eq!(passing.ends(), [far.local_addr().unwrap()]);
        assert_eq!(passing.list()[0].rule, "old-database");
        drop(passes);
        assert!(passing.list().is_empty() && passing.ends().is_empty());
    }

    #[tokio::test]
    async fn connections_to_two_places_may_have_one_near_end_and_each_is_among_them() {
        let passing = Arc::<Passing>::default();
        let mut near = "127.0.0.1:0".parse().unwrap();
        let mut connected = Vec::new();
        for place in ["127.0.0.2:0", "127.0.0.3:0"] {
            let listener = TcpListener::bind(place).await.unwrap();
            let destination = listener.local_addr().unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(near).unwrap();
            let far = socket.connect(destination).await.unwrap();
            near = far.local_addr().unwrap();
            let passage = Passage {
                rule: place.to_owned(),
                destination,
                observed_tls: None,
                moved: Moving::default(),
            };
            connected.push((passing.enter(&far, passage).unwrap(), far, listener));
        }
        assert_eq!(passing.ends(), [near, near]);
        connected.pop();
        assert_eq!(passing.list()[0].rule, "127.0.0.2:0");
    }
}
