//! What the kernel said about the pods' sockets and interfaces.

use std::collections::BTreeMap;

use sealwire_evidence::record::{Census, Pod, Protocol, Socket, SocketClass};

use crate::account::{SocketsAccount, UnaccountedSocket};

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
        .any(|missing| missing.what.starts_with("sockets"))
}

/// How many nobody accounts for.
pub(crate) fn unaccounted(census: &Census) -> u64 {
    let counted = census
        .sockets
        .iter()
        .filter(|sockets| sockets.class == SocketClass::Unaccounted)
        .map(|sockets| sockets.count)
        .sum::<u64>();
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
        total.seen += census
            .sockets
            .iter()
            .map(|sockets| sockets.count)
            .sum::<u64>();
        total.unaccounted += unaccounted(census);
        // Counters since the namespace began say nothing about this window.
        if census
            .interfaces
            .iter()
            .all(|interface| !interface.absolute)
        {
            for interface in &census.interfaces {
                total.kernel.sent += interface.bytes.sent;
                total.kernel.received += interface.bytes.received;
                total.packets += interface.packets_sent + interface.packets_received;
            }
            if !census.interfaces.is_empty() {
                total.sealed.sent += census.sealed.sent;
                total.sealed.received += census.sealed.received;
                total.excepted.sent += census.excepted.sent;
                total.excepted.received += census.excepted.received;
            }
        }
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
