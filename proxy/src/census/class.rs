//! What a socket is there for. Pure: sockets as the kernel tells them, beside what the proxy knows
//! of its own. A socket of which neither gives an account is *unaccounted*, which is the alarm that
//! the census exists for. Used by the census alone.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sealwire_evidence::record::SocketClass as Class;
use time::OffsetDateTime;

use super::captured::Captured;
use super::socket::{Protocol, Socket, TcpState};
use crate::capture::is_proof_address;
use crate::config::{ExceptionKind, Settings};
use crate::inbound::is_handover;
use crate::policy::Decision;

/// What the proxy knows of its own connections.
#[derive(Clone, Debug)]
pub struct Known {
    /// The configuration in force.
    pub settings: Arc<Settings>,
    /// The inodes of the sockets that it holds.
    pub sockets: HashSet<u32>,
    /// Both ends of every live link, its own first.
    pub links: HashSet<(SocketAddr, SocketAddr)>,
    /// The destination of each captured connection that it holds, by its source.
    pub captured: HashMap<SocketAddr, SocketAddr>,
    /// The own ends of what exceptions let through.
    pub exceptions: HashSet<SocketAddr>,
    /// What time it is.
    pub now: OffsetDateTime,
}

/// Sockets, and what the proxy knows, ready to be compared.
pub(super) struct Classes<'a> {
    known: &'a Known,
    /// Both ends of every connected socket, its own first.
    ends: HashSet<(SocketAddr, SocketAddr)>,
    captured: Captured,
}

impl<'a> Classes<'a> {
    pub(super) fn new(sockets: &[Socket], known: &'a Known) -> Self {
        let tcp = sockets.iter().filter(|one| one.protocol == Protocol::Tcp);
        let connected = tcp.filter_map(|one| Some((one.local?, one.remote?)));
        Self {
            known,
            ends: connected.collect(),
            captured: Captured::among(sockets, known),
        }
    }

    pub(super) fn of(&self, socket: &Socket) -> Class {
        match socket.protocol {
            Protocol::Tcp => self.of_tcp(socket),
            Protocol::Udp => self.of_udp(socket),
            // Nothing that is not TCP can be sealed.
            Protocol::UdpLite | Protocol::Sctp | Protocol::Raw | Protocol::Packet => {
                Class::Unaccounted
            }
        }
    }

    fn of_tcp(&self, socket: &Socket) -> Class {
        let (local, remote) = match (socket.local, socket.remote) {
            _ if socket.state == TcpState::Listen => return Class::Listening,
            (Some(local), Some(remote)) => (local, remote),
            _ => return Class::Listening,
        };
        let is_held = socket.inode != 0;
        match socket.state {
            TcpState::TimeWait => return Class::Closing,
            TcpState::Closing | TcpState::Closed if !is_held => return Class::Closing,
            _ => {}
        }
        // What nobody holds and does not close waits to be accepted, by whoever listens there.
        let ports = &self.known.settings.config.ports;
        let ours = [
            ports.outbound,
            ports.inbound,
            ports.admin,
            ports.metrics,
            ports.health,
        ];
        let is_ours = match is_held {
            true => self.known.sockets.contains(&socket.inode),
            false => ours.contains(&local.port()),
        };
        if is_ours {
            self.of_the_proxy(local, remote)
        } else {
            self.of_an_application(local, remote)
        }
    }

    fn of_the_proxy(&self, local: SocketAddr, remote: SocketAddr) -> Class {
        let config = &self.known.settings.config;
        let ports = &config.ports;
        if self.known.links.contains(&(local, remote)) {
            return Class::SealedLink;
        }
        if self.known.exceptions.contains(&local) {
            return Class::DeclaredException;
        }
        if is_proof_address(remote.ip()) {
            return Class::ProxyOwn;
        }
        if local.port() == ports.outbound || is_handover(local.ip()) {
            return Class::ApplicationToProxy;
        }
        // Not among the live links: one that is being made, or has just ended.
        if local.port() == ports.inbound {
            return Class::SealedLink;
        }
        if [ports.admin, ports.metrics, ports.health].contains(&local.port()) {
            return Class::ProxyOwn;
        }
        let mut own = self.known.settings.capture.own.iter();
        if own.any(|(net, port)| net.contains(&remote.ip()) && *port == remote.port()) {
            return Class::ProxyOwn;
        }
        match self.known.settings.outbound.decide(remote, self.known.now) {
            Decision::Seal(_) => Class::SealedLink,
            // Fetching a revocation list, or connecting for an application.
            Decision::Except(_) => Class::DeclaredException,
            Decision::Refuse(_) => Class::Unaccounted,
        }
    }

    fn of_an_application(&self, local: SocketAddr, remote: SocketAddr) -> Class {
        if self.captured.contains(local, remote) || is_handover(remote.ip()) {
            return Class::ApplicationToProxy;
        }
        if self.is_inside(local, remote) {
            return Class::Loopback;
        }
        Class::Unaccounted
    }

    fn of_udp(&self, socket: &Socket) -> Class {
        let (Some(local), Some(remote)) = (socket.local, socket.remote) else {
            return Class::Listening;
        };
        if local.ip().is_loopback() || remote.ip().is_loopback() {
            return Class::Loopback;
        }
        match self.known.settings.outbound.decide(remote, self.known.now) {
            Decision::Except(rule) if rule.kind == ExceptionKind::Dns => Class::DeclaredException,
            _ => Class::Unaccounted,
        }
    }

    /// Whether the other end is a socket of this pod too, or can be nowhere else.
    fn is_inside(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let stays = |ip: IpAddr| ip.is_loopback();
        self.ends.contains(&(remote, local)) || (stays(local.ip()) && stays(remote.ip()))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::testing::{APP, PROXY, at, socket};
    use super::*;
    use crate::config::Config;

    fn udp(local: &str, remote: Option<&str>) -> Socket {
        Socket {
            protocol: Protocol::Udp,
            remote: remote.map(at),
            ..socket(APP, local, "0.0.0.0:0")
        }
    }

    fn known() -> Known {
        let text = include_str!("../config/example.yaml");
        Known {
            settings: Arc::new(Config::parse(text).unwrap().settings().unwrap()),
            sockets: HashSet::from([PROXY]),
            links: HashSet::from([(at("10.64.0.2:40001"), at("10.64.0.9:8080"))]),
            captured: HashMap::new(),
            exceptions: HashSet::from([at("10.64.0.2:40002")]),
            now: datetime!(2026-11-25 12:00 UTC),
        }
    }

    /// The class of the first, beside the others.
    fn class(sockets: &[Socket]) -> Class {
        Classes::new(sockets, &known()).of(&sockets[0])
    }

    #[test]
    fn a_live_link_is_sealed_and_the_same_addresses_of_another_user_are_not() {
        let ends = ("10.64.0.2:40001", "10.64.0.9:8080");
        assert_eq!(class(&[socket(PROXY, ends.0, ends.1)]), Class::SealedLink);
        assert_eq!(class(&[socket(APP, ends.0, ends.1)]), Class::Unaccounted);
    }

    #[test]
    fn what_the_proxy_opens_to_the_mesh_without_a_live_link_is_a_link_in_the_making() {
        let to_a_peer = socket(PROXY, "10.64.0.2:40009", "10.64.0.9:8080");
        assert_eq!(class(&[to_a_peer]), Class::SealedLink);
        let from_a_peer = socket(PROXY, "10.64.0.2:15006", "10.64.0.9:50000");
        assert_eq!(class(&[from_a_peer]), Class::SealedLink);
    }

    #[test]
    fn what_another_program_with_the_proxys_user_opens_is_unaccounted() {
        for remote in ["10.64.0.9:8080", "203.0.113.7:5432", "192.0.2.1:443"] {
            let of_another = Socket {
                inode: APP,
                ..socket(PROXY, "10.64.0.2:40009", remote)
            };
            assert_eq!(class(&[of_another]), Class::Unaccounted, "{remote}");
        }
        let asks_for_health = Socket {
            inode: APP,
            ..socket(PROXY, "127.0.0.1:40009", "127.0.0.1:15021")
        };
        assert_eq!(class(&[asks_for_health]), Class::Loopback);
    }

    #[test]
    fn what_the_proxy_opens_to_nowhere_declared_is_unaccounted() {
        let elsewhere = socket(PROXY, "10.64.0.2:40009", "192.0.2.1:443");
        assert_eq!(class(&[elsewhere]), Class::Unaccounted);
    }

    #[test]
    fn a_captured_connection_is_known_by_its_other_end_accepted_or_not() {
        let app = socket(APP, "10.64.0.2:50000", "203.0.113.1:80");
        assert_eq!(class(std::slice::from_ref(&app)), Class::Unaccounted);
        let proxy = socket(PROXY, "127.0.0.1:15001", "10.64.0.2:50000");
        assert_eq!(
            class(&[app.clone(), proxy.clone()]),
            Class::ApplicationToProxy
        );
        assert_eq!(
            class(&[proxy.clone(), app.clone()]),
            Class::ApplicationToProxy
        );
        let waiting = Socket {
            inode: 0,
            uid: None,
            ..proxy.clone()
        };
        assert_eq!(class(&[app.clone(), waiting]), Class::ApplicationToProxy);
        // Somebody else at that port is not the proxy.
        let squatter = Socket {
            inode: APP,
            ..proxy
        };
        assert_eq!(class(&[app, squatter]), Class::Unaccounted);
    }

    #[test]
    fn what_the_proxy_hands_over_is_known_at_both_ends() {
        let app = socket(APP, "10.64.0.2:8080", "127.0.0.6:40000");
        let proxy = socket(PROXY, "127.0.0.6:40000", "10.64.0.2:8080");
        assert_eq!(
            class(&[app.clone(), proxy.clone()]),
            Class::ApplicationToProxy
        );
        assert_eq!(class(&[proxy, app]), Class::ApplicationToProxy);
    }

    #[test]
    fn a_connection_inside_the_pod_has_both_its_ends_there() {
        let one = socket(APP, "10.64.0.2:50000", "10.64.0.2:9000");
        assert_eq!(class(std::slice::from_ref(&one)), Class::Unaccounted);
        let other = socket(APP, "10.64.0.2:9000", "10.64.0.2:50000");
        assert_eq!(class(&[one, other]), Class::Loopback);
        assert_eq!(
            class(&[socket(APP, "127.0.0.1:1", "127.0.0.1:2")]),
            Class::Loopback
        );
    }

    #[test]
    fn a_declared_exception_is_one() {
        let open = socket(PROXY, "10.64.0.2:40002", "203.0.113.7:5432");
        assert_eq!(class(&[open]), Class::DeclaredException);
        let lookup = udp("10.64.0.2:40003", Some("198.19.0.53:53"));
        assert_eq!(class(&[lookup]), Class::DeclaredException);
    }

    #[test]
    fn a_datagram_socket_to_elsewhere_is_unaccounted_and_one_to_nobody_is_not() {
        assert_eq!(
            class(&[udp("10.64.0.2:1", Some("192.0.2.1:443"))]),
            Class::Unaccounted
        );
        // An exception for TCP is none for UDP.
        assert_eq!(
            class(&[udp("10.64.0.2:1", Some("203.0.113.7:5432"))]),
            Class::Unaccounted
        );
        assert_eq!(class(&[udp("0.0.0.0:5353", None)]), Class::Listening);
    }

    #[test]
    fn raw_and_packet_sockets_are_always_unaccounted() {
        for protocol in [
            Protocol::Raw,
            Protocol::Packet,
            Protocol::Sctp,
            Protocol::UdpLite,
        ] {
            let socket = Socket {
                protocol,
                ..socket(PROXY, "127.0.0.1:1", "127.0.0.1:2")
            };
            assert_eq!(class(&[socket]), Class::Unaccounted, "{protocol:?}");
        }
    }

    #[test]
    fn what_no_process_holds_any_more_is_closing() {
        let orphan = Socket {
            inode: 0,
            uid: None,
            state: TcpState::Closing,
            ..socket(APP, "10.64.0.2:50000", "203.0.113.1:80")
        };
        assert_eq!(class(&[orphan]), Class::Closing);
    }

    #[test]
    fn what_waits_to_be_accepted_is_whoevers_listens_there() {
        let waiting = |local, remote| Socket {
            inode: 0,
            uid: None,
            ..socket(APP, local, remote)
        };
        let sealed = waiting("10.64.0.2:15006", "10.64.0.9:50000");
        assert_eq!(class(&[sealed]), Class::SealedLink);
        let handed_over = waiting("10.64.0.2:8080", "127.0.0.6:40000");
        assert_eq!(class(&[handed_over]), Class::ApplicationToProxy);
        // Past the proxy, to an application that has not looked yet.
        let past = waiting("10.64.0.2:8080", "10.64.0.9:50000");
        assert_eq!(class(&[past]), Class::Unaccounted);
    }
}
