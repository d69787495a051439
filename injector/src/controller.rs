//! Writes the sidecars' configuration into every namespace with the label: the ConfigMap that the
//! injector's volumes name. A namespace that gets the label gets it at once; a pod that is there
//! before waits, and its events say for what. A change reaches running sidecars through the kubelet.
//!
//! The leader alone writes, and only what differs from what it watches. A namespace that loses the
//! label keeps the ConfigMap: its sealed pods go on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use metrics::{counter, gauge};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::InjectorConfig;
use crate::names;
use crate::rules::{Mesh, Rules};

/// Who the API server is told that writes.
const MANAGER: &str = "sealwire-injector";

/// Annotation on the ConfigMap: what is wrong with the rules that its namespace declares.
const PROBLEM: &str = "sealwire.io/problem";

/// How long changes are gathered before they are written.
const GATHERING: Duration = Duration::from_millis(200);

/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);

/// How long after a write that failed it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Writes the ConfigMaps.
#[derive(Debug)]
pub struct Controller {
    config: InjectorConfig,
    leader: watch::Receiver<bool>,
}

/// What a ConfigMap is to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its data.
    pub data: BTreeMap<String, String>,
    /// What is wrong with the rules that the namespace declares.
    pub problem: Option<String>,
}

impl Controller {
    /// One that writes while it leads.
    pub fn new(config: InjectorConfig, leader: watch::Receiver<bool>) -> Self {
        Self { config, leader }
    }

    /// Watches and writes, for ever.
    pub async fn run(mut self, client: Client) {
        let (changed, mut changes) = mpsc::channel(1);
        let selector = format!(
            "{} in ({}, {})",
            names::INJECT,
            names::ENABLED,
            names::LABELLED
        );
        let namespaces = watched::<Namespace>(
            Api::all(client.clone()),
            watcher::Config::default().labels(&selector),
            changed.clone(),
        );
        let field = format!("metadata.name={}", names::CONFIG_MAP);
        let maps = watched::<ConfigMap>(
            Api::all(client.clone()),
            watcher::Config::default().fields(&field),
            changed,
        );
        let seconds = self.config.controller.resync_seconds.max(1);
        let mut resync = tokio::time::interval(Duration::from_secs(seconds));
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            let retry = tokio::time::sleep(RETRY);
            tokio::select! {
                received = changes.recv() => if received.is_none() { return },
                _ = resync.tick() => {}
                Ok(()) = self.leader.changed() => {}
                () = retry, if failed => {}
            }
            tokio::time::sleep(GATHERING).await;
            while changes.try_recv().is_ok() {}
            if !*self.leader.borrow() {
                continue;
            }
            // Before both are known nothing can be told from what is missing.
            let known = async {
                namespaces.wait_until_ready().await.is_ok() && maps.wait_until_ready().await.is_ok()
            };
            if timeout(WRITE, known).await != Ok(true) {
                failed = true;
                continue;
            }
            failed = !self.reconcile(&client, &namespaces, &maps).await;
        }
    }

    /// Writes what differs. Whether all of it could be written.
    async fn reconcile(
        &self,
        client: &Client,
        namespaces: &Store<Namespace>,
        maps: &Store<ConfigMap>,
    ) -> bool {
        let sealed: BTreeMap<String, BTreeMap<String, String>> = namespaces
            .state()
            .iter()
            .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
            .map(|namespace| (namespace.name_any(), namespace.annotations().clone()))
            .collect();
        let wanted = match wanted(&sealed, &self.config) {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "the sidecars' configuration cannot be written");
                return false;
            }
        };
        let problems = wanted
            .values()
            .filter(|wanted| wanted.problem.is_some())
            .count();
        gauge!("sealwire_injector_namespaces_with_problems").set(count(problems));
        let mut failed = 0;
        for (namespace, wanted) in &wanted {
            let key = reflector::ObjectRef::new(names::CONFIG_MAP).within(namespace);
            if maps.get(&key).is_some_and(|there| holds(&there, wanted)) {
                continue;
            }
            let outcome = match timeout(WRITE, write(client, namespace, wanted)).await {
                Ok(Ok(())) => {
                    tracing::info!(namespace, problem = wanted.problem, "configured");
                    "ok"
                }
                Ok(Err(error)) => {
                    tracing::warn!(namespace, %error, "could not be configured: it is tried again");
                    "failed"
                }
                Err(_) => "failed",
            };
            failed += usize::from(outcome == "failed");
            counter!("sealwire_injector_configurations_total", "outcome" => outcome).increment(1);
        }
        for (state, number) in [("in-step", wanted.len() - failed), ("failed", failed)] {
            gauge!("sealwire_injector_config_maps", "state" => state).set(count(number));
        }
        failed == 0
    }
}

/// What the ConfigMaps of namespaces, given with their annotations, are to hold.
///
/// # Errors
/// When the sidecars' configuration cannot be written as YAML.
pub fn wanted(
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
    config: &InjectorConfig,
) -> Result<BTreeMap<String, Wanted>, serde_json::Error> {
    let rules: BTreeMap<String, Rules> = namespaces
        .iter()
        .map(|(name, annotations)| (name.clone(), Rules::read(name, annotations, config)))
        .collect();
    let mesh = Mesh::new(&rules, config);
    namespaces
        .keys()
        .map(|namespace| {
            let (proxy, problems) = mesh.configuration(namespace);
            // JSON is YAML, and has one way to write a thing.
            let text = serde_json::to_string_pretty(&proxy)?;
            let mut data = BTreeMap::from([(names::CONFIG_KEY.to_owned(), text)]);
            let handed_out = [
                (names::BUNDLE_KEY, &config.bundle),
                (names::VAULT_CA_KEY, &config.vault_ca),
            ];
            for (key, text) in handed_out {
                data.extend(text.clone().map(|text| (key.to_owned(), text)));
            }
            let problem = (!problems.is_empty()).then(|| problems.join("; "));
            Ok((namespace.clone(), Wanted { data, problem }))
        })
        .collect()
}

/// Keeps a copy of what is in the cluster, and tells of each change.
fn watched<K>(api: Api<K>, config: watcher::Config, changed: mpsc::Sender<()>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config).default_backoff().reflect(writer);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                // Full when a change is waiting already.
                Ok(_) => drop(changed.try_send(())),
                Err(error) => tracing::warn!(%error, "watching failed: it is tried again"),
            }
        }
    });
    store
}

/// Whether it is as it is wanted. Keys of others in it are read by nobody.
fn holds(there: &ConfigMap, wanted: &Wanted) -> bool {
    let holds = |(key, text): (&String, &String)| {
        there.data.as_ref().and_then(|data| data.get(key)) == Some(text)
    };
    wanted.data.iter().all(holds) && there.annotations().get(PROBLEM) == wanted.problem.as_ref()
}

/// Writes the ConfigMap. Applied rather than created: creating could not be allowed by name.
async fn write(client: &Client, namespace: &str, wanted: &Wanted) -> Result<(), kube::Error> {
    let (label, value) = names::MANAGED_BY;
    let annotations = wanted
        .problem
        .clone()
        .map(|problem| (PROBLEM.to_owned(), problem));
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::CONFIG_MAP.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: Some(wanted.data.clone()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    api.patch(names::CONFIG_MAP, &params, &Patch::Apply(&map))
        .await?;
    Ok(())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use sealwire_proxy::config::Config;

    use super::*;
    use crate::config::sample_pod;

    #[test]
    fn what_is_written_is_taken_by_a_sidecar_of_the_namespace() {
        let text = include_str!("config/example.yaml");
        let config = InjectorConfig::parse(text).unwrap().checked().unwrap();
        let namespaces = BTreeMap::from([("shop".to_owned(), BTreeMap::new())]);
        let wanted = wanted(&namespaces, &config).unwrap();
        let data = &wanted["shop"].data;
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            [names::CONFIG_KEY, names::VAULT_CA_KEY]
        );
        let proxy = Config::parse(&data[names::CONFIG_KEY]).unwrap();
        assert_eq!(proxy.probes.as_deref(), Some(names::PROBES_FILE.as_ref()));
        let settings = proxy
            .for_pod(&sample_pod("shop"))
            .unwrap()
            .settings()
            .unwrap();
        let id = settings.config.identity.vault_pki.unwrap().spiffe_id;
        assert_eq!(id, "spiffe://mesh.example/ns/shop/sa/default");
    }
}
