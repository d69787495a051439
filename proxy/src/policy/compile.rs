//! From the configuration's lists to rules in the order in which they are asked.

use std::cmp::Reverse;

use ipnet::IpNet;
use sealwire_identity::Naming;

use super::{Action, Allowed, Rule};
use crate::config::{Config, ConfigError, InboundSection, check_net, patterns};

pub(super) fn outbound(config: &Config) -> Result<Vec<Rule>, ConfigError> {
    let mut rules = Vec::new();
    let mut add = |field: String, net: IpNet, ports: &[u16], action| {
        check_net(format!("{field}.destination"), &net)?;
        let rule = Rule {
            net,
            ports: ports.to_vec(),
            action,
        };
        if rules.iter().any(|other: &Rule| other.clashes(&rule)) {
            return Err(ConfigError::invalid(
                field,
                format!("another rule already decides about {net} and a port of this one"),
                "keep one of them, or give one of them a longer prefix",
            ));
        }
        rules.push(rule);
        Ok(())
    };
    for (i, net) in config.mesh.ranges.iter().enumerate() {
        add(
            format!("mesh.ranges[{i}]"),
            *net,
            &[],
            Action::Seal(Naming::Address),
        )?;
    }
    for (i, service) in config.mesh.services.iter().enumerate() {
        let expected = patterns(
            &format!("mesh.services[{i}].identities"),
            &service.identities,
        )?;
        add(
            format!("mesh.services[{i}]"),
            service.destination,
            &service.ports,
            Action::Seal(Naming::Identity(expected)),
        )?;
    }
    for (i, rule) in config.exceptions.iter().enumerate() {
        add(
            format!("exceptions[{i}]"),
            rule.destination,
            &rule.ports,
            Action::Except(rule.clone()),
        )?;
    }
    rules.sort_by_key(|rule| (Reverse(rule.net.prefix_len()), rule.ports.is_empty()));
    Ok(rules)
}

pub(super) fn inbound(section: &InboundSection) -> Result<Vec<Allowed>, ConfigError> {
    let rules = section.allow.iter().enumerate();
    rules
        .map(|(i, rule)| {
            Ok(Allowed {
                from: patterns(&format!("inbound.allow[{i}].from"), &rule.from)?,
                ports: rule.ports.clone(),
            })
        })
        .collect()
}

impl Rule {
    /// Whether both rules would decide about the same destination, with nothing to choose
    /// between them.
    fn clashes(&self, other: &Self) -> bool {
        self.net == other.net
            && self.ports.is_empty() == other.ports.is_empty()
            && (self.ports.is_empty() || self.ports.iter().any(|port| other.ports.contains(port)))
    }
}
