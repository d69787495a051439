//! Rules that namespaces declare about themselves, in annotations. Whoever may annotate a namespace
//! decides who answers behind its Services and who may connect to its pods; about other namespaces
//! such an annotation says nothing. What is wrong in one is left out and said, and no other
//! namespace suffers from it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sealwire_proxy::config::{Config, InboundRule, ServiceRule};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{InjectorConfig, sample_pod};
use crate::names;

/// The largest annotation that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Most rules in one annotation.
const MOST: usize = 200;

/// Most bytes that the rules of one annotation may come to in a configuration, where each port has a
/// line.
const MAX_WRITTEN: usize = 128 * 1024;

/// Most bytes that the rules about the Services of all namespaces may come to: every configuration
/// holds them, and a ConfigMap no more than a MiB.
const MAX_SERVICES: usize = 512 * 1024;

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

/// What all namespaces declare, and what of it counts: where two claim one destination, neither has
/// it. Found out once for all of them, since each learns it.
#[derive(Debug)]
pub struct Mesh<'a> {
    config: &'a InjectorConfig,
    all: &'a BTreeMap<String, Rules>,
    /// Who answers behind the Services of all, each with the namespace that says so.
    services: Vec<(&'a str, &'a ServiceRule)>,
    /// What is wrong with them, by namespace.
    problems: BTreeMap<&'a str, Vec<String>>,
}

impl<'a> Mesh<'a> {
    /// Of what each namespace declares.
    pub fn new(all: &'a BTreeMap<String, Rules>, config: &'a InjectorConfig) -> Self {
        // A namespace speaks for single addresses only, so that two that overlap are of one.
        let mut claims: BTreeMap<IpAddr, Vec<(&str, &ServiceRule)>> = BTreeMap::new();
        for (owner, rules) in all {
            for rule in &rules.services {
                let claimed = claims.entry(rule.destination.addr()).or_default();
                claimed.push((owner, rule));
            }
        }
        let mut mesh = Self {
            config,
            all,
            services: Vec::new(),
            problems: BTreeMap::new(),
        };
        for (owner, rule) in claims.values().flatten() {
            let rivals = claims.get(&rule.destination.addr()).into_iter().flatten();
            let mut rivals = rivals.filter(|(other, _)| other != owner);
            match rivals.find(|(_, other)| overlap(rule, other)) {
                Some((other, _)) => mesh.problems.entry(owner).or_default().push(format!(
                    "{}: {} is claimed by the namespace {other} as well: only the Service's own namespace may",
                    names::SERVICES,
                    rule.destination
                )),
                None => mesh.services.push((owner, rule)),
            }
        }
        mesh.keep_within(MAX_SERVICES);
        mesh
    }

    /// Leaves out the rules of the namespaces that have most, where all together are too large:
    /// whoever declares little does not suffer from who declares much.
    fn keep_within(&mut self, most: usize) {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (owner, rule) in &self.services {
            *sizes.entry(owner).or_default() += written(rule);
        }
        let mut smallest_first: Vec<_> =
            sizes.iter().map(|(owner, size)| (*size, *owner)).collect();
        smallest_first.sort_unstable();
        let mut sum = 0;
        for (size, owner) in smallest_first {
            sum += size;
            if sum > most {
                self.services.retain(|(of, _)| *of != owner);
                self.problems.entry(owner).or_default().push(format!(
                    "{}: the rules of all namespaces come to more than {most} bytes, and this namespace's {size} are among the most: \
                     write fewer rules, or leave ports out",
                    names::SERVICES,
                ));
            }
        }
    }

    /// The sidecars' configuration for one namespace, and what is wrong with what it declares: the
    /// mesh's own, the namespace's, and who answers behind the Services of all.
    pub fn configuration(&self, namespace: &str) -> (Config, Vec<String>) {
        let mut proxy = self.config.proxy.clone();
        proxy.probes = Some(names::PROBES_FILE.into());
        let exceptions = self.config.exceptions.iter();
        let own = exceptions.filter(|one| one.namespaces.iter().any(|name| name == namespace));
        proxy
            .exceptions
            .extend(own.map(|exception| exception.exception.clone()));
        let mut problems = self.problems.get(namespace).cloned().unwrap_or_default();
        let services = || self.services.iter().map(|(_, rule)| (*rule).clone());
        if refused(&proxy, |proxy| proxy.mesh.services.extend(services())).is_none() {
            proxy.mesh.services.extend(services());
        } else {
            self.extend_one_by_one(&mut proxy, namespace, &mut problems);
        }
        if let Some(rules) = self.all.get(namespace) {
            proxy.inbound.allow.extend(rules.inbound.iter().cloned());
            problems.extend(rules.problems.iter().cloned());
        }
        (proxy, problems)
    }

    /// Where a rule goes with the others but not with the rest of a configuration, the others stay.
    fn extend_one_by_one(&self, proxy: &mut Config, namespace: &str, problems: &mut Vec<String>) {
        for (owner, rule) in &self.services {
            match refused(proxy, |proxy| proxy.mesh.services.push((*rule).clone())) {
                None => proxy.mesh.services.push((*rule).clone()),
                // Said where it was declared.
                Some(problem) if *owner == namespace => problems.push(problem),
                Some(_) => {}
            }
        }
    }
}

fn parse<T: DeserializeOwned + Serialize>(
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
        Ok(rules) if rules.iter().map(written).sum::<usize>() > MAX_WRITTEN => {
            problems.push(format!(
                "{name}: more than {MAX_WRITTEN} bytes in a configuration, where each port has a line: write fewer rules, or leave ports out"
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

/// How many bytes a rule takes in a configuration, at the most.
fn written(rule: &impl Serialize) -> usize {
    /// What is put before each of its lines there, or more.
    const INDENT: usize = 10;
    // What cannot be written is found out where it is.
    let text = serde_json::to_string_pretty(rule).unwrap_or_default();
    text.len() + INDENT * text.lines().count()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "spiffe://mesh.example/ns/shop/sa/web";

    fn config() -> InjectorConfig {
        let text = include_str!("config/example.yaml");
        InjectorConfig::parse(text).unwrap().checked().unwrap()
    }

    fn read(namespace: &str, name: &str, text: &str) -> Rules {
        let annotations = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        Rules::read(namespace, &annotations, &config())
    }

    fn service(destination: &str, identity: &str) -> String {
        format!("[{{ destination: {destination}, ports: [80], identities: [\"{identity}\"] }}]")
    }

    #[test]
    fn what_a_namespace_says_of_its_services_reaches_all_and_of_its_pods_itself_alone() {
        let mut shop = read("shop", names::SERVICES, &service("198.19.0.77/32", SHOP));
        shop.inbound = read(
            "shop",
            names::INBOUND,
            "[{ from: [\"spiffe://mesh.example/ns/front/**\"] }]",
        )
        .inbound;
        let all = BTreeMap::from([
            ("shop".to_owned(), shop),
            ("front".to_owned(), Rules::default()),
        ]);
        for (namespace, allowed) in [("shop", 1), ("front", 0)] {
            let (proxy, problems) = Mesh::new(&all, &config()).configuration(namespace);
            assert_eq!(problems, Vec::<String>::new());
            assert_eq!(proxy.mesh.services.len(), 3);
            assert_eq!(proxy.inbound.allow.len(), allowed);
        }
    }

    #[test]
    fn what_a_namespace_may_not_say_is_left_out_and_said() {
        for (text, problem) in [
            (service("198.19.0.0/24", SHOP), "198.19.0.0/24 is a range"),
            (
                service("198.19.0.77/32", "spiffe://mesh.example/ns/shopping/sa/web"),
                "no identity of this namespace",
            ),
            (
                service("198.19.0.77/32", "spiffe://mesh.example/**"),
                "no identity of this namespace",
            ),
            (
                service("198.19.0.10/32", SHOP).replace("80", "443"),
                "198.19.0.10/32",
            ),
            ("{ not: a list }".to_owned(), "write a YAML list"),
            ("[{ destination: 198.19.0.77/32 }]".to_owned(), "identities"),
            (format!("[{}]", " ".repeat(MAX_BYTES)), "larger than"),
        ] {
            let rules = read("shop", names::SERVICES, &text);
            assert!(rules.services.is_empty(), "{text}");
            let said = rules.problems.join(" ");
            assert!(
                said.contains(problem) && said.starts_with(names::SERVICES),
                "{said}"
            );
        }
        let rules = read(
            "shop",
            names::INBOUND,
            "[{ from: [nonsense] }, { from: [\"spiffe://a.example/*\"] }]",
        );
        assert_eq!((rules.inbound.len(), rules.problems.len()), (1, 1));
    }

    #[test]
    fn a_rule_that_comes_to_much_more_than_its_text_is_left_out_and_said() {
        let ports = "80,".repeat(MAX_WRITTEN / 16);
        let text = service("198.19.0.77/32", SHOP).replace("80", &ports);
        assert!(text.len() < MAX_BYTES);
        let rules = read("shop", names::SERVICES, &text);
        assert!(rules.services.is_empty());
        assert!(rules.problems[0].contains("leave ports out"), "{rules:?}");
    }

    #[test]
    fn where_all_declare_too_much_those_who_declare_most_are_left_out_and_told() {
        let declare = |namespace: &str, number: u8, ports: usize| {
            let identity = format!("spiffe://mesh.example/ns/{namespace}/sa/web");
            let text = service(&format!("198.19.1.{number}/32"), &identity);
            let text = text.replace("80", &vec!["80"; ports].join(","));
            read(namespace, names::SERVICES, &text)
        };
        let large = 6_000;
        let mut all = BTreeMap::from([("shop".to_owned(), declare("shop", 0, 1))]);
        for number in 1..=9 {
            let name = format!("large-{number}");
            let ports = large + usize::from(number);
            all.insert(name.clone(), declare(&name, number, ports));
        }
        let config = config();
        let mesh = Mesh::new(&all, &config);
        let (proxy, problems) = mesh.configuration("shop");
        assert_eq!(problems, Vec::<String>::new());
        let text = serde_json::to_string_pretty(&proxy).unwrap();
        assert!(text.len() < MAX_SERVICES + MAX_WRITTEN, "{}", text.len());
        assert!(text.contains("198.19.1.0/32") && text.contains("198.19.1.1/32"));
        assert!(!text.contains("198.19.1.9/32"));
        let (_, problems) = mesh.configuration("large-9");
        assert!(problems[0].contains("among the most"), "{problems:?}");
    }

    #[test]
    fn what_two_namespaces_claim_neither_has_and_both_are_told() {
        let claim = |namespace: &str| {
            let identity = format!("spiffe://mesh.example/ns/{namespace}/sa/web");
            (
                namespace.to_owned(),
                read(
                    namespace,
                    names::SERVICES,
                    &service("198.19.0.77/32", &identity),
                ),
            )
        };
        let all = BTreeMap::from([claim("shop"), claim("other")]);
        for (namespace, other) in [("shop", "other"), ("other", "shop")] {
            let (proxy, problems) = Mesh::new(&all, &config()).configuration(namespace);
            assert_eq!(proxy.mesh.services.len(), 2);
            assert!(
                problems[0].contains(&format!("the namespace {other}")),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn an_exception_for_a_namespace_is_in_no_others_configuration() {
        let all = BTreeMap::new();
        for (namespace, exceptions) in [("billing", 2), ("shop", 1)] {
            let (proxy, _) = Mesh::new(&all, &config()).configuration(namespace);
            assert_eq!(proxy.exceptions.len(), exceptions, "{namespace}");
        }
    }
}
