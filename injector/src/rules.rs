//! Rules that namespaces declare about themselves, in annotations. Whoever may annotate a namespace
//! decides who answers behind its Services and who may connect to its pods; about other namespaces
//! such an annotation says nothing. What is wrong in one is left out and said, and no other
//! namespace suffers from it.

use std::collections::BTreeMap;

use sealwire_proxy::config::{Config, InboundRule, ServiceRule};
use serde::de::DeserializeOwned;

use crate::config::{InjectorConfig, sample_pod};
use crate::names;

/// The largest annotation that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Most rules in one annotation.
const MOST: usize = 200;

/// What a namespace declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Who answers behind its Services' addresses.
    pub services: Vec<ServiceRule>,
    /// Who may connect to its pods.
    pub inbound: Vec<InboundRule>,
    /// What is wrong, each with field and fix.
    pub problems: Vec<String>,
}

impl Rules {
    /// Reads a namespace's annotations.
    pub fn read(
        namespace: &str,
        annotations: &BTreeMap<String, String>,
        config: &InjectorConfig,
    ) -> Self {
        let mut problems = Vec::new();
        let mut services: Vec<ServiceRule> = parse(names::SERVICES, annotations, &mut problems);
        let mut inbound: Vec<InboundRule> = parse(names::INBOUND, annotations, &mut problems);
        services.retain(|rule| {
            let problem = foreign(namespace, rule, config).or_else(|| {
                refused(&config.proxy, |proxy| {
                    proxy.mesh.services.push(rule.clone())
                })
            });
            keep(names::SERVICES, problem, &mut problems)
        });
        inbound.retain(|rule| {
            let problem = refused(&config.proxy, |proxy| {
                proxy.inbound.allow.push(rule.clone())
            });
            keep(names::INBOUND, problem, &mut problems)
        });
        Self {
            services,
            inbound,
            problems,
        }
    }
}

/// The sidecars' configuration for one namespace: the mesh's own, the namespace's, and who answers
/// behind the Services of all. Where two namespaces claim one destination, neither has it.
pub fn configuration(
    namespace: &str,
    all: &BTreeMap<String, Rules>,
    config: &InjectorConfig,
) -> (Config, Vec<String>) {
    let mut proxy = config.proxy.clone();
    proxy.probes = Some(names::PROBES_FILE.into());
    let mut problems = Vec::new();
    let own = config
        .exceptions
        .iter()
        .filter(|exception| exception.namespaces.iter().any(|name| name == namespace));
    proxy
        .exceptions
        .extend(own.map(|exception| exception.exception.clone()));
    for (owner, rules) in all {
        for rule in &rules.services {
            let claimed_too = all
                .iter()
                .filter(|(other, _)| *other != owner)
                .find(|(_, other)| other.services.iter().any(|other| overlap(rule, other)));
            let problem = match claimed_too {
                Some((other, _)) => Some(format!(
                    "{}: {} is claimed by the namespace {other} as well: only the Service's own namespace may",
                    names::SERVICES,
                    rule.destination
                )),
                None => refused(&proxy, |proxy| proxy.mesh.services.push(rule.clone())),
            };
            match problem {
                None => proxy.mesh.services.push(rule.clone()),
                // Said where it was declared.
                Some(problem) if owner == namespace => problems.push(problem),
                Some(_) => {}
            }
        }
    }
    if let Some(rules) = all.get(namespace) {
        proxy.inbound.allow.extend(rules.inbound.iter().cloned());
        problems.extend(rules.problems.iter().cloned());
    }
    (proxy, problems)
}

fn parse<T: DeserializeOwned>(
    name: &str,
    annotations: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Vec<T> {
    let Some(text) = annotations.get(name) else {
        return Vec::new();
    };
    if text.len() > MAX_BYTES {
        problems.push(format!(
            "{name}: larger than {MAX_BYTES} bytes: write fewer rules"
        ));
        return Vec::new();
    }
    match serde_saphyr::from_str::<Vec<T>>(text) {
        Ok(rules) if rules.len() > MOST => {
            problems.push(format!(
                "{name}: {} rules, and {MOST} are taken: join some",
                rules.len()
            ));
            Vec::new()
        }
        Ok(rules) => rules,
        Err(error) => {
            problems.push(format!(
                "{name}: {error}: write a YAML list as in docs/injector.md"
            ));
            Vec::new()
        }
    }
}

fn keep(name: &str, problem: Option<String>, problems: &mut Vec<String>) -> bool {
    let good = problem.is_none();
    problems.extend(problem.map(|problem| format!("{name}: {problem}")));
    good
}

/// A namespace speaks for its own identities, and for single addresses only.
fn foreign(namespace: &str, rule: &ServiceRule, config: &InjectorConfig) -> Option<String> {
    if rule.destination.prefix_len() != rule.destination.max_prefix_len() {
        return Some(format!(
            "{} is a range: name each Service by its address (/32 or /128)",
            rule.destination
        ));
    }
    let domain = config.proxy.identity.trust_domains.first()?;
    let own = format!("spiffe://{domain}/ns/{namespace}/");
    let other = rule
        .identities
        .iter()
        .find(|identity| !identity.starts_with(&own))?;
    Some(format!(
        "{other} is no identity of this namespace: they begin with {own}"
    ))
}

/// What a sidecar would say to a configuration with this in it.
fn refused(proxy: &Config, with: impl FnOnce(&mut Config)) -> Option<String> {
    let mut proxy = proxy.clone();
    with(&mut proxy);
    let settings = proxy
        .for_pod(&sample_pod("default"))
        .and_then(Config::settings);
    settings.err().map(|error| error.to_string())
}

fn overlap(one: &ServiceRule, other: &ServiceRule) -> bool {
    let nets = one.destination.contains(&other.destination)
        || other.destination.contains(&one.destination);
    let any = one.ports.is_empty() || other.ports.is_empty();
    nets && (any || one.ports.iter().any(|port| other.ports.contains(port)))
}
