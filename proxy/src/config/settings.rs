//! The configuration checked as a whole, in the types that the proxy works with.

use std::time::Duration;

use ipnet::IpNet;
use sealwire_identity::{CertificateFacts, Epoch, Profile, SpiffeIdPattern, TrustDomain};
use sealwire_keys::{
    Curve, Generate, KeyConfig, MemoryConfig, Pkcs11Config, Pkcs11Uri, VaultConfig,
};
use sealwire_link::{Direction, LinkLimits, LiveLink};
use time::OffsetDateTime;

use super::{
    CertificatesFrom, Config, ConfigError, EvidenceSettings, ExceptionKind, GenerateKey, KeyIn,
    KeySection, Pkcs11Section, RevocationSettings,
};
use crate::capture::{CaptureSpec, ExceptionSpec};
use crate::policy::{Decision, InboundPolicy, OutboundPolicy};

/// A configuration in which every field has been checked against the others.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file as written; free of secrets, since a URI with an inline PIN is refused.
    pub config: Config,
    /// Where the key is.
    pub key: KeyIn,
    /// Where Vault or OpenBao is, when something is in it.
    pub vault: Option<VaultConfig>,
    /// Where certificate and bundle come from.
    pub certificates: CertificatesFrom,
    /// Accepted trust domains; the first is our own.
    pub trust_domains: Vec<TrustDomain>,
    /// TLS profile.
    pub profile: &'static Profile,
    /// For how long TLS sessions may be resumed; never when none.
    pub resumption: Option<Duration>,
    /// Where revocation lists come from; nothing asks for them when none.
    pub revocation: Option<RevocationSettings>,
    /// What may go out, and how.
    pub outbound: OutboundPolicy,
    /// Who may come in.
    pub inbound: InboundPolicy,
    /// What the kernel's rules are made from.
    pub capture: CaptureSpec,
    /// Where evidence is written, and how; none is when none.
    pub evidence: Option<EvidenceSettings>,
    /// Bounds of links.
    pub links: LinkLimits,
}

impl Settings {
    /// Whether the policy lets a live link go on: one like it would be made today.
    pub fn lets_go_on(&self, link: &LiveLink, peer: &CertificateFacts) -> bool {
        let to = link.destination;
        match link.direction {
            Direction::Inbound => self.inbound.allows(&peer.spiffe_id, to.port()),
            Direction::Outbound => match self.outbound.decide(to, OffsetDateTime::now_utc()) {
                Decision::Seal(naming) => naming.check(peer, to.ip()).is_ok(),
                Decision::Except(_) | Decision::Refuse(_) => false,
            },
        }
    }
}

impl Config {
    /// Checks the configuration as a whole.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first field that is wrong, with the fix.
    pub fn settings(self) -> Result<Settings, ConfigError> {
        Ok(Settings {
            key: self.key()?,
            vault: self.vault()?,
            certificates: self.certificates()?,
            trust_domains: self.trust_domains()?,
            profile: Profile::by_name(&self.identity.profile).map_err(|error| {
                ConfigError::invalid(
                    "identity.profile",
                    error,
                    "use default, bsi-tr-02102-2 or cnsa-2.0",
                )
            })?,
            resumption: self.resumption()?,
            revocation: self.revocation()?,
            outbound: {
                self.check_exceptions()?;
                OutboundPolicy::new(&self)?
            },
            inbound: InboundPolicy::new(&self.inbound)?,
            capture: self.capture_spec()?,
            evidence: self.evidence()?,
            links: self.link_limits()?,
            config: self,
        })
    }

    /// What the kernel's rules are made from. Exceptions that have expired stay in, with their
    /// end: the rules themselves stop letting them pass.
    fn capture_spec(&self) -> Result<CaptureSpec, ConfigError> {
        self.check_ports()?;
        if self.capture.uid == 0 {
            return Err(ConfigError::invalid(
                "capture.uid",
                "the proxy does not run as root",
                "give it a UID of its own, such as 1337",
            ));
        }
        let nets = self
            .mesh
            .ranges
            .iter()
            .enumerate()
            .map(|(i, net)| (format!("mesh.ranges[{i}]"), net));
        let nodes = self
            .capture
            .node
            .iter()
            .enumerate()
            .map(|(i, net)| (format!("capture.node[{i}]"), net));
        for (field, net) in nets.chain(nodes) {
            check_net(field, net)?;
        }
        Ok(CaptureSpec {
            uid: self.capture.uid,
            ports: self.ports,
            mesh: self.mesh.ranges.clone(),
            services: self
                .mesh
                .services
                .iter()
                .map(|service| (service.destination, service.ports.clone()))
                .collect(),
            exceptions: self
                .exceptions
                .iter()
                .map(|rule| ExceptionSpec {
                    name: rule.name.clone(),
                    kind: rule.kind,
                    destination: rule.destination,
                    ports: rule.ports.clone(),
                    expires: rule.expires,
                })
                .collect(),
            own: [self.vault_ranges()?, self.hsm_ranges()?].concat(),
            node: self.capture.node.clone(),
        })
    }

    /// Where the PKCS#11 module has to connect to.
    fn hsm_ranges(&self) -> Result<Vec<(IpNet, u16)>, ConfigError> {
        let KeySection::Pkcs11(section) = &self.key else {
            return Ok(Vec::new());
        };
        for (i, range) in section.ranges.iter().enumerate() {
            check_net(format!("key.pkcs11.ranges[{i}]"), range)?;
        }
        if section.ranges.is_empty() != section.ports.is_empty() || section.ports.contains(&0) {
            return Err(ConfigError::invalid(
                "key.pkcs11.ports",
                format!("{:?} with ranges {:?}", section.ports, section.ranges),
                "name addresses and ports of the HSM, or neither where the module needs no network",
            ));
        }
        let ports = |range: &IpNet| section.ports.iter().map(|port| (*range, *port)).collect();
        Ok(section.ranges.iter().flat_map::<Vec<_>, _>(ports).collect())
    }

    fn key(&self) -> Result<KeyIn, ConfigError> {
        match &self.key {
            KeySection::Pkcs11(section) => {
                Ok(KeyIn::Here(KeyConfig::Pkcs11(Box::new(Pkcs11Config {
                    module: section.module.clone(),
                    uri: section.uri.parse().map_err(|error| {
                        ConfigError::invalid(
                            "key.pkcs11.uri",
                            error,
                            "write it as pkcs11:token=NAME;object=NAME?pin-source=file:/path",
                        )
                    })?,
                    max_sessions: section.max_sessions,
                    queue: section.queue,
                    wait: Duration::from_secs(section.wait_seconds),
                    generate: self.generate(section)?,
                    certified: None,
                    state: section.state.clone(),
                }))))
            }
            KeySection::VaultTransit(section) => self.transit(section).map(KeyIn::Transit),
            KeySection::Memory(_) if !self.development => Err(ConfigError::invalid(
                "key.memory",
                "a key in memory can be copied out of this process",
                "use key.pkcs11, or say development: true where nothing has to be protected",
            )),
            KeySection::Memory(section) => Ok(KeyIn::Here(KeyConfig::Memory(MemoryConfig {
                path: section.file.clone(),
                development: true,
            }))),
        }
    }

    /// Where an authority issues certificates for whatever key there is, one is made at the start
    /// and dies with the process, unless a certain one is named by its id.
    fn generate(&self, section: &Pkcs11Section) -> Result<Option<Generate>, ConfigError> {
        let online = self.identity.vault_pki.is_some();
        let named = section
            .uri
            .parse::<Pkcs11Uri>()
            .is_ok_and(|uri| uri.id().is_some());
        let curve = match section.generate {
            Some(GenerateKey::None) => return Ok(None),
            None if named || !online => return Ok(None),
            None | Some(GenerateKey::P256) => Curve::P256,
            Some(GenerateKey::P384) => Curve::P384,
        };
        let wrong = |problem, fix| Err(ConfigError::invalid("key.pkcs11.generate", problem, fix));
        if !online {
            return wrong(
                "nobody would issue a certificate for a key that is made here",
                "say identity.vaultPki, or name a key that is there",
            );
        }
        if named {
            return wrong(
                "the URI names a certain key by its id",
                "leave id= out, or say generate: none",
            );
        }
        Ok(Some(Generate {
            curve,
            max_age: section.max_age_seconds.map(Duration::from_secs),
        }))
    }

    fn trust_domains(&self) -> Result<Vec<TrustDomain>, ConfigError> {
        if self.identity.trust_domains.is_empty() {
            return Err(ConfigError::invalid(
                "identity.trustDomains",
                "no trust domain is accepted",
                "name at least this workload's own",
            ));
        }
        self.identity
            .trust_domains
            .iter()
            .enumerate()
            .map(|(i, name)| {
                name.parse().map_err(|error| {
                    ConfigError::invalid(
                        format!("identity.trustDomains[{i}]"),
                        error,
                        "write it like mesh.example, without spiffe://",
                    )
                })
            })
            .collect()
    }

    fn resumption(&self) -> Result<Option<Duration>, ConfigError> {
        let section = &self.identity.resumption;
        let lifetime = Duration::from_secs(section.lifetime_seconds);
        if lifetime.is_zero() || lifetime > Epoch::LONGEST_SESSION {
            return Err(ConfigError::invalid(
                "identity.resumption.lifetimeSeconds",
                format!(
                    "{} is not between 1 and {}",
                    section.lifetime_seconds,
                    Epoch::LONGEST_SESSION.as_secs()
                ),
                "use a lifetime in between, or enabled: false",
            ));
        }
        Ok(section.enabled.then_some(lifetime))
    }

    fn check_exceptions(&self) -> Result<(), ConfigError> {
        for (i, rule) in self.exceptions.iter().enumerate() {
            let field = |name: &str| format!("exceptions[{i}].{name}");
            let said = [
                ("name", &rule.name),
                ("reason", &rule.reason),
                ("owner", &rule.owner),
            ];
            for (name, text) in said {
                if text.trim().is_empty() || text.chars().any(char::is_control) {
                    return Err(ConfigError::invalid(
                        field(name),
                        "empty, or with control characters",
                        "say it in one line: an auditor will read it",
                    ));
                }
            }
            if rule.ports.is_empty() {
                return Err(ConfigError::invalid(
                    field("ports"),
                    "an exception for every port is none",
                    "name the ports",
                ));
            }
            if rule.kind == ExceptionKind::Dns
                && rule.destination.prefix_len() != rule.destination.max_prefix_len()
            {
                return Err(ConfigError::invalid(
                    field("destination"),
                    format!("{} is a range", rule.destination),
                    "name each resolver by its address (/32 or /128)",
                ));
            }
            check_net(field("destination"), &rule.destination)?;
            let twin = self.exceptions[..i]
                .iter()
                .any(|other| other.name == rule.name);
            if twin {
                return Err(ConfigError::invalid(
                    field("name"),
                    format!("{:?} is used twice", rule.name),
                    "give each exception a name of its own",
                ));
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), ConfigError> {
        let ports = self.ports.named();
        for (i, (name, port)) in ports.iter().enumerate() {
            let twin = ports[..i].iter().find(|(_, other)| other == port);
            if *port == 0 || twin.is_some() {
                return Err(ConfigError::invalid(
                    format!("ports.{name}"),
                    format!("{port} is zero or taken by another of the proxy's listeners"),
                    "give each listener a port of its own",
                ));
            }
        }
        Ok(())
    }

    fn link_limits(&self) -> Result<LinkLimits, ConfigError> {
        let limits = &self.limits;
        let positive = [
            ("connections", limits.connections),
            ("handshakes", limits.handshakes),
            ("workers", limits.workers),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(
                format!("limits.{name}"),
                "with none nothing can work",
                "use at least 1",
            ));
        }
        if limits.handshake_seconds == 0 {
            return Err(ConfigError::invalid(
                "limits.handshakeSeconds",
                "no handshake can end in no time",
                "use at least 1",
            ));
        }
        Ok(LinkLimits {
            handshakes: limits.handshakes,
            waiting: limits.handshakes_waiting,
            handshake: Duration::from_secs(limits.handshake_seconds),
            half_closed_idle: Duration::from_secs(limits.half_closed_idle_seconds),
            drain: Duration::from_secs(limits.expiry_drain_seconds),
        })
    }
}

impl super::Ports {
    /// Each listener's name and port.
    pub fn named(&self) -> [(&'static str, u16); 5] {
        [
            ("outbound", self.outbound),
            ("inbound", self.inbound),
            ("admin", self.admin),
            ("metrics", self.metrics),
            ("health", self.health),
        ]
    }
}

/// Parses patterns; at least one is needed.
pub(crate) fn patterns(field: &str, texts: &[String]) -> Result<Vec<SpiffeIdPattern>, ConfigError> {
    if texts.is_empty() {
        return Err(ConfigError::invalid(
            field,
            "names nobody",
            "name at least one SPIFFE ID; spiffe://DOMAIN/** stands for a whole trust domain",
        ));
    }
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|error| {
                ConfigError::invalid(
                    field,
                    error,
                    "write it like spiffe://mesh.example/ns/shop/sa/web, with * for a segment or a last **",
                )
            })
        })
        .collect()
}

/// Refuses host bits: whoever wrote them may have meant the one address.
pub(crate) fn check_net(field: String, net: &IpNet) -> Result<(), ConfigError> {
    if net.addr() == net.network() {
        return Ok(());
    }
    let host = IpNet::from(net.addr());
    Err(ConfigError::invalid(
        field,
        format!("{net} has bits beyond its prefix"),
        format!(
            "write {} for the range or {host} for the address",
            net.trunc()
        ),
    ))
}
