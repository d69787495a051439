//! Keeps the self-made certificate: every replica serves what the Secret says; the leader alone
//! writes it, and the bundle in the webhooks' configuration. Whatever fails is tried again, and
//! nothing is served that the API server was not told of before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use metrics::{counter, gauge};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::Serving;
use super::generations::{Generations, Making};
use crate::names;

/// Who the API server is told that writes.
const MANAGER: &str = "sealwire-injector";

/// The Secret's key.
const KEY: &str = "generations";

/// Keeps the certificate.
pub struct Keeping {
    /// The cluster.
    pub client: Client,
    /// The injector's namespace.
    pub namespace: String,
    /// How certificates are made.
    pub making: Making,
    /// Whether this replica is the leader.
    pub leader: watch::Receiver<bool>,
    /// Where the certificate in force is put.
    pub serving: Arc<Serving>,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(
        "the Secret sealwire-injector-tls holds something else: {0}: delete it, and another is made"
    )]
    Secret(String),
    #[error(transparent)]
    Certificate(#[from] super::CertificateError),
}

impl Keeping {
    /// Keeps it, for ever.
    pub async fn run(self) {
        let interval =
            (self.making.settle / 3).clamp(Duration::from_millis(200), Duration::from_secs(10));
        let mut due = tokio::time::interval(interval);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leader = self.leader.clone();
        let mut served = String::new();
        let mut said = String::new();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                Ok(()) = leader.changed() => {}
            }
            let problem = match tokio::time::timeout(STEP, self.step(&mut served)).await {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server did not answer in time".to_owned(),
            };
            if !problem.is_empty() {
                counter!("sealwire_injector_certificate_failures_total").increment(1);
                if problem != said {
                    tracing::warn!(
                        problem,
                        "the serving certificate could not be looked after: it is tried again"
                    );
                }
            }
            said = problem;
        }
    }

    async fn step(&self, served: &mut String) -> Result<(), StepError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut secret = secrets.get_opt(names::CERTIFICATE_SECRET).await?;
        let mut generations = read(secret.as_ref())?;
        let leads = *self.leader.borrow();
        if leads {
            if let Some(next) = generations.tended(&self.making, OffsetDateTime::now_utc())? {
                secret = Some(write(&secrets, secret, &next).await?);
                generations = next;
                tracing::info!("the generations of the serving certificate have changed");
            }
            self.tell(&generations.bundle()).await?;
            if let Some(next) = generations.trusted(OffsetDateTime::now_utc()) {
                write(&secrets, secret, &next).await?;
                generations = next;
            }
        }
        let now = OffsetDateTime::now_utc();
        let Some(serving) = generations.serving(self.making.settle, now) else {
            return Ok(());
        };
        if *served != serving.id() {
            let (chain, key) = serving.parsed()?;
            self.serving.put(chain, key)?;
            serving.id().clone_into(served);
            tracing::info!(ends = %serving.ends(), "a serving certificate is in force");
        }
        let ends = i32::try_from(serving.ends().unix_timestamp() / 60).unwrap_or(i32::MAX);
        gauge!("sealwire_injector_certificate_not_after_seconds").set(f64::from(ends) * 60.0);
        Ok(())
    }

    /// Writes the bundle into the webhooks' configurations, where it is another.
    async fn tell(&self, bundle: &str) -> Result<(), StepError> {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let configuration = mutating.get(names::WEBHOOKS).await?;
        let webhooks = configuration.webhooks.iter().flatten();
        let others = webhooks.filter(|hook| hook.client_config.ca_bundle.as_ref() != Some(&bundle));
        if let Some(patch) = patch(others.map(|hook| hook.name.as_str()), &bundle) {
            let params = PatchParams::default();
            mutating
                .patch(names::WEBHOOKS, &params, &Patch::Strategic(patch))
                .await?;
        }
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let configuration = validating.get(names::WEBHOOKS).await?;
        let webhooks = configuration.webhooks.iter().flatten();
        let others = webhooks.filter(|hook| hook.client_config.ca_bundle.as_ref() != Some(&bundle));
        if let Some(patch) = patch(others.map(|hook| hook.name.as_str()), &bundle) {
            let params = PatchParams::default();
            validating
                .patch(names::WEBHOOKS, &params, &Patch::Strategic(patch))
                .await?;
        }
        Ok(())
    }
}

/// How long one look may take.
const STEP: Duration = Duration::from_secs(20);

fn read(secret: Option<&Secret>) -> Result<Generations, StepError> {
    let data = secret.and_then(|secret| secret.data.as_ref()?.get(KEY));
    let Some(data) = data else {
        return Ok(Generations::default());
    };
    serde_json::from_slice(&data.0).map_err(|error| StepError::Secret(error.to_string()))
}

/// Writes them, unless somebody else has written since they were read.
async fn write(
    secrets: &Api<Secret>,
    secret: Option<Secret>,
    generations: &Generations,
) -> Result<Secret, StepError> {
    let data =
        serde_json::to_vec(generations).map_err(|error| StepError::Secret(error.to_string()))?;
    let data = BTreeMap::from([(KEY.to_owned(), ByteString(data))]);
    if let Some(mut secret) = secret {
        secret.data = Some(data);
        let params = PostParams::default();
        return Ok(secrets
            .replace(names::CERTIFICATE_SECRET, &params, &secret)
            .await?);
    }
    let mut secret = Secret {
        data: Some(data),
        ..Secret::default()
    };
    secret.metadata.name = Some(names::CERTIFICATE_SECRET.to_owned());
    let (label, value) = names::MANAGED_BY;
    secret.metadata.labels = Some(BTreeMap::from([(label.to_owned(), value.to_owned())]));
    // Applied rather than created: creating could not be allowed by name.
    let params = PatchParams::apply(MANAGER);
    let patch = Patch::Apply(&secret);
    Ok(secrets
        .patch(names::CERTIFICATE_SECRET, &params, &patch)
        .await?)
}

/// What gives these webhooks the bundle; none for no webhook.
fn patch<'a>(webhooks: impl Iterator<Item = &'a str>, bundle: &ByteString) -> Option<Value> {
    let webhooks: Vec<Value> = webhooks
        .map(|name| json!({ "name": name, "clientConfig": { "caBundle": bundle } }))
        .collect();
    (!webhooks.is_empty()).then(|| json!({ "webhooks": webhooks }))
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping")
            .field("making", &self.making)
            .finish_non_exhaustive()
    }
}
