//! What the kernel said about the pods' sockets.

use std::collections::BTreeMap;

use sealwire_evidence::record::{Census, Pod, Protocol, Socket, SocketClass};

use crate::account::{self, SocketsAccount, UnaccountedSocket, add};

/// Sockets nobody accounts for that are listed one by one.
const EXAMPLES: usize = 200;

/// Pod, protocol, own address, other address, UID.
type Key = (String, Protocol, String, String, Option<u32>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    total: SocketsAccount,
    examples: BTreeMap<Key, UnaccountedSocket>,
}

/// Whether the kernel's sockets could be listed: an interface's missing counter is no reason to
/// doubt them, a missing list is.
pub(crate) fn listed(census: &Census) -> bool {
    !census
        .unavailable
        .iter()
        .any(|missing| missing.what.contains("sockets"))
}

/// How many nobody accounts for.
pub(crate) fn unaccounted(census: &Census) -> u64 {
    let unaccounted = census
        .sockets
        .iter()
        .filter(|sockets| sockets.class == SocketClass::Unaccounted);
    let counted = account::total(unaccounted.map(|sockets| sockets.count));
    let named = u64::try_from(census.unaccounted.len()).unwrap_or(u64::MAX);
    counted.max(named.saturating_add(census.unaccounted_more))
}

impl Sockets {
    /// A window without a census.
    pub(crate) fn without(&mut self) {
        self.total.without += 1;
    }

    /// A window's census.
    pub(crate) fn census(&mut self, pod: &Pod, census: &Census) {
        let total = &mut self.total;
        if listed(census) {
            total.censuses += 1;
        } else {
            total.without += 1;
        }
        let seen = census.sockets.iter().map(|sockets| sockets.count);
        add(&mut total.seen, account::total(seen));
        add(&mut total.unaccounted, unaccounted(census));
        for socket in &census.unaccounted {
            self.example(pod, socket, census);
        }
    }

    fn example(&mut self, pod: &Pod, socket: &Socket, census: &Census) {
        let address = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(String::new, |address| address.to_string())
        };
        let name = format!("{}/{}", pod.namespace, pod.name);
        let key = (
            name.clone(),
            socket.protocol,
            address(socket.local),
            address(socket.remote),
            socket.process.uid,
        );
        let taken = census.taken.get();
        if let Some(known) = self.examples.get_mut(&key) {
            known.first = known.first.min(taken);
            known.last = known.last.max(taken);
        } else if self.examples.len() < EXAMPLES {
            let socket = UnaccountedSocket {
                pod: name,
                socket: socket.clone(),
                first: taken,
                last: taken,
            };
            self.examples.insert(key, socket);
        }
    }

    /// Everything has come.
    pub(crate) fn finish(self) -> SocketsAccount {
        SocketsAccount {
            examples: self.examples.into_values().collect(),
            ..self.total
        }
    }
}
