//! What a pod knows of itself and a configuration shared by many pods does not: given as arguments,
//! which Kubernetes fills in from the pod (`$(NAME)` of a container's environment).
//!
//! [`Config::for_pod`] puts it where the configuration leaves room for it. The program calls it
//! after parsing and before checking; the injector calls it to check what it hands out.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;

use crate::config::{Config, ConfigError, KeySection};

/// Stands in a configuration for the pod's namespace.
pub const NAMESPACE: &str = "{namespace}";
/// Stands in a configuration for the pod's service account.
pub const SERVICE_ACCOUNT: &str = "{serviceAccount}";

/// What a pod knows of itself.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFacts {
    /// The pod's namespace: what {namespace} in the configuration stands for.
    #[arg(long)]
    pub namespace: Option<String>,
    /// The pod's service account: what {serviceAccount} in the configuration stands for.
    #[arg(long)]
    pub service_account: Option<String>,
    /// Addresses of the node that the pod is on: they are added to capture.node.
    #[arg(long, value_delimiter = ',')]
    pub node_addresses: Vec<IpAddr>,
    /// The name of the node that the pod is on, for evidence.
    #[arg(long)]
    pub node: Option<String>,
    /// The pod's own addresses, for identity.vaultPki.podAddresses.
    #[arg(long, value_delimiter = ',')]
    pub pod_addresses: Vec<IpAddr>,
}

impl Config {
    /// The configuration as it is for one pod.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when it asks for a fact that is not given, or is no name.
    pub fn for_pod(mut self, pod: &PodFacts) -> Result<Self, ConfigError> {
        match &mut self.key {
            KeySection::Pkcs11(section) => pod.fill("key.pkcs11.uri", &mut section.uri)?,
            KeySection::VaultTransit(section) => {
                pod.fill("key.vaultTransit.key", &mut section.key)?;
            }
            KeySection::Memory(_) => {}
        }
        if let Some(pki) = &mut self.identity.vault_pki {
            pod.fill("identity.vaultPki.spiffeId", &mut pki.spiffe_id)?;
            if pki.pod_addresses {
                if pod.pod_addresses.is_empty() {
                    return Err(ConfigError::invalid(
                        "identity.vaultPki.podAddresses",
                        "the pod's addresses are not known",
                        "give them with --pod-addresses, or list them under addresses",
                    ));
                }
                pki.addresses.extend(&pod.pod_addresses);
            }
        }
        let node = pod.node_addresses.iter().copied().map(IpNet::from);
        self.capture.node.extend(node);
        Ok(self)
    }
}

impl PodFacts {
    /// Replaces what stands for a fact by the fact.
    fn fill(&self, field: &str, text: &mut String) -> Result<(), ConfigError> {
        let facts = [
            (NAMESPACE, "--namespace", &self.namespace),
            (SERVICE_ACCOUNT, "--service-account", &self.service_account),
        ];
        for (place, option, fact) in facts {
            if !text.contains(place) {
                continue;
            }
            let Some(fact) = fact else {
                return Err(ConfigError::invalid(
                    field,
                    format!("{place} is not known"),
                    format!("give it with {option}, or write it out"),
                ));
            };
            if !is_name(fact) {
                return Err(ConfigError::invalid(
                    field,
                    format!("{fact:?}, given with {option}, is no name in Kubernetes"),
                    "use lower case letters, digits, - and .",
                ));
            }
            *text = text.replace(place, fact);
        }
        Ok(())
    }
}

/// Whether Kubernetes would take it for the name of a namespace or a service account. Nothing that
/// means something in a URI or a path can be in it.
fn is_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let outer = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.bytes().all(inner)
        && text.as_bytes().first().is_some_and(outer)
        && text.as_bytes().last().is_some_and(outer)
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = r#"
identity:
  trustDomains: [mesh.example]
  vaultPki:
    role: sealwire
    spiffeId: spiffe://mesh.example/ns/{namespace}/sa/{serviceAccount}
    podAddresses: true
key: { pkcs11: { module: /m.so, uri: "pkcs11:token={namespace};object={serviceAccount}" } }
vault:
  address: https://198.18.255.1:8200
  ca: /ca.pem
  auth: { tokenFile: { path: /token } }
"#;

    fn web() -> PodFacts {
        PodFacts {
            namespace: Some("shop".to_owned()),
            service_account: Some("web".to_owned()),
            node: None,
            node_addresses: vec!["198.18.0.1".parse().unwrap()],
            pod_addresses: vec!["198.18.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        }
    }

    fn refusal(pod: &PodFacts) -> String {
        let config = Config::parse(SHARED).unwrap();
        config.for_pod(pod).unwrap_err().to_string()
    }

    #[test]
    fn one_configuration_serves_every_pod_by_its_own_name_key_and_addresses() {
        let config = Config::parse(SHARED).unwrap().for_pod(&web()).unwrap();
        let pki = config.identity.vault_pki.as_ref().unwrap();
        assert_eq!(pki.spiffe_id, "spiffe://mesh.example/ns/shop/sa/web");
        assert_eq!(pki.addresses, web().pod_addresses);
        let KeySection::Pkcs11(key) = &config.key else {
            panic!("another kind of key");
        };
        assert_eq!(key.uri, "pkcs11:token=shop;object=web");
        assert_eq!(config.capture.node, ["198.18.0.1/32".parse().unwrap()]);
        config.settings().unwrap();
    }

    #[test]
    fn a_fact_that_is_asked_for_and_not_given_is_named_with_its_option() {
        for (pod, option) in [
            (
                PodFacts {
                    namespace: None,
                    ..web()
                },
                "--namespace",
            ),
            (
                PodFacts {
                    service_account: None,
                    ..web()
                },
                "--service-account",
            ),
            (
                PodFacts {
                    pod_addresses: Vec::new(),
                    ..web()
                },
                "--pod-addresses",
            ),
        ] {
            let said = refusal(&pod);
            assert!(said.contains(option), "{said}");
        }
    }

    #[test]
    fn what_is_no_name_gets_into_no_uri() {
        for name in [
            "",
            "a/b",
            "..",
            "a;object=b",
            "a?pin-value=1",
            "{namespace}",
            "A",
            "-a",
            "a.",
        ] {
            let said = refusal(&PodFacts {
                service_account: Some(name.to_owned()),
                ..web()
            });
            assert!(said.contains("no name in Kubernetes"), "{name}: {said}");
        }
    }

    #[test]
    fn without_room_for_facts_none_is_needed() {
        let text = SHARED
            .replace("{namespace}", "shop")
            .replace("{serviceAccount}", "web");
        let text = text.replace("podAddresses: true", "podAddresses: false");
        Config::parse(&text)
            .unwrap()
            .for_pod(&PodFacts::default())
            .unwrap();
    }
}
