//! The ruleset as text. Two ideas carry it: NAT only steers, the filter enforces; and what leaves
//! the pod must come from a socket of the proxy's UID. Each rule counts and says in a comment what
//! it is for.

use std::fmt::Write;

use ipnet::IpNet;
use time::UtcOffset;
use time::macros::format_description;

use super::{CaptureSpec, TABLE};
use crate::config::ExceptionKind;

/// Reserved for documentation (RFC 5737, RFC 3849) and so never a real destination: the proxy's
/// own connection there is captured like an application's, which proves that capture works.
pub(super) const PROOF_V4: &str = "198.51.100.1";
/// The same for IPv6.
pub(super) const PROOF_V6: &str = "2001:db8::1";

/// Source addresses from which the proxy hands inbound connections to the application.
const HANDOVER_V4: &str = "127.0.0.6";
const HANDOVER_V6: &str = "::6";

/// The connection mark of flows that the proxy owns: packets without a socket (resets, the tail
/// of a closed connection) have no UID to know them by.
const MARK: &str = "0x5ea1";

/// Largest UDP datagram to a resolver, in bytes with its header: what DNS needs (RFC 9715), and
/// not a tunnel's worth.
const MAX_DNS_DATAGRAM: u16 = 1240;

pub(super) fn render(spec: &CaptureSpec) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_ruleset(&mut text, spec);
    text
}

fn write_ruleset(out: &mut String, spec: &CaptureSpec) -> std::fmt::Result {
    let uid = spec.uid;
    let ports = &spec.ports;
    let (outbound, inbound) = (ports.outbound, ports.inbound);
    let private = format!(
        "{{ {}, {}, {} }}",
        ports.outbound, ports.inbound, ports.admin
    );
    let open = format!("{{ {}, {} }}", ports.health, ports.metrics);
    writeln!(
        out,
        "# Sealwire capture: every TCP connection of this pod goes through the proxy (UID {uid}), nothing else passes.\n\
         # Loading this file replaces the table in one step. Order of the hooks: steer_* (NAT), then leave, enter (filter).\n\
         table inet {TABLE}\n\
         delete table inet {TABLE}\n\
         table inet {TABLE} {{"
    )?;
    write_sets(out, spec)?;
    writeln!(
        out,
        "
\t# Steers what the pod's processes open.
\tchain steer_out {{
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta l4proto != tcp counter return comment \"not TCP: judged on leaving\"
\t\toifname \"lo\" meta skuid {uid} ip saddr {HANDOVER_V4} counter return comment \"the proxy hands an inbound connection to the application, v4\"
\t\toifname \"lo\" meta skuid {uid} ip6 saddr {HANDOVER_V6} counter return comment \"the proxy hands an inbound connection to the application, v6\"
\t\toifname \"lo\" meta skuid {uid} ip daddr != 127.0.0.0/8 meta l4proto tcp counter redirect to :{inbound} comment \"the proxy dialled its own pod, v4: arrives sealed\"
\t\toifname \"lo\" meta skuid {uid} ip6 daddr != ::1 meta l4proto tcp counter redirect to :{inbound} comment \"the proxy dialled its own pod, v6: arrives sealed\"
\t\toifname \"lo\" counter return comment \"stays inside the pod\"
\t\tmeta skuid {uid} ip daddr != {PROOF_V4} counter return comment \"the proxy itself, v4\"
\t\tmeta skuid {uid} ip6 daddr != {PROOF_V6} counter return comment \"the proxy itself, v6\"
\t\tmeta l4proto tcp counter redirect to :{outbound} comment \"captured\"
\t}}

\t# Steers what comes to the pod.
\tchain steer_in {{
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tiifname \"lo\" counter return comment \"inside the pod\"
\t\tmeta l4proto != tcp counter return comment \"not TCP: judged on entering\"
\t\ttcp dport {open} counter return comment \"health and metrics: judged on entering\"
\t\tmeta l4proto tcp counter redirect to :{inbound} comment \"captured\"
\t}}

\t# What may leave the pod. After postrouting, since a redirected packet is routed again.
\tchain leave {{
\t\ttype filter hook postrouting priority 0; policy drop;
\t\toifname \"lo\" goto inside
\t\ticmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report }} ip6 hoplimit {{ 1, 255 }} counter accept comment \"neighbour discovery\"
\t\texthdr rt exists counter drop comment \"v6 routing header: could lead past the destination that was judged\"
\t\tip option lsrr exists counter drop comment \"loose source route\"
\t\tip option ssrr exists counter drop comment \"strict source route\"
\t\tct state {{ invalid, untracked }} counter drop comment \"invalid or untracked\"
\t\tfib saddr type != local counter drop comment \"foreign source address\"
\t\tmeta l4proto tcp goto leave_tcp
\t\tmeta l4proto udp udp length > {MAX_DNS_DATAGRAM} counter drop comment \"UDP larger than a name lookup\""
    )?;
    write_resolvers(out, spec, Way::Leave)?;
    writeln!(
        out,
        "\t\ticmp type destination-unreachable icmp code frag-needed ct state related counter accept comment \"path MTU, v4\"
\t\ticmpv6 type packet-too-big ct state related counter accept comment \"path MTU, v6\"
\t\tmeta l4proto udp counter drop comment \"UDP\"
\t\tmeta l4proto {{ icmp, ipv6-icmp }} counter drop comment \"ICMP\"
\t\tmeta l4proto sctp counter drop comment \"SCTP\"
\t\tcounter drop comment \"anything else\"
\t}}

\t# The hard rule stands first: TCP of another UID never leaves, however its connection began.
\tchain leave_tcp {{
\t\tmeta skuid != {uid} counter drop comment \"TCP of another UID: got past steering, must stay 0\"
\t\tmeta skuid {uid} ct direction reply tcp sport {inbound} counter accept comment \"answers to captured inbound connections\"
\t\tmeta skuid {uid} ct direction reply tcp sport {open} counter accept comment \"answers to health and metrics\"
\t\tmeta skuid {uid} ct direction original ip daddr . tcp dport @declared_v4 ct mark set {MARK} counter accept comment \"the proxy to what is declared, v4\"
\t\tmeta skuid {uid} ct direction original ip6 daddr . tcp dport @declared_v6 ct mark set {MARK} counter accept comment \"the proxy to what is declared, v6\"
\t\tmeta skuid {uid} counter drop comment \"the proxy to what is not declared\"
\t\tct state established ct mark {MARK} tcp flags & (syn | rst | ack) != syn counter accept comment \"tail of a proxy's flow whose socket is gone\"
\t\tct state established ct direction reply ct mark {MARK} counter accept comment \"tail of an inbound flow whose socket is gone\"
\t\tcounter drop comment \"TCP that nobody owns\"
\t}}

\t# Inside the pod everything may talk, but nobody poses as the proxy while it is down.
\tchain inside {{
\t\tmeta l4proto tcp tcp sport {private} meta skuid != {uid} counter drop comment \"another UID listens on a port of the proxy\"
\t\tmeta l4proto tcp meta skuid {uid} tcp dport {private} ct status & dnat != dnat ct direction original counter drop comment \"the proxy into itself\"
\t\tcounter accept comment \"inside the pod\"
\t}}

\t# What may enter the pod.
\tchain enter {{
\t\ttype filter hook input priority 0; policy drop;
\t\tiifname \"lo\" counter accept comment \"inside the pod\"
\t\ticmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} ip6 hoplimit 255 counter accept comment \"neighbour discovery\"
\t\ticmpv6 type mld-listener-query ip6 hoplimit 1 counter accept comment \"multicast listener discovery\"
\t\texthdr rt exists counter drop comment \"v6 routing header\"
\t\tct state {{ invalid, untracked }} counter drop comment \"invalid or untracked\"
\t\tmeta l4proto tcp ct original proto-dst {private} counter drop comment \"a port of the proxy named directly\"
\t\tmeta l4proto tcp tcp dport {inbound} ct status dnat ct direction original ct mark set {MARK} counter accept comment \"captured\"
\t\ttcp dport {open} ct direction original ip saddr @node_v4 ct mark set {MARK} counter accept comment \"health and metrics for the node, v4\"
\t\ttcp dport {open} ct direction original ip6 saddr @node_v6 ct mark set {MARK} counter accept comment \"health and metrics for the node, v6\"
\t\tmeta l4proto tcp ct direction reply ct mark {MARK} counter accept comment \"answers to the proxy\""
    )?;
    write_resolvers(out, spec, Way::Enter)?;
    writeln!(
        out,
        "\t\ticmp type destination-unreachable icmp code frag-needed ct state related counter accept comment \"path MTU, v4\"
\t\ticmpv6 type packet-too-big ct state related counter accept comment \"path MTU, v6\"
\t\tmeta l4proto tcp counter drop comment \"TCP\"
\t\tmeta l4proto udp counter drop comment \"UDP\"
\t\tmeta l4proto {{ icmp, ipv6-icmp }} counter drop comment \"ICMP\"
\t\tmeta l4proto sctp counter drop comment \"SCTP\"
\t\tcounter drop comment \"anything else\"
\t}}

\tchain pass_through {{
\t\ttype filter hook forward priority 0; policy drop;
\t\tcounter drop comment \"a pod forwards nothing\"
\t}}
}}"
    )
}

/// Which of the two families a set is for.
#[derive(Copy, Clone)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_))
        )
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("v4", "ipv4_addr"),
            Self::V6 => ("v6", "ipv6_addr"),
        }
    }
}

fn write_sets(out: &mut String, spec: &CaptureSpec) -> std::fmt::Result {
    for family in [Family::V4, Family::V6] {
        let (name, kind) = family.names();
        let declared = declared(spec, family);
        writeln!(
            out,
            "\tset declared_{name} {{ type {kind} . inet_service; flags interval; {}comment \"where the proxy may connect to\"; }}",
            elements(&declared)
        )?;
        let node: Vec<_> = spec
            .node
            .iter()
            .filter(|net| family.has(net))
            .map(ToString::to_string)
            .collect();
        writeln!(
            out,
            "\tset node_{name} {{ type {kind}; flags interval; auto-merge; {}comment \"who may ask for health and metrics\"; }}",
            elements(&node)
        )?;
    }
    Ok(())
}

/// Addresses and ports that the proxy may connect to: the mesh, shared addresses, exceptions. A
/// concatenated set has no automatic merging, so what another element covers is left out.
fn declared(spec: &CaptureSpec, family: Family) -> Vec<String> {
    let mesh = spec.mesh.iter().map(|net| (*net, &[][..]));
    let services = spec
        .services
        .iter()
        .map(|(net, ports)| (*net, ports.as_slice()));
    let exceptions = spec
        .exceptions
        .iter()
        .map(|rule| (rule.destination, rule.ports.as_slice()));
    let own = spec
        .own
        .iter()
        .map(|(net, port)| (*net, std::slice::from_ref(port)));
    let mut ranges: Vec<(IpNet, Option<u16>)> = Vec::new();
    for (net, ports) in mesh
        .chain(services)
        .chain(exceptions)
        .chain(own)
        .filter(|(net, _)| family.has(net))
    {
        if ports.is_empty() {
            ranges.push((net, None));
        }
        ranges.extend(ports.iter().map(|port| (net, Some(*port))));
    }
    ranges.sort_by_key(|(net, port)| (net.prefix_len(), port.is_some()));
    let mut kept: Vec<(IpNet, Option<u16>)> = Vec::new();
    for (net, port) in ranges {
        let covered = kept
            .iter()
            .any(|(wider, any)| wider.contains(&net) && (any.is_none() || *any == port));
        if !covered {
            kept.push((net, port));
        }
    }
    kept.iter()
        .map(|(net, port)| match port {
            Some(port) => format!("{net} . {port}"),
            None => format!("{net} . 0-65535"),
        })
        .collect()
}

fn elements(values: &[String]) -> String {
    if values.is_empty() {
        return String::new();
    }
    format!("elements = {{ {} }}; ", values.join(", "))
}

#[derive(Copy, Clone)]
enum Way {
    Leave,
    Enter,
}

/// Name lookups over UDP, until their exception ends: the kernel itself looks at the clock. Over
/// TCP they go through the proxy like everything else.
fn write_resolvers(out: &mut String, spec: &CaptureSpec, way: Way) -> std::fmt::Result {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    for rule in spec
        .exceptions
        .iter()
        .filter(|rule| rule.kind == ExceptionKind::Dns)
    {
        let ip = match rule.destination {
            IpNet::V4(_) => "ip",
            IpNet::V6(_) => "ip6",
        };
        let address = rule.destination.addr();
        let expires = rule
            .expires
            .to_offset(UtcOffset::UTC)
            .format(format)
            .unwrap_or_else(|_| "1970-01-01 00:00:00".to_owned());
        for port in &rule.ports {
            match way {
                Way::Leave => write!(
                    out,
                    "\t\t{ip} daddr {address} udp dport {port} meta time < \"{expires}\""
                )?,
                Way::Enter => write!(
                    out,
                    "\t\t{ip} saddr {address} udp sport {port} ct direction reply"
                )?,
            }
            writeln!(
                out,
                " counter accept comment \"exception {}\"",
                comment(&rule.name)
            )?;
        }
    }
    Ok(())
}

/// What may stand in a comment of nft: short, and without quotes.
fn comment(name: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "-_. ".contains(c) {
            c
        } else {
            '?'
        }
    };
    name.chars().take(64).map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::super::{CaptureSpec, ExceptionSpec};
    use super::*;
    use crate::config::Ports;

    fn spec() -> CaptureSpec {
        CaptureSpec {
            uid: 1337,
            ports: Ports::default(),
            mesh: vec![
                "198.18.0.0/15".parse().unwrap(),
                "fd00:5ea1::/32".parse().unwrap(),
            ],
            services: vec![("198.19.0.10/32".parse().unwrap(), vec![80])],
            own: Vec::new(),
            exceptions: vec![ExceptionSpec {
                name: "cluster-dns".to_owned(),
                kind: ExceptionKind::Dns,
                destination: "203.0.113.53/32".parse().unwrap(),
                ports: vec![53],
                expires: datetime!(2030-01-02 03:04:05 UTC),
            }],
            node: vec!["198.18.255.1/32".parse().unwrap()],
        }
    }

    /// Loads a ruleset into a network namespace that exists for this alone.
    fn load(ruleset: &str) -> Result<(), String> {
        let mut nft = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "nft", "--file", "-"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin
            .take()
            .unwrap()
            .write_all(ruleset.as_bytes())
            .unwrap();
        let output = nft.wait_with_output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    #[test]
    fn the_kernel_accepts_the_rules() {
        load(&spec().ruleset()).unwrap();
    }

    #[test]
    fn an_exception_for_names_ends_in_the_kernel_too() {
        let rules = spec().ruleset();
        assert!(
            rules
                .contains("ip daddr 203.0.113.53 udp dport 53 meta time < \"2030-01-02 03:04:05\""),
            "{rules}"
        );
    }

    #[test]
    fn a_service_inside_a_mesh_range_is_not_declared_twice() {
        let mesh_alone = CaptureSpec {
            services: Vec::new(),
            own: Vec::new(),
            ..spec()
        };
        assert_eq!(
            declared(&spec(), Family::V4),
            declared(&mesh_alone, Family::V4)
        );
    }

    #[test]
    fn an_exceptions_name_cannot_add_rules() {
        let mut evil = spec();
        evil.exceptions[0].name = "x\" accept\n\t\taccept comment \"".to_owned();
        assert!(!evil.ruleset().contains("x\" accept"));
        load(&evil.ruleset()).unwrap();
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<[u8; 4]>(), 1..=32_u8)
                .prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap().trunc()),
            (any::<[u8; 16]>(), 1..=128_u8)
                .prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap().trunc()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_kernel_accepts_the_rules_of_any_configuration(
            mesh in prop::collection::vec(any_net(), 0..6),
            services in prop::collection::vec((any_net(), prop::collection::vec(1..u16::MAX, 0..4)), 0..6),
            node in prop::collection::vec(any_net(), 0..4),
        ) {
            let spec = CaptureSpec { mesh, services, node, ..spec() };
            prop_assert_eq!(load(&spec.ruleset()), Ok(()));
        }
    }
}
