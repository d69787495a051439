//! Which sockets of applications were captured. Each has its other end at the proxy's outbound port:
//! with the application's address and port, or, where the kernel had to give it another port, with
//! another. The proxy knows where each was for, and so they still make pairs. Used by classes alone.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::class::Known;
use super::socket::{Protocol, Socket, TcpState};

/// Sockets of applications that were captured.
pub(super) struct Captured {
    /// Both ends, the application's first.
    pairs: HashSet<(SocketAddr, SocketAddr)>,
    /// Sources of connections that wait to be accepted: nobody knows yet where they are for.
    waiting: HashSet<SocketAddr>,
}

impl Captured {
    pub(super) fn among(sockets: &[Socket], known: &Known) -> Self {
        let config = &known.settings.config;
        let connected = || {
            let tcp = sockets.iter().filter(|one| one.protocol == Protocol::Tcp);
            tcp.filter_map(|one| Some((one, one.local?, one.remote?)))
        };
        let is_proxys = |one: &Socket| known.sockets.contains(&one.inode);
        let mut pairs = HashSet::new();
        let mut waiting = HashSet::new();
        for (one, local, source) in connected() {
            // Until the proxy accepts it, a captured connection is nobody's at its end.
            if local.port() != config.ports.outbound || !(one.inode == 0 || is_proxys(one)) {
                continue;
            }
            match known.captured.get(&source) {
                Some(destination) => {
                    pairs.insert((source, *destination));
                }
                None => {
                    waiting.insert(source);
                }
            }
        }
        let applications: Vec<_> = connected()
            .filter(|(one, ..)| !is_proxys(one) && one.state != TcpState::TimeWait)
            .map(|(_, local, remote)| (local, remote))
            .collect();
        let moved = moved(&pairs, &applications);
        pairs.extend(moved);
        Self { pairs, waiting }
    }

    pub(super) fn contains(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.pairs.contains(&(local, remote)) || self.waiting.contains(&local)
    }
}

/// Sockets whose port is another at the proxy: one for each connection that the proxy has from that
/// address to that destination, and that is no socket's by its port.
fn moved(
    pairs: &HashSet<(SocketAddr, SocketAddr)>,
    applications: &[(SocketAddr, SocketAddr)],
) -> Vec<(SocketAddr, SocketAddr)> {
    let there: HashSet<_> = applications.iter().collect();
    let mut left = HashMap::<(IpAddr, SocketAddr), usize>::new();
    for pair in pairs.iter().filter(|pair| !there.contains(pair)) {
        *left.entry((pair.0.ip(), pair.1)).or_default() += 1;
    }
    let mut is_anothers =
        |ends: &&(SocketAddr, SocketAddr)| match left.get_mut(&(ends.0.ip(), ends.1)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        };
    let unpaired = applications.iter().filter(|ends| !pairs.contains(ends));
    unpaired.filter(|ends| is_anothers(ends)).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::OffsetDateTime;

    use super::super::testing::{APP, PROXY, at, socket};
    use super::*;
    use crate::config::Config;

    /// What was captured among these, where the proxy holds connections with these sources and
    /// destinations.
    fn among(sockets: &[Socket], held: &[(&str, &str)]) -> Captured {
        let text = include_str!("../config/example.yaml");
        let held = held.iter().map(|(source, to)| (at(source), at(to)));
        let known = Known {
            settings: Arc::new(Config::parse(text).unwrap().settings().unwrap()),
            sockets: HashSet::from([PROXY]),
            links: HashSet::new(),
            captured: held.collect(),
            exceptions: HashSet::new(),
            now: OffsetDateTime::now_utc(),
        };
        Captured::among(sockets, &known)
    }

    #[test]
    fn a_connection_that_has_another_port_at_the_proxy_is_known_by_where_it_is_for() {
        let sockets = [
            socket(APP, "10.64.0.2:50000", "203.0.113.1:80"),
            socket(APP, "10.64.0.2:50000", "203.0.113.2:80"),
            socket(PROXY, "127.0.0.1:15001", "10.64.0.2:50000"),
            socket(PROXY, "127.0.0.1:15001", "10.64.0.2:1024"),
        ];
        let held = [
            ("10.64.0.2:50000", "203.0.113.1:80"),
            ("10.64.0.2:1024", "203.0.113.2:80"),
        ];
        let captured = among(&sockets, &held);
        for to in ["203.0.113.1:80", "203.0.113.2:80"] {
            assert!(captured.contains(at("10.64.0.2:50000"), at(to)), "{to}");
        }
    }

    #[test]
    fn a_connection_at_the_proxy_stands_for_one_socket_and_not_for_another() {
        let sockets = [
            socket(APP, "10.64.0.2:50000", "203.0.113.1:80"),
            socket(APP, "10.64.0.2:50001", "203.0.113.1:80"),
            socket(PROXY, "127.0.0.1:15001", "10.64.0.2:1024"),
        ];
        let captured = among(&sockets, &[("10.64.0.2:1024", "203.0.113.1:80")]);
        let known = ["10.64.0.2:50000", "10.64.0.2:50001"]
            .iter()
            .filter(|local| captured.contains(at(local), at("203.0.113.1:80")));
        assert_eq!(known.count(), 1);
    }

    #[test]
    fn a_socket_that_leads_elsewhere_is_not_captured_for_having_the_port_of_one_that_was() {
        let sockets = [
            socket(APP, "10.64.0.2:50000", "203.0.113.1:80"),
            socket(APP, "10.64.0.2:50000", "192.0.2.1:443"),
            socket(PROXY, "127.0.0.1:15001", "10.64.0.2:50000"),
        ];
        let captured = among(&sockets, &[("10.64.0.2:50000", "203.0.113.1:80")]);
        assert!(captured.contains(at("10.64.0.2:50000"), at("203.0.113.1:80")));
        assert!(!captured.contains(at("10.64.0.2:50000"), at("192.0.2.1:443")));
    }
}
