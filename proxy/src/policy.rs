//! What may go out and how, and who may come in. Pure decisions over addresses and identities:
//! the destination decides, never a guess about the bytes.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use sealwire_identity::{Naming, SpiffeId, SpiffeIdPattern};
use time::OffsetDateTime;

use crate::config::{Config, ConfigError, ExceptionRule, InboundSection};

mod compile;

/// What may go out. The longest prefix decides; among equal ones the rule with ports.
#[derive(Clone, Debug, Default)]
pub struct OutboundPolicy {
    /// Longest prefix first, rules with ports before those without.
    rules: Vec<Rule>,
}

/// What the policy makes of a destination.
#[derive(Debug)]
pub enum Decision<'a> {
    /// Seal it; the peer must be whom the naming says.
    Seal(&'a Naming),
    /// A declared exception in force.
    Except(&'a ExceptionRule),
    /// Refuse it.
    Refuse(Refusal<'a>),
}

/// Why a destination is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal<'a> {
    /// Nothing is declared for it.
    #[error(
        "{destination} is neither in the mesh nor a declared exception: add a workload's address range to mesh.ranges, \
         a shared address such as a ClusterIP to mesh.services as {{destination: {ip}/{prefix}, ports: [{port}], \
         identities: [spiffe://…]}}, or declare it under exceptions with reason, owner and expires",
        ip = destination.ip(),
        prefix = if destination.is_ipv4() { 32 } else { 128 },
        port = destination.port()
    )]
    Undeclared {
        /// Where the application wanted to go.
        destination: SocketAddr,
    },
    /// The exception for it is over.
    #[error(
        "the exception {name:?} for {destination} expired at {expires}: seal the destination, or have {owner} extend it",
        name = rule.name, expires = rule.expires, owner = rule.owner
    )]
    Expired {
        /// Where the application wanted to go.
        destination: SocketAddr,
        /// The exception.
        rule: &'a ExceptionRule,
    },
}

impl Refusal<'_> {
    /// A short, bounded name for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Undeclared { .. } => "undeclared",
            Self::Expired { .. } => "exception_expired",
        }
    }
}

#[derive(Clone, Debug)]
struct Rule {
    net: IpNet,
    /// All when empty.
    ports: Vec<u16>,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Seal(Naming),
    Except(ExceptionRule),
}

impl OutboundPolicy {
    /// Compiles the mesh and the exceptions.
    ///
    /// # Errors
    /// When two rules claim the same destination and port, or a pattern cannot be parsed.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        compile::outbound(config).map(|rules| Self { rules })
    }

    /// What to do with a connection to `destination` at the time `now`.
    pub fn decide(&self, destination: SocketAddr, now: OffsetDateTime) -> Decision<'_> {
        let ip = destination.ip().to_canonical();
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.covers(ip, destination.port()));
        match rule.map(|rule| &rule.action) {
            Some(Action::Seal(naming)) => Decision::Seal(naming),
            Some(Action::Except(rule)) if now >= rule.expires => {
                Decision::Refuse(Refusal::Expired { destination, rule })
            }
            Some(Action::Except(rule)) => Decision::Except(rule),
            None => Decision::Refuse(Refusal::Undeclared { destination }),
        }
    }
}

impl Rule {
    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.net.contains(&ip) && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

#[derive(Clone, Debug)]
struct Allowed {
    from: Vec<SpiffeIdPattern>,
    /// All when empty.
    ports: Vec<u16>,
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct InboundPolicy {
    rules: Vec<Allowed>,
}

impl InboundPolicy {
    /// Compiles the rules.
    ///
    /// # Errors
    /// When a rule names nobody or a pattern cannot be parsed.
    pub fn new(section: &InboundSection) -> Result<Self, ConfigError> {
        compile::inbound(section).map(|rules| Self { rules })
    }

    /// Whether `peer` may connect to `port`.
    pub fn allows(&self, peer: &SpiffeId, port: u16) -> bool {
        self.rules.iter().any(|rule| {
            (rule.ports.is_empty() || rule.ports.contains(&port))
                && rule.from.iter().any(|pattern| pattern.matches(peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);

    fn policy(mesh_and_exceptions: &str) -> OutboundPolicy {
        let identity = "identity: { trustDomains: [m.example], certificate: /c, bundle: /b }\n\
                        development: true\nkey: { memory: { file: /k } }\n";
        OutboundPolicy::new(&Config::parse(&format!("{identity}{mesh_and_exceptions}")).unwrap())
            .unwrap()
    }

    fn exception(name: &str, destination: &str, expires: &str) -> String {
        format!(
            "  - {{ name: {name}, kind: passthrough, destination: {destination}, ports: [80], reason: r, owner: o, expires: {expires} }}\n"
        )
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_in_a_range_is_sealed_by_address() {
        let policy = policy("mesh: { ranges: [198.18.0.0/15] }");
        assert!(matches!(
            policy.decide(at("198.18.0.9:80"), NOW),
            Decision::Seal(Naming::Address)
        ));
    }

    #[test]
    fn a_v4_mapped_address_is_judged_as_the_v4_address_it_is() {
        let policy = policy("mesh: { ranges: [198.18.0.0/15] }");
        assert!(matches!(
            policy.decide(at("[::ffff:198.18.0.9]:80"), NOW),
            Decision::Seal(_)
        ));
    }

    #[test]
    fn the_longest_prefix_decides() {
        let rules = "mesh: { ranges: [198.18.0.0/15] }\nexceptions:\n".to_owned()
            + &exception("one", "198.18.0.7/32", "2027-01-01T00:00:00Z");
        let policy = policy(&rules);
        assert!(
            matches!(policy.decide(at("198.18.0.7:80"), NOW), Decision::Except(rule) if rule.name == "one")
        );
        assert!(matches!(
            policy.decide(at("198.18.0.7:81"), NOW),
            Decision::Seal(_)
        ));
    }

    #[test]
    fn an_expired_exception_refuses_and_does_not_fall_back() {
        let rules = "mesh: { ranges: [198.18.0.0/15] }\nexceptions:\n".to_owned()
            + &exception("old", "198.18.0.7/32", "2026-01-01T00:00:00Z");
        let policy = policy(&rules);
        let Decision::Refuse(refusal) = policy.decide(at("198.18.0.7:80"), NOW) else {
            panic!("let through");
        };
        assert_eq!(refusal.reason(), "exception_expired");
        assert!(refusal.to_string().contains("\"old\""));
    }

    #[test]
    fn a_service_is_sealed_by_identity() {
        let policy = policy(
            "mesh: { services: [{ destination: 198.19.0.1/32, ports: [80], identities: [\"spiffe://m.example/web\"] }] }",
        );
        assert!(matches!(
            policy.decide(at("198.19.0.1:80"), NOW),
            Decision::Seal(Naming::Identity(expected)) if expected.len() == 1
        ));
    }

    #[test]
    fn what_is_neither_is_refused_and_the_message_shows_the_rule_to_write() {
        let policy = policy("mesh: { ranges: [198.18.0.0/15] }");
        let Decision::Refuse(refusal) = policy.decide(at("203.0.113.1:443"), NOW) else {
            panic!("let through");
        };
        assert_eq!(refusal.reason(), "undeclared");
        assert!(
            refusal
                .to_string()
                .contains("{destination: 203.0.113.1/32, ports: [443]")
        );
    }

    #[test]
    fn nobody_may_come_in_unless_allowed_by_identity_and_port() {
        let section =
            |text: &str| InboundPolicy::new(&serde_saphyr::from_str(text).unwrap()).unwrap();
        let web = "spiffe://m.example/ns/shop/sa/web".parse().unwrap();
        assert!(!section("{}").allows(&web, 80));
        let rules = section("allow: [{ from: [\"spiffe://m.example/ns/shop/**\"], ports: [80] }]");
        assert!(rules.allows(&web, 80));
        assert!(!rules.allows(&web, 81));
        assert!(!rules.allows(&"spiffe://m.example/ns/other/sa/web".parse().unwrap(), 80));
    }
}
